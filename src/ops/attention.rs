//! Scaled dot product attention.

use super::array::{coordinates, flat_index, sizes};
use super::composite::{eval_decomposed, largest, largest_kept, sum_kept, widen};
use super::dropout::{check_keys, check_probability, drop, is_kept};
use super::softmax::exponentials;
use super::{Array, BatchContext, Built, Class, Grads, Matmul, OpDef, Precision, Real, Sample, VjpContext};
use crate::graph::{Builder, Value};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Shape, TensorType, broadcast_pairs, broadcast_shapes, paired_besides};
use serde::{Deserialize, Serialize};

/// `y = dropout(softmax(q k^T * scale + mask)) v` over the last two dimensions.
///
/// * Operands `q[..., t, d]`, `k[..., s, d]`, `v[..., s, e]`, floats of one dtype with equal leading dimensions; then optionally a
///   mask that broadcasts to `[..., t, s]`: bool (true is attended to) or of the dtype of q (added); then, with dropout, a
///   key `u32[2]`, or keys of the first leading dimensions, `u32[lead..., 2]`. Half floats are computed in f32.
/// * `causal` attends to columns not after the row: `s <= t`, counted from the upper left corner.
/// * A row that attends to nothing gives zeros, as in PyTorch from 2.5 on. Gradients with `p` the softmax:
///   `ds = p * (dp - sum(dp * p))`, then `dq = ds k * scale`, `dk = ds^T q * scale`, `dv = dropout(p)^T g`.
/// * PyTorch: `scaled_dot_product_attention` without `enable_gqa`; its dropout masks are not reproduced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScaledDotProductAttention {
    /// Rows attend to no later column.
    pub causal: bool,
    /// Factor of the products; `1 / sqrt(d)` when not given.
    pub scale: Option<Real>,
    /// Probability that a weight is dropped; when not zero, a key is the last operand.
    pub dropout: Real,
}

/// Operands by name.
pub(super) struct AttentionParts<T> {
    pub q: T,
    pub k: T,
    pub v: T,
    pub mask: Option<T>,
    pub key: Option<T>,
}

impl ScaledDotProductAttention {
    pub(super) fn parts<T: Clone>(&self, operands: &[T]) -> Result<AttentionParts<T>, String> {
        let key = (self.dropout.get() != 0.0) as usize;
        if !(3 + key..=4 + key).contains(&operands.len()) {
            return Err("takes q, k, v, at most one mask, and a key with dropout".into());
        }
        let at = |i: usize| operands[i].clone();
        let mask = (operands.len() == 4 + key).then(|| at(3));
        Ok(AttentionParts { q: at(0), k: at(1), v: at(2), mask, key: (key == 1).then(|| at(operands.len() - 1)) })
    }

    /// Operands with the examples in front of the leading dimensions; a mask broadcasts as before.
    fn of_each(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        let at: Vec<usize> = (0..cx.operands.len()).collect();
        let (mask, rank) = (self.parts(&at)?.mask, cx.example(0).shape.rank());
        at.into_iter().map(|k| if Some(k) == mask { cx.aligned(k, rank) } else { cx.each(k) }).collect()
    }

    /// The factor of the products, 0-d, of the accumulator's dtype.
    pub(super) fn factor(&self, b: &mut Builder, q: Value) -> Built {
        let (dtype, d) = (b.dtype(q), b.shape(q).0.last().expect("rank is checked").clone());
        match (self.scale, d.as_int()) {
            (Some(scale), _) => b.constant(dtype, scale.get()),
            (None, Some(d)) => b.constant(dtype, 1.0 / (d as f64).sqrt()),
            (None, None) => {
                let d = b.size(&d, dtype)?;
                b.scalar(ScalarFn::Rsqrt, &[d])
            }
        }
    }

    /// The softmax, before dropout. Operands are in the accumulator's dtype.
    fn weights(&self, b: &mut Builder, q: Value, k: Value, mask: Option<Value>) -> Built {
        let scores = self.scores(b, q, k, mask)?;
        self.softmax(b, scores, mask)
    }

