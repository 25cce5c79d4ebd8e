//! A loop of a known number of trips.

use super::batch_bodies;
use super::run::run;
use super::subgraph::{call_types, list};
use super::{Array, BatchContext, Built, Class, Data, Flow, FoldIn, Grads, Op, OpDef, Precision, Sample, VjpContext, float_positions};
use crate::graph::{Builder, Graph, InputRole, Output, OutputRole, Value, map_dims};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Shape, TensorType};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Nodes of a graph beyond which a `scan` is not unrolled.
const MAX_UNROLLED: u64 = 1 << 16;

/// `length` trips of `body(carries..., slices..., constants...) -> (carries..., slices...)`. Operands: `carries` starting values;
/// `stacked` tensors whose dimension 0 is `length`, sliced one index a trip; constants. Results: the last carries, then
/// the slices of all trips stacked along a new dimension 0. In reverse, trips go from the last index to the first. A constant that the
/// body takes as a key reaches the trip of index `i` as `fold_in(key, 0, i)`, so that trips draw different numbers.
///
/// * A loop in the program: what it takes to compile does not depend on `length`, nor does memory, but for what is stacked.
/// * Gradient: a scan the other way round over the body's gradient, from the carries that each trip began with, which the forward
///   stacks when it is to be differentiated ([`OpDef::saving`]). The body is computed again from them.
/// * JAX: `lax.scan`; PyTorch: `torch._higher_order_ops.scan`, and `map` as a scan without carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scan {
    /// Trip count.
    pub length: Dim,
    /// From the last index to the first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reverse: bool,
    /// Number of carried values.
    pub carries: u32,
    /// Number of operands sliced along dimension 0.
    pub stacked: u32,
    /// One trip.
    #[serde(skip)]
    pub body: Arc<Graph>,
}

/// Operands of a scan by kind.
pub struct Split<'a, T> {
    /// Starting values.
    pub carries: &'a [T],
    /// What is sliced.
    pub stacked: &'a [T],
    /// The same in every trip, but for keys.
    pub constants: &'a [T],
}

impl Scan {
    /// Operands by kind.
    pub fn split<'a, T>(&self, operands: &'a [T]) -> Result<Split<'a, T>, String> {
        let (carries, stacked) = (self.carries as usize, self.stacked as usize);
        if operands.len() < carries.saturating_add(stacked) {
            return Err(format!("takes at least {carries} carried and {stacked} stacked operands"));
        }
        let (carries, rest) = operands.split_at(carries);
        let (stacked, constants) = rest.split_at(stacked);
        Ok(Split { carries, stacked, constants })
    }

    /// Whether the body takes constant `k` as a key.
    fn is_key(&self, k: usize) -> bool {
        is_key(&self.body, self.carries as usize + self.stacked as usize + k)
    }

    /// The trip count as a number, with the indices of the trips in order.
    fn indices(&self) -> Result<Vec<u32>, String> {
        let length = self.length.as_int().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| format!("{} trips are no number", self.length))?;
        Ok(if self.reverse { (0..length).rev().collect() } else { (0..length).collect() })
    }

    fn unroll(&self, b: &mut Builder, operands: &[Value]) -> Built<Vec<Value>> {
        let Split { carries, stacked, constants } = self.split(operands)?;
        let indices = self.indices()?;
        let nodes = (indices.len() as u64).saturating_mul(1 + self.body.nodes.len() as u64).saturating_add(b.graph().nodes.len() as u64);
        if nodes > MAX_UNROLLED {
            return Err(format!("scan: {} trips become {nodes} nodes when they are unrolled, at most {MAX_UNROLLED} are", self.length));
        }
        let mut carried = carries.to_vec();
        let mut slices: Vec<Vec<Value>> = vec![];
        for &index in &indices {
            let mut arguments = carried;
            for &x in stacked {
                arguments.push(b.select(x, 0, index)?);
            }
            for (k, &constant) in constants.iter().enumerate() {
                arguments.push(if self.is_key(k) { fold(b, constant, index)? } else { constant });
            }
            let mut results = b.inline(&self.body, &arguments)?;
            slices.push(results.split_off(self.carries as usize));
            carried = results;
        }
        if self.reverse {
            slices.reverse();
        }
        for (k, output) in self.body.outputs[self.carries as usize..].iter().enumerate() {
            let of_trips: Vec<Value> = slices.iter().map(|s| s[k]).collect();
            carried.push(stack(b, self.body.ty(output.value), &of_trips)?);
        }
        Ok(carried)
    }

    /// For each carry the result that stacks what trips begin with; `None` where one is not stacked.
    fn saved(&self) -> Option<Vec<u32>> {
        let carries = self.carries as usize;
        let at = |k: usize| self.body.outputs[carries..].iter().position(|o| o.value == self.body.inputs[k].value);
        (0..carries).map(|k| at(k).map(|p| (carries + p) as u32)).collect()
    }

    /// The scan that stacks what its trips begin with as well.
    fn saving_carries(&self) -> Scan {
        let mut body = (*self.body).clone();
        let carried: Vec<Value> = body.inputs.iter().take(self.carries as usize).map(|i| i.value).collect();
        for (k, value) in carried.into_iter().enumerate() {
            if !body.outputs[self.carries as usize..].iter().any(|o| o.value == value) {
                let name = (k..).map(|n| format!("carry.{n}")).find(|n| body.output(n).is_none()).unwrap_or_default();
                body.outputs.push(Output { name, role: OutputRole::User, value });
            }
        }
        Scan { body: Arc::new(body), ..self.clone() }
    }

    /// What each trip began with, stacked: results of the forward, or of a scan that computes them again.
    fn stacked_carries(&self, cx: &mut VjpContext<'_>) -> Built<Vec<Value>> {
        if let Some(saved) = self.saved() {
            return Ok(saved.into_iter().map(|k| cx.results[k as usize]).collect());
        }
        let again = self.saving_carries();
        let results = cx.b.node(again.clone(), cx.operands)?;
        Ok(again.saved().unwrap_or_default().into_iter().map(|k| results[k as usize]).collect())
    }

    fn gradients(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let saved = self.stacked_carries(cx)?;
        let of_body = (cx.pull_back)(&self.body)?;
        let back = Backward::new(self, cx);
        let body = back.body(&of_body, &cx.b.provenance)?;
        let operands = back.operands(cx, &saved)?;
        let scan = Scan {
            length: self.length.clone(),
            reverse: !self.reverse,
            carries: (back.carried.len() + back.summed.len()) as u32,
            stacked: (self.carries as usize + self.stacked as usize + back.sloped.len()) as u32,
            body: Arc::new(body),
        };
        let results = cx.b.node(scan, &operands)?;
        let mut out = vec![None; cx.operands.len()];
        let of = back.carried.iter().chain(&back.summed).chain(&back.sliced);
        of.zip(results).filter(|(k, _)| cx.wanted[**k]).for_each(|(&k, g)| out[k] = Some(g));
        Ok(out)
    }
}

