//! Batches of a program's inputs, from safetensors files.

use crate::common::{random, uniform};
use anyhow::{Context, Result, bail, ensure};
use inductor::graph::{Graph, InputRole};
use inductor::runtime::load_tensors;
use inductor::types::{Bindings, TensorType};
use inductor::{Dim, HostTensor};
use std::path::PathBuf;

/// Examples of a batch where the program leaves it open.
const OPEN_BATCH: i64 = 32;

/// How batches are taken.
pub struct Plan {
    /// Of the order, and of random batches.
    pub seed: u64,
    /// Examples of a batch where the program leaves it open.
    pub batch: Option<usize>,
    /// The order of the files in every epoch.
    pub in_order: bool,
    /// Inputs that are not taken in batches.
    pub whole: Vec<String>,
}

/// An input of the program.
struct Input {
    name: String,
    ty: TensorType,
    /// Whether its first dimension counts examples.
    is_sliced: bool,
    tensor: HostTensor,
}

/// All data.
pub struct Batches {
    inputs: Vec<Input>,
    size: usize,
    examples: usize,
    plan: Plan,
    is_random: bool,
}

impl Batches {
    /// Reads the files and checks them against the program's inputs; without files, one random batch.
    pub fn new(graph: &Graph, files: &[PathBuf], plan: Plan) -> Result<Batches> {
        let types: Vec<(String, TensorType)> =
            graph.inputs.iter().filter(|i| i.role == InputRole::Input).map(|i| (i.name.clone(), graph.ty(i.value).clone())).collect();
        for name in &plan.whole {
            ensure!(types.iter().any(|(n, _)| n == name), "--whole {name}: the program takes ({})", signature(&types));
        }
        let is_candidate = |(name, ty): &&(String, TensorType)| ty.shape.rank() > 0 && !plan.whole.contains(name);
        // What the first input with dimensions counts first is examples; inputs that count the same have as many.
        let lead = types.iter().find(is_candidate).map(|(_, ty)| ty.shape[0].clone());
        let size = batch_size(lead.as_ref(), plan.batch)?;
        let is_sliced = |t: &(String, TensorType)| is_candidate(&t) && Some(&t.1.shape[0]) == lead.as_ref();
        let is_random = files.is_empty();
        let tensors = if is_random { random_batch(&types, size, plan.seed)? } else { read(files, &types)? };
        let inputs: Vec<Input> =
            types.iter().zip(tensors).map(|(t, tensor)| Input { name: t.0.clone(), ty: t.1.clone(), is_sliced: is_sliced(t), tensor }).collect();
        let examples = count_examples(&inputs, size)?;
        Ok(Batches { inputs, size, examples, plan, is_random })
    }

    /// Examples of a batch.
    pub fn size(&self) -> usize {
        self.size
    }

    /// One line about the data.
    pub fn describe(&self) -> String {
        if self.is_random {
            return format!("data: one random batch of {}, over and over (--data FILE trains on yours)", self.size);
        }
        let left = self.examples % self.size;
        let rest = if left > 0 { format!("; the last {left} of an epoch are left out") } else { String::new() };
        format!("data: {} examples in batches of {}{rest}", self.examples, self.size)
    }

    /// The inputs of a step, counted from 0.
    pub fn get(&self, step: u64) -> Result<Vec<(String, HostTensor)>> {
        let per_epoch = (self.examples / self.size).max(1) as u64;
        let (epoch, at) = (step / per_epoch, (step % per_epoch) as usize * self.size);
        let rows: Vec<usize> = if self.plan.in_order || self.is_random {
            (at..at + self.size).collect()
        } else {
            shuffled(self.examples, self.plan.seed.wrapping_add(epoch << 20)).split_off(at).into_iter().take(self.size).collect()
        };
        let take = |input: &Input| Ok((input.name.clone(), if input.is_sliced { take_rows(&input.tensor, &rows)? } else { input.tensor.clone() }));
        self.inputs.iter().map(take).collect()
    }
}

fn signature(types: &[(String, TensorType)]) -> String {
    types.iter().map(|(name, ty)| format!("{name}: {ty}")).collect::<Vec<_>>().join(", ")
}

/// The exported size, or the one asked for within the range that was declared.
fn batch_size(lead: Option<&Dim>, wanted: Option<usize>) -> Result<usize> {
    let Some(lead) = lead else { return Ok(1) };
    let (low, high) = lead.range();
    let size = wanted.map_or(OPEN_BATCH.clamp(low.max(1), high.max(1)), |n| n as i64);
    ensure!(size >= 1 && (low..=high).contains(&size), "--batch {size}: the program takes {lead} examples, {low} to {high}");
    Ok(size as usize)
}

