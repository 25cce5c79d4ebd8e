//! Losses.

use super::array::sizes;
use super::composite::{count, eval_decomposed, largest, unsqueeze_last, widen};
use super::softmax::{exponentials, shifted};
use super::{Array, BatchContext, Built, CheckIndex, Class, Grads, OpDef, Precision, ReduceKind, Sample, VjpContext};
use crate::graph::{Builder, Value};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Shape, TensorType, paired};
use serde::{Deserialize, Serialize};

/// How the losses of elements become the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Their mean.
    #[default]
    Mean,
    /// Their sum.
    Sum,
    /// One for each.
    None,
}

/// `loss[n...] = log(sum over c of exp(x[n..., c])) - x[n..., label[n...]]`: the negative log-likelihood of the labels under the
/// softmax of the logits, reduced.
///
/// * Operands `x[n..., classes]`, a float, and `label[n...]`, an integer. The classes are the last dimension.
/// * Labels equal to `ignore_index` give no loss and are not counted by the mean. Any other label outside `0..classes` is an
///   error: of the evaluation, or through the status word on a device.
/// * Gradient: `(softmax(x) - onehot(label)) * g`, divided by the count for the mean, zero where ignored.
/// * Numerics: the maximum is subtracted first; half floats are computed in f32. The mean of nothing is NaN, its gradient
///   zero, as in PyTorch.
/// * PyTorch: classes are dimension 1 there; no class weights, no label smoothing, no probabilities as labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CrossEntropy {
    /// The label without a loss, if any; PyTorch's default is -100.
    pub ignore_index: Option<i64>,
    /// What becomes of the losses.
    pub reduction: Reduction,
}

/// `loss = (x - y)^2`, reduced.
///
/// * Two float operands of one type; nothing broadcasts. Half floats are computed in f32.
/// * Gradient: `2 * (x - y) * g`, divided by the count for the mean, and its negative.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mse {
    /// What becomes of the losses.
    pub reduction: Reduction,
}

impl CrossEntropy {
    /// The label in i32, where the loss counts as a bool (`None` when all do).
    fn valid(&self, b: &mut Builder, label: Value) -> Built<Option<Value>> {
        let Some(ignored) = self.ignore_index else { return Ok(None) };
        let ignored = b.constant(b.dtype(label), ignored as f64)?;
        Ok(Some(b.scalar(ScalarFn::Ne, &[label, ignored])?))
    }

    /// Number of losses that count.
    fn count(&self, b: &mut Builder, label: Value, valid: Option<Value>, dtype: DType) -> Built {
        let shape = b.shape(label).clone();
        match valid {
            None => b.size(&shape.numel(), dtype),
            Some(valid) => {
                let ones = b.cast(valid, dtype)?;
                let dims: Vec<usize> = (0..shape.rank()).collect();
                b.reduce(ReduceKind::Sum, ones, &dims, false)
            }
        }
    }
}

/// Whether the class of an element is the row's label.
fn hits(b: &mut Builder, label: Value, classes: &Shape) -> Built {
    let class = b.iota(DType::I32, classes.clone(), classes.rank() - 1)?;
    let label = unsqueeze_last(b, label)?;
    b.scalar(ScalarFn::Eq, &[class, label])
}

fn sum_all(b: &mut Builder, x: Value) -> Built {
    let dims: Vec<usize> = (0..b.shape(x).rank()).collect();
    b.reduce(ReduceKind::Sum, x, &dims, false)
}

/// The sum over all dimensions but the examples'.
fn sum_of_each(b: &mut Builder, x: Value) -> Built {
    let dims: Vec<usize> = (1..b.shape(x).rank()).collect();
    if dims.is_empty() { Ok(x) } else { b.reduce(ReduceKind::Sum, x, &dims, false) }
}

/// Losses of each example, reduced; `n` of them count.
fn reduce_each(b: &mut Builder, losses: Value, reduction: Reduction, n: Value) -> Built {
    match reduction {
        Reduction::None => Ok(losses),
        Reduction::Sum => sum_of_each(b, losses),
        Reduction::Mean => {
            let sum = sum_of_each(b, losses)?;
            b.div(sum, n)
        }
    }
}

fn reduced(shape: &[Dim], reduction: Reduction) -> Shape {
    if reduction == Reduction::None { Shape::new(shape.to_vec()) } else { Shape::scalar() }
}