    /// What it is a softmax of.
    pub(super) fn scores(&self, b: &mut Builder, q: Value, k: Value, mask: Option<Value>) -> Built {
        let products = b.op(Matmul { transpose_a: false, transpose_b: true }, &[q, k])?;
        self.masked(b, products, q, mask)
    }

    /// The scores of products of queries and keys.
    pub(super) fn masked(&self, b: &mut Builder, products: Value, q: Value, mask: Option<Value>) -> Built {
        let factor = self.factor(b, q)?;
        let mut scores = b.mul(products, factor)?;
        let minus_infinity = b.constant(b.dtype(scores), f64::NEG_INFINITY)?;
        let last = b.shape(scores).rank() - 1;
        if self.causal {
            let corner = Shape::new(b.shape(scores).0[last - 1..].to_vec());
            let (row, column) = (b.iota(DType::I32, corner.clone(), 0)?, b.iota(DType::I32, corner, 1)?);
            let seen = b.scalar(ScalarFn::Ge, &[row, column])?;
            scores = b.where_(seen, scores, minus_infinity)?;
        }
        if let Some(mask) = mask {
            scores = if b.dtype(mask) == DType::Bool {
                b.where_(mask, scores, minus_infinity)?
            } else {
                let mask = widen(b, mask)?;
                b.add(scores, mask)?
            };
        }
        Ok(scores)
    }

    /// The softmax of scores; zeros where a mask leaves nothing to attend to.
    pub(super) fn softmax(&self, b: &mut Builder, scores: Value, mask: Option<Value>) -> Built {
        let last = b.shape(scores).rank() - 1;
        let max = largest_kept(b, scores)?;
        let shifted = b.sub(scores, max)?;
        let (e, sum) = exponentials(b, shifted, last)?;
        let p = b.div(e, sum)?;
        if mask.is_none() {
            return Ok(p);
        }
        let minus_infinity = b.constant(b.dtype(scores), f64::NEG_INFINITY)?;
        let nothing = b.scalar(ScalarFn::Eq, &[max, minus_infinity])?;
        let zero = b.constant(b.dtype(p), 0.0)?;
        b.where_(nothing, zero, p)
    }

    pub(super) fn drop(&self, b: &mut Builder, p: Value, key: Option<Value>) -> Built {
        match key {
            Some(key) => drop(b, p, key, self.dropout.get()),
            None => Ok(p),
        }
    }
}