/// The parts of a scan's gradient, each by the numbers of the forward's operands (or of its body's outputs).
struct Backward<'a> {
    scan: &'a Scan,
    /// Carries that are floats: their cotangents are carried.
    carried: Vec<usize>,
    /// Constants with a gradient: it is summed over the trips.
    summed: Vec<usize>,
    /// Stacked operands with a gradient: it is stacked.
    sliced: Vec<usize>,
    /// Stacked results whose cotangent is there: it is sliced.
    sloped: Vec<usize>,
}

impl<'a> Backward<'a> {
    fn new(scan: &'a Scan, cx: &VjpContext<'_>) -> Backward<'a> {
        let (carries, stacked) = (scan.carries as usize, scan.stacked as usize);
        let floats = float_positions(&scan.body);
        let of = |range: std::ops::Range<usize>| -> Vec<usize> { floats.iter().copied().filter(|k| range.contains(k)).collect() };
        let wanted = |range| of(range).into_iter().filter(|k| cx.wanted[*k]).collect();
        let sliced = wanted(carries..carries + stacked);
        let summed = wanted(carries + stacked..scan.body.inputs.len());
        let sloped = (carries..scan.body.outputs.len()).filter(|&k| cx.cotangents[k].is_some()).collect();
        Backward { carried: of(0..carries), summed, sliced, sloped, scan }
    }

    fn input_ty(&self, k: usize) -> TensorType {
        self.scan.body.ty(self.scan.body.inputs[k].value).clone()
    }

    /// One trip: cotangents of the carries and sums so far, then what the trip began with, its slices and cotangents, then constants.
    fn body(&self, of_body: &Graph, provenance: &crate::types::Provenance) -> Built<Graph> {
        let forward = &self.scan.body;
        let first_constant = self.scan.carries as usize + self.scan.stacked as usize;
        let mut b = Builder::new(&format!("{}.backward", forward.name));
        b.provenance = provenance.clone();
        let input = |b: &mut Builder, name: String, k: usize| b.input(&name, forward.inputs[k].role.clone(), self.input_ty(k));
        let carried = self.carried.iter().map(|&k| input(&mut b, format!("cotangent.{k}"), k)).collect::<Built<Vec<Value>>>()?;
        let sums = self.summed.iter().map(|&k| input(&mut b, format!("sum.{k}"), k)).collect::<Built<Vec<Value>>>()?;
        let mut arguments = (0..first_constant).map(|k| input(&mut b, format!("operand.{k}"), k)).collect::<Built<Vec<Value>>>()?;
        let output_ty = |k: usize| forward.ty(forward.outputs[k].value).clone();
        let slopes: Vec<Value> = self.sloped.iter().map(|&k| b.input(&format!("slope.{k}"), InputRole::Input, output_ty(k))).collect::<Built<_>>()?;
        for k in first_constant..forward.inputs.len() {
            arguments.push(b.input(&format!("operand.{k}"), forward.inputs[k].role.clone(), self.input_ty(k))?);
        }
        for k in (0..forward.outputs.len()).filter(|&k| output_ty(k).dtype.is_float()) {
            let known = self.carried.iter().zip(&carried).chain(self.sloped.iter().zip(&slopes)).find(|(at, _)| **at == k);
            arguments.push(match known {
                Some((_, &v)) => v,
                None => b.full(output_ty(k).dtype, 0.0, output_ty(k).shape)?,
            });
        }
        let gradients: Vec<(usize, Value)> = float_positions(forward).into_iter().zip(b.inline(of_body, &arguments)?).collect();
        let gradient = |k: usize| gradients.iter().find(|(at, _)| *at == k).map(|(_, g)| *g).ok_or("a float has no gradient");
        for &k in &self.carried {
            b.output(&format!("cotangent.{k}"), OutputRole::User, gradient(k)?);
        }
        for (&k, &sum) in self.summed.iter().zip(&sums) {
            let sum = b.add(sum, gradient(k)?)?;
            b.output(&format!("sum.{k}"), OutputRole::User, sum);
        }
        for &k in &self.sliced {
            b.output(&format!("gradient.{k}"), OutputRole::User, gradient(k)?);
        }
        Ok(b.finish())
    }

    fn operands(&self, cx: &mut VjpContext<'_>, saved: &[Value]) -> Built<Vec<Value>> {
        let mut out = vec![];
        for &k in &self.carried {
            out.push(cx.cotangent_or_zeros(k)?);
        }
        for &k in &self.summed {
            let ty = self.input_ty(k);
            out.push(cx.b.full(ty.dtype, 0.0, ty.shape)?);
        }
        out.extend(saved);
        let Split { stacked, constants, .. } = self.scan.split(cx.operands)?;
        out.extend(stacked);
        out.extend(self.sloped.iter().filter_map(|&k| cx.cotangents[k]));
        out.extend(constants);
        Ok(out)
    }
}