impl OpDef for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }
    fn class(&self) -> Class {
        Class::Composite
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, label] = operands else { return Err("takes logits and labels".into()) };
        if !x.dtype.is_float() || !label.dtype.is_int() {
            return Err("takes float logits and integer labels".into());
        }
        let Some((classes, lead)) = x.shape.0.split_last() else { return Err("logits have no class dimension".into()) };
        if !Shape::new(lead.to_vec()).known_eq(&label.shape) || classes.is(0) {
            return Err("labels must have the logits' shape without its last dimension, which is not empty".into());
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: reduced(lead, self.reduction) }])
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let [x, label] = operands else { return vec![] };
        let lead = x.shape.0.split_last().map_or(&[][..], |(_, lead)| lead);
        if lead.len() == label.shape.rank() { paired(lead, &label.shape.0) } else { vec![] }
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        if precision == Precision::Working {
            return eval_decomposed(self, operands, precision);
        }
        let (x, labels) = (operands[0].floats(), operands[1].ints());
        let classes = *operands[0].shape.last().expect("rank is checked");
        let mut losses = vec![0.0; labels.len()];
        let mut counted = 0.0;
        for (n, &label) in labels.iter().enumerate() {
            if self.ignore_index == Some(label) {
                continue;
            }
            if !(0..classes as i64).contains(&label) {
                return Err(format!("label {label} is outside 0..{classes}"));
            }
            let row = &x[n * classes..(n + 1) * classes];
            let max = largest(row.iter().copied());
            losses[n] = row.iter().map(|v| (v - max).exp()).sum::<f64>().ln() - (row[label as usize] - max);
            counted += 1.0;
        }
        let data = match self.reduction {
            Reduction::None => losses,
            Reduction::Sum => vec![losses.iter().sum()],
            Reduction::Mean => vec![losses.iter().sum::<f64>() / counted],
        };
        Ok(vec![Array::float(operands[0].dtype, sizes(&types[0]), data)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x, label) = (cx.cotangents[0], cx.operands[0], cx.operands[1]) else { return Ok(vec![None; 2]) };
        let b = &mut *cx.b;
        let (dtype, shape) = (b.dtype(x), b.shape(x).clone());
        let last = shape.rank() - 1;
        let s = shifted(b, x, last)?;
        let (_, sum) = exponentials(b, s, last)?;
        let log = b.scalar(ScalarFn::Log, &[sum])?;
        let log_p = b.sub(s, log)?;
        let p = b.scalar(ScalarFn::Exp, &[log_p])?;
        // The forward has checked the labels.
        let narrow = b.cast(label, DType::I32)?;
        let hit = hits(b, narrow, &shape)?;
        let one = b.constant(b.dtype(p), 1.0)?;
        let less = b.sub(p, one)?;
        let difference = b.where_(hit, less, p)?;
        let valid = self.valid(b, label)?;
        let mut factor = widen(b, g)?;
        if self.reduction == Reduction::Mean {
            let n = self.count(b, label, valid, b.dtype(factor))?;
            factor = b.div(factor, n)?;
        }
        if let Some(valid) = valid {
            let zero = b.constant(b.dtype(factor), 0.0)?;
            factor = b.where_(valid, factor, zero)?;
        }
        let factor = b.broadcast_to(factor, &Shape::new(shape.0[..last].to_vec()))?;
        let factor = unsqueeze_last(b, factor)?;
        let dx = b.mul(difference, factor)?;
        Ok(vec![Some(b.cast(dx, dtype)?), None])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        let lead = cx.example(1).shape;
        let (x, label) = (cx.each(0)?, cx.each(1)?);
        let wide = widen(cx.b, x)?;
        let losses = cx.b.op(CrossEntropy { reduction: Reduction::None, ..self.clone() }, &[wide, label])?;
        let valid = if self.reduction == Reduction::Mean { self.valid(cx.b, label)? } else { None };
        let n = match valid {
            Some(valid) => {
                let ones = cx.b.cast(valid, cx.b.dtype(losses))?;
                sum_of_each(cx.b, ones)?
            }
            None => cx.b.size(&lead.numel(), cx.b.dtype(losses))?,
        };
        let loss = reduce_each(cx.b, losses, self.reduction, n)?;
        Ok(vec![cx.b.cast(loss, cx.b.dtype(x))?])
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        let mut build = || {
            let (x, label) = (operands[0], operands[1]);
            let shape = b.shape(x).clone();
            let last = shape.rank() - 1;
            let check = CheckIndex { size: shape[last].clone(), ignore: self.ignore_index, subject: "cross_entropy: label".into() };
            let checked = b.op(check, &[label])?;
            let s = shifted(b, x, last)?;
            let (_, sum) = exponentials(b, s, last)?;
            let log = b.scalar(ScalarFn::Log, &[sum])?;
            let hit = hits(b, checked, &shape)?;
            let zero = b.constant(b.dtype(s), 0.0)?;
            let picked = b.where_(hit, s, zero)?;
            let picked = b.reduce(ReduceKind::Sum, picked, &[last], true)?;
            let loss = b.sub(log, picked)?;
            let mut loss = b.squeeze(loss, last)?;
            let valid = self.valid(b, label)?;
            if let Some(valid) = valid {
                loss = b.where_(valid, loss, zero)?;
            }
            if self.reduction != Reduction::None {
                loss = sum_all(b, loss)?;
            }
            if self.reduction == Reduction::Mean {
                let n = self.count(b, label, valid, b.dtype(loss))?;
                loss = b.div(loss, n)?;
            }
            Ok(vec![b.cast(loss, b.dtype(x))?])
        };
        Some(build())
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, label: DType, shape: &[i64], ignore_index: Option<i64>, reduction: Reduction| {
            let operands = vec![TensorType::new(dtype, shape), TensorType::new(label, &shape[..shape.len() - 1])];
            Sample::new(CrossEntropy { ignore_index, reduction }, operands).index_below(shape[shape.len() - 1])
        };
        vec![
            of(DType::F32, DType::I32, &[5, 7], None, Reduction::Mean),
            of(DType::F32, DType::I64, &[2, 3, 5], Some(1), Reduction::Mean),
            of(DType::F32, DType::I32, &[3, 5], Some(-100), Reduction::Sum),
            of(DType::F32, DType::I32, &[5, 3], Some(0), Reduction::None),
            of(DType::F32, DType::I64, &[7], None, Reduction::Mean),
            of(DType::F16, DType::I32, &[3, 5], None, Reduction::Mean),
        ]
    }
}