/// Tensors of all inputs, from all files.
fn read(files: &[PathBuf], types: &[(String, TensorType)]) -> Result<Vec<HostTensor>> {
    let mut slots: Vec<Vec<HostTensor>> = vec![vec![]; types.len()];
    for file in files {
        for (name, tensor) in load_tensors(file)?.0 {
            let by_name = types.iter().position(|(n, _)| *n == name);
            let by_order = || name.strip_prefix("input.").and_then(|n| n.parse().ok()).filter(|&n: &usize| n < types.len());
            let Some(at) = by_name.or_else(by_order) else {
                bail!("{}: the program has no input {name}; it takes ({})", file.display(), signature(types));
            };
            check(&types[at], &tensor).with_context(|| file.display().to_string())?;
            slots[at].push(tensor);
        }
    }
    let joined = types.iter().zip(slots).map(|((name, _), parts)| {
        ensure!(!parts.is_empty(), "there is no data for input {name}; the program takes ({})", signature(types));
        join(parts).with_context(|| name.clone())
    });
    joined.collect()
}

/// Dtype, rank and all sizes but the first must fit. Symbols are bound when the step runs.
fn check((name, ty): &(String, TensorType), tensor: &HostTensor) -> Result<()> {
    let rest = |at: usize, n: usize| at == 0 || ty.shape[at].as_int().is_none_or(|d| d == n as i64);
    let fits = ty.dtype == tensor.dtype() && ty.shape.rank() == tensor.shape().len();
    let fits = fits && tensor.shape().iter().enumerate().all(|(at, &n)| rest(at, n));
    ensure!(fits, "{name}: expected {ty} with any number of examples, got {}{:?}", tensor.dtype(), tensor.shape());
    Ok(())
}

/// Parts one after the other along the first dimension.
fn join(mut parts: Vec<HostTensor>) -> Result<HostTensor> {
    if parts.len() == 1 {
        return Ok(parts.remove(0));
    }
    let tail = parts[0].shape().get(1..).context("a 0-d tensor is in several files")?.to_vec();
    ensure!(parts.iter().all(|p| p.shape()[1..] == tail), "its parts in several files have different sizes");
    let shape = [vec![parts.iter().map(|p| p.shape()[0]).sum()], tail].concat();
    let bytes = parts.iter().flat_map(|p| p.bytes()).copied().collect();
    HostTensor::from_bytes(parts[0].dtype(), shape, bytes).map_err(anyhow::Error::msg)
}

fn count_examples(inputs: &[Input], size: usize) -> Result<usize> {
    let mut sliced = inputs.iter().filter(|i| i.is_sliced).map(|i| (&i.name, i.tensor.shape()[0]));
    let Some((first, examples)) = sliced.next() else { return Ok(size) };
    if let Some((name, n)) = sliced.find(|(_, n)| *n != examples) {
        bail!("{first} has {examples} examples, {name} has {n}; name inputs that are the same at every step with --whole");
    }
    ensure!(examples >= size, "a batch takes {size} examples, and there are only {examples}");
    for input in inputs.iter().filter(|i| !i.is_sliced) {
        let fits = input.ty.shape.0.iter().zip(input.tensor.shape()).all(|(d, &n)| d.as_int().is_none_or(|d| d == n as i64));
        ensure!(fits, "{}: expected {}, got {}{:?}", input.name, input.ty, input.tensor.dtype(), input.tensor.shape());
    }
    Ok(examples)
}

/// Rows of the first dimension.
fn take_rows(tensor: &HostTensor, rows: &[usize]) -> Result<HostTensor> {
    let width = tensor.bytes().len() / tensor.shape()[0].max(1);
    let bytes = rows.iter().flat_map(|&r| &tensor.bytes()[r * width..(r + 1) * width]).copied().collect();
    let shape = [&[rows.len()], &tensor.shape()[1..]].concat();
    HostTensor::from_bytes(tensor.dtype(), shape, bytes).map_err(anyhow::Error::msg)
}

/// Floats within -1 and 1, integers and bools 0 or 1: in range as indices and labels of whatever has two of them.
fn random_batch(types: &[(String, TensorType)], size: usize, seed: u64) -> Result<Vec<HostTensor>> {
    let mut symbols = Bindings::new();
    let mut out = vec![];
    for (k, (name, ty)) in types.iter().enumerate() {
        for (at, dim) in ty.shape.0.iter().enumerate() {
            let (low, high) = dim.range();
            let open = if at == 0 { size as i64 } else { 8.clamp(low.max(1), high.max(1)) };
            if dim.as_int().is_none() && dim.eval(&symbols).is_err() {
                symbols.insert(dim.to_string(), open);
            }
        }
        let size_of = |d: &Dim| d.eval(&symbols).map(|n| n as usize).map_err(|_| anyhow::anyhow!("{name}: give data for its size {d} with --data"));
        let shape: Vec<usize> = ty.shape.0.iter().map(size_of).collect::<Result<_>>()?;
        let numel: usize = shape.iter().product();
        let draw = |i: u64| if ty.dtype.is_float() { 2.0 * uniform(seed, i) - 1.0 } else { (random(seed, i) & 1) as f64 };
        let values: Vec<f64> = (0..numel as u64).map(|i| draw(i + ((k as u64) << 40))).collect();
        out.push(HostTensor::from_f64(ty.dtype, &shape, &values));
    }
    Ok(out)
}

/// The numbers below `n` in an order that `seed` decides (Fisher and Yates).
fn shuffled(n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, (random(seed, i as u64) % (i as u64 + 1)) as usize);
    }
    order
}