impl OpDef for ScaledDotProductAttention {
    fn name(&self) -> &'static str {
        "scaled_dot_product_attention"
    }
    fn class(&self) -> Class {
        Class::Composite
    }
    fn is_product(&self) -> bool {
        true
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let AttentionParts { q, k, v, mask, key } = self.parts(operands)?;
        check_probability(self.dropout.get())?;
        let rank = q.shape.rank();
        if rank < 2 || k.shape.rank() != rank || v.shape.rank() != rank {
            return Err("q, k and v must have one rank of at least two".into());
        }
        if !q.dtype.is_float() || k.dtype != q.dtype || v.dtype != q.dtype {
            return Err("q, k and v are not floats of one dtype".into());
        }
        let lead = |t: &TensorType| Shape::new(t.shape.0[..rank - 2].to_vec());
        if !lead(&k).known_eq(&lead(&q)) || !lead(&v).known_eq(&lead(&q)) {
            return Err("leading dimensions differ".into());
        }
        if !k.shape[rank - 1].known_eq(&q.shape[rank - 1]) || !v.shape[rank - 2].known_eq(&k.shape[rank - 2]) || k.shape[rank - 2].is(0) {
            return Err("inner dimensions differ, or there is nothing to attend to".into());
        }
        let mut scores = q.shape.clone();
        scores.0[rank - 1] = k.shape[rank - 2].clone();
        if let Some(mask) = mask {
            let fits = mask.dtype == DType::Bool || mask.dtype == q.dtype;
            if !fits || !broadcast_shapes(&mask.shape, &scores)?.known_eq(&scores) {
                return Err(format!("the mask is not bool or {}, or does not broadcast to {scores}", q.dtype));
            }
        }
        if let Some(key) = key {
            check_keys(&key, &lead(&q))?;
        }
        let mut shape = q.shape.clone();
        shape.0[rank - 1] = v.shape[rank - 1].clone();
        Ok(vec![TensorType { dtype: q.dtype, shape }])
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let Ok(AttentionParts { q, k, v, mask, .. }) = self.parts(operands) else { return vec![] };
        let rank = q.shape.rank();
        if rank < 2 || k.shape.rank() != rank || v.shape.rank() != rank {
            return vec![];
        }
        let mut pairs = paired_besides(&q.shape, &k.shape, rank as u32 - 2);
        pairs.extend(paired_besides(&k.shape, &v.shape, rank as u32 - 1));
        let mut scores = q.shape.clone();
        scores.0[rank - 1] = k.shape[rank - 2].clone();
        pairs.extend(mask.iter().flat_map(|mask| broadcast_pairs(&scores, &mask.shape)));
        pairs
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        if precision == Precision::Working {
            return eval_decomposed(self, operands, precision);
        }
        let AttentionParts { q, k, v, mask, key } = self.parts(&operands.iter().collect::<Vec<&Array>>())?;
        let (shape, rank) = (sizes(&types[0]), q.shape.len());
        let (t, s, d, e) = (q.shape[rank - 2], k.shape[rank - 2], q.shape[rank - 1], v.shape[rank - 1]);
        let scale = self.scale.map_or(1.0 / (d as f64).sqrt(), Real::get);
        let (x, y, z) = (q.floats(), k.floats(), v.floats());
        let key = key.map(Array::ints);
        let lead = &shape[..rank - 2];
        let numel = lead.iter().product::<usize>() * t * s;
        let mut out = Vec::with_capacity(shape.iter().product());
        for (n, at) in coordinates(lead).enumerate() {
            for i in 0..t {
                let score = |j: usize| {
                    let dot: f64 = (0..d).map(|c| x[(n * t + i) * d + c] * y[(n * s + j) * d + c]).sum();
                    let seen = if self.causal && j > i { f64::NEG_INFINITY } else { dot * scale };
                    mask.map_or(seen, |m| masked(m, &at, i, j, seen))
                };
                let scores: Vec<f64> = (0..s).map(score).collect();
                let max = largest(scores.iter().copied());
                let sum: f64 = scores.iter().map(|v| (v - max).exp()).sum();
                let weight = |j: usize| {
                    let p = if mask.is_some() && max == f64::NEG_INFINITY { 0.0 } else { (scores[j] - max).exp() / sum };
                    let kept = key.as_ref().is_none_or(|key| is_kept(key, ((n * t + i) * s + j, numel), self.dropout.get()));
                    if kept { p / if key.is_some() { 1.0 - self.dropout.get() } else { 1.0 } } else { 0.0 }
                };
                let weights: Vec<f64> = (0..s).map(weight).collect();
                out.extend((0..e).map(|c| (0..s).map(|j| weights[j] * z[(n * s + j) * e + c]).sum::<f64>()));
            }
        }
        Ok(vec![Array::float(q.dtype, shape, out)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None; cx.operands.len()]) };
        let b = &mut *cx.b;
        let dtype = b.dtype(g);
        let AttentionParts { q, k, v, mask, key } = self.parts(cx.operands)?;
        let (q, k, v, g) = (widen(b, q)?, widen(b, k)?, widen(b, v)?, widen(b, g)?);
        let p = self.weights(b, q, k, mask)?;
        let dropped = self.drop(b, p, key)?;
        let dv = b.op(Matmul { transpose_a: true, transpose_b: false }, &[dropped, g])?;
        let dp = b.op(Matmul { transpose_a: false, transpose_b: true }, &[g, v])?;
        let dp = self.drop(b, dp, key)?;
        let product = b.mul(dp, p)?;
        let dot = sum_kept(b, product, &[b.shape(p).rank() - 1])?;
        let rest = b.sub(dp, dot)?;
        let ds = b.mul(p, rest)?;
        let factor = self.factor(b, q)?;
        let scaled = b.mul(ds, factor)?;
        let dq = b.matmul(scaled, k)?;
        let dk = b.op(Matmul { transpose_a: true, transpose_b: false }, &[scaled, q])?;
        let mut grads = vec![Some(b.cast(dq, dtype)?), Some(b.cast(dk, dtype)?), Some(b.cast(dv, dtype)?)];
        if let Some(mask) = mask {
            grads.push(if b.dtype(mask).is_float() {
                let shape = b.shape(mask).clone();
                let sum = b.sum_to(ds, &shape)?;
                Some(b.cast(sum, dtype)?)
            } else {
                None
            });
        }
        grads.resize(cx.operands.len(), None);
        Ok(grads)
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        let operands = self.of_each(cx)?;
        cx.b.node(self.clone(), &operands)
    }
    fn in_inference(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        let (_key, rest) = operands.split_last().filter(|_| self.dropout.get() != 0.0)?;
        Some(b.node(ScaledDotProductAttention { dropout: Real::new(0.0), ..self.clone() }, rest))
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        let mut build = || {
            let AttentionParts { q, k, v, mask, key } = self.parts(operands)?;
            let dtype = b.dtype(q);
            let (q, k, v) = (widen(b, q)?, widen(b, k)?, widen(b, v)?);
            let p = self.weights(b, q, k, mask)?;
            let p = self.drop(b, p, key)?;
            let y = b.matmul(p, v)?;
            Ok(vec![b.cast(y, dtype)?])
        };
        Some(build())
    }
    fn is_random(&self) -> bool {
        self.dropout.get() != 0.0
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |causal: bool, dropout: f64, lead: &[i64], mask: Option<TensorType>| {
            let ty = |rows: i64, cols: i64| TensorType::new(DType::F32, [lead, &[rows, cols]].concat());
            let mut operands = vec![ty(5, 3), ty(7, 3), ty(7, 2)];
            operands.extend(mask);
            if dropout != 0.0 {
                operands.push(TensorType::new(DType::U32, 2));
            }
            Sample::new(ScaledDotProductAttention { causal, scale: None, dropout: Real::new(dropout) }, operands)
        };
        let mut with_keys = of(false, 0.25, &[2, 3], None);
        with_keys.operands[3] = TensorType::new(DType::U32, (2, 2));
        let scaled = ScaledDotProductAttention { causal: false, scale: Some(Real::new(0.3)), dropout: Real::new(0.0) };
        vec![
            of(false, 0.0, &[2], None),
            of(true, 0.0, &[2, 3], None),
            of(false, 0.0, &[2], Some(TensorType::new(DType::Bool, (5, 7)))),
            of(true, 0.0, &[], Some(TensorType::new(DType::F32, (1, 7)))),
            of(true, 0.25, &[2], None),
            of(false, 0.25, &[], Some(TensorType::new(DType::Bool, (5, 7)))),
            Sample::new(scaled, vec![TensorType::new(DType::F16, (3, 4)); 3]),
            with_keys,
        ]
    }
}

/// The score at a place after a mask that broadcasts.
fn masked(mask: &Array, lead: &[usize], i: usize, j: usize, score: f64) -> f64 {
    let full: Vec<usize> = lead.iter().copied().chain([i, j]).collect();
    let own = &full[full.len() - mask.shape.len()..];
    let at: Vec<usize> = own.iter().zip(&mask.shape).map(|(&c, &n)| if n == 1 { 0 } else { c }).collect();
    let value = mask.floats()[flat_index(&at, &mask.shape)];
    match mask.dtype {
        DType::Bool if value == 0.0 => f64::NEG_INFINITY,
        DType::Bool => score,
        _ => score + value,
    }
}