impl OpDef for Mse {
    fn name(&self) -> &'static str {
        "mse_loss"
    }
    fn class(&self) -> Class {
        Class::Composite
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, y] = operands else { return Err("takes two operands".into()) };
        if x.dtype != y.dtype || !x.shape.known_eq(&y.shape) || !x.dtype.is_float() {
            return Err("operands are not floats of one type".into());
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: reduced(&x.shape.0, self.reduction) }])
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let [x, y] = operands else { return vec![] };
        if x.shape.rank() == y.shape.rank() { paired(&x.shape.0, &y.shape.0) } else { vec![] }
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        if precision == Precision::Working {
            return eval_decomposed(self, operands, precision);
        }
        let losses: Vec<f64> = operands[0].floats().iter().zip(operands[1].floats()).map(|(x, y)| (x - y).powi(2)).collect();
        let data = match self.reduction {
            Reduction::Mean => vec![losses.iter().sum::<f64>() / losses.len() as f64],
            Reduction::Sum => vec![losses.iter().sum()],
            Reduction::None => losses,
        };
        Ok(vec![Array::float(operands[0].dtype, sizes(&types[0]), data)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x, y) = (cx.cotangents[0], cx.operands[0], cx.operands[1]) else { return Ok(vec![None; 2]) };
        let b = &mut *cx.b;
        let dtype = b.dtype(x);
        let mut factor = widen(b, g)?;
        factor = b.scale(factor, 2.0)?;
        if self.reduction == Reduction::Mean {
            let dims: Vec<usize> = (0..b.shape(x).rank()).collect();
            let n = b.size(&count(b.shape(x), &dims), b.dtype(factor))?;
            factor = b.div(factor, n)?;
        }
        let (x, y) = (widen(b, x)?, widen(b, y)?);
        let difference = b.sub(x, y)?;
        let dx = b.mul(difference, factor)?;
        let dx = b.cast(dx, dtype)?;
        Ok(vec![Some(dx), Some(b.neg(dx)?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        let numel = cx.example(0).shape.numel();
        let (x, y) = (cx.each(0)?, cx.each(1)?);
        let dtype = cx.b.dtype(x);
        let (x, y) = (widen(cx.b, x)?, widen(cx.b, y)?);
        let losses = cx.b.op(Mse { reduction: Reduction::None }, &[x, y])?;
        let n = cx.b.size(&numel, cx.b.dtype(losses))?;
        let loss = reduce_each(cx.b, losses, self.reduction, n)?;
        Ok(vec![cx.b.cast(loss, dtype)?])
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        let mut build = || {
            let (x, y) = (widen(b, operands[0])?, widen(b, operands[1])?);
            let difference = b.sub(x, y)?;
            let mut loss = b.mul(difference, difference)?;
            if self.reduction != Reduction::None {
                loss = sum_all(b, loss)?;
            }
            if self.reduction == Reduction::Mean {
                let numel = b.shape(x).numel();
                let n = b.size(&numel, b.dtype(loss))?;
                loss = b.div(loss, n)?;
            }
            Ok(vec![b.cast(loss, b.dtype(operands[0]))?])
        };
        Some(build())
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |reduction, dtype| Sample::new(Mse { reduction }, vec![TensorType::new(dtype, (3, 7)); 2]);
        vec![of(Reduction::Mean, DType::F32), of(Reduction::Sum, DType::F32), of(Reduction::None, DType::F32), of(Reduction::Mean, DType::F16)]
    }
}