impl OpDef for Scan {
    fn name(&self) -> &'static str {
        "scan"
    }
    fn class(&self) -> Class {
        Class::Subgraph
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let Split { carries, stacked, constants } = self.split(operands)?;
        if let Some(n) = self.length.as_int().filter(|n| i32::try_from(*n).is_err() || *n < 0) {
            return Err(format!("{n} trips are more than a loop counts, or less than none"));
        }
        let mut arguments = carries.to_vec();
        for ty in stacked {
            match ty.shape.0.split_first() {
                Some((n, rest)) if *n == self.length => arguments.push(TensorType { dtype: ty.dtype, shape: Shape::new(rest.to_vec()) }),
                _ => return Err(format!("{ty} does not have {} slices along dimension 0", self.length)),
            }
        }
        arguments.extend_from_slice(constants);
        let mut results = call_types("body", &self.body, &arguments)?;
        if results.len() < carries.len() || results[..carries.len()] != *carries {
            return Err(format!("the body gives {}, which does not begin with the carried {}", list(&results), list(carries)));
        }
        for ty in &mut results[carries.len()..] {
            ty.shape.0.insert(0, self.length.clone());
        }
        Ok(results)
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let Ok(Split { stacked, .. }) = self.split(operands) else { return vec![] };
        stacked.iter().filter_map(|ty| Some((ty.shape.0.first()?.clone(), self.length.clone()))).collect()
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let Split { carries, stacked, constants } = self.split(operands)?;
        let mut carried = carries.to_vec();
        let mut slices: Vec<Vec<Array>> = vec![vec![]; types.len() - carries.len()];
        for index in self.indices()? {
            let mut arguments = carried;
            arguments.extend(stacked.iter().map(|x| {
                let size = x.shape[1..].iter().product::<usize>();
                x.gather(x.shape[1..].to_vec(), index as usize * size..(index as usize + 1) * size)
            }));
            for (k, constant) in constants.iter().enumerate() {
                arguments.push(if self.is_key(k) { folded(constant, index, precision)? } else { constant.clone() });
            }
            let mut out = run(&self.body, &arguments, precision)?;
            slices.iter_mut().zip(out.split_off(carries.len())).for_each(|(all, slice)| all.push(slice));
            carried = out;
        }
        for (mut slices, ty) in slices.into_iter().zip(&types[carries.len()..]) {
            if self.reverse {
                slices.reverse();
            }
            carried.push(concatenated(slices, ty));
        }
        Ok(carried)
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        self.gradients(cx)
    }
    fn saving(&self) -> Option<Op> {
        self.saved().is_none().then(|| self.saving_carries().into())
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        Some(self.unroll(b, operands))
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        batch_bodies::scan(cx, self)
    }
    fn flow(&self) -> Option<Flow> {
        Some(Flow::Scan(self.clone()))
    }
    fn subgraphs(&self) -> Vec<Arc<Graph>> {
        vec![self.body.clone()]
    }
    fn set_subgraphs(&mut self, graphs: Vec<Arc<Graph>>) {
        if let [body] = &graphs[..] {
            self.body = body.clone();
        }
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.length = f(&self.length);
        self.body = Arc::new(map_dims(&self.body, f));
    }
    fn samples(&self) -> Vec<Sample> {
        let ty = TensorType::new(DType::F32, (4,));
        let mut b = Builder::new("trip");
        let mut build = || {
            let (carry, x) = (b.input("carry", InputRole::Input, ty.clone())?, b.input("x", InputRole::Input, ty.clone())?);
            let k = b.input("k", InputRole::Input, ty.clone())?;
            let (sum, product) = (b.add(carry, x)?, b.mul(carry, k)?);
            let next = b.scalar(ScalarFn::Tanh, &[sum])?;
            b.output("carry", OutputRole::User, next);
            b.output("y", OutputRole::User, product);
            Ok::<_, String>(())
        };
        build().expect("the sample is well typed");
        let body = Arc::new(b.finish());
        let of = |length: u32, reverse: bool| {
            let operands = vec![ty.clone(), TensorType::new(DType::F32, (length, 4)), ty.clone()];
            Sample::new(Scan { length: length.into(), reverse, carries: 1, stacked: 1, body: body.clone() }, operands)
        };
        vec![of(3, false), of(4, true), of(1, false), of(0, false), random_walk()]
    }
}

/// Whether a body takes input `k` as a key.
pub(super) fn is_key(body: &Graph, k: usize) -> bool {
    body.inputs.get(k).is_some_and(|i| i.role == InputRole::Key)
}

/// The key of a trip, or the keys of a batch.
pub(super) fn folded(key: &Array, index: u32, precision: Precision) -> Result<Array, String> {
    let lead = key.shape[..key.shape.len() - 1].to_vec();
    let count = lead.iter().product();
    let index = Array::int(DType::I32, lead, vec![index as i64; count]);
    Ok(FoldIn { stream: 0 }.eval(&[key.clone(), index], &[], precision)?.remove(0))
}

/// The same in a graph.
fn fold(b: &mut Builder, key: Value, index: u32) -> Built {
    let lead = Shape::new(b.shape(key).0[..b.shape(key).rank() - 1].to_vec());
    let index = b.full(DType::I32, index as f64, lead)?;
    b.op(FoldIn { stream: 0 }, &[key, index])
}

/// Slices as one tensor.
fn concatenated(slices: Vec<Array>, ty: &TensorType) -> Array {
    let data = match ty.dtype.is_float() {
        true => Data::Float(slices.iter().flat_map(|s| s.floats()).collect()),
        false => Data::Int(slices.iter().flat_map(|s| s.ints()).collect()),
    };
    Array { dtype: ty.dtype, shape: super::array::sizes(ty), data }
}

/// The slices of all trips, stacked along a new dimension 0.
fn stack(b: &mut Builder, ty: &TensorType, slices: &[Value]) -> Built {
    if !slices.is_empty() {
        return b.stack(slices, 0);
    }
    let mut shape = ty.shape.clone();
    shape.0.insert(0, Dim::int(0));
    b.full(ty.dtype, 0.0, shape)
}

/// A scan whose trips draw numbers from one key.
fn random_walk() -> Sample {
    let (ty, key) = (TensorType::new(DType::F32, (4,)), TensorType::new(DType::U32, (2,)));
    let mut b = Builder::new("walk");
    let mut build = || {
        let (x, k) = (b.input("x", InputRole::Input, ty.clone())?, b.input("key", InputRole::Key, key.clone())?);
        let noise = b.uniform(k, &ty.shape)?;
        let next = b.mul(x, noise)?;
        b.output("x", OutputRole::User, next);
        b.output("noise", OutputRole::User, noise);
        Ok::<_, String>(())
    };
    build().expect("the sample is well typed");
    Sample::new(Scan { length: 3.into(), reverse: false, carries: 1, stacked: 0, body: Arc::new(b.finish()) }, vec![ty, key])
}
