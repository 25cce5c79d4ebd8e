//! Attention as one kernel, and its gradients, which compute the scores again.

use super::attention::{AttentionParts, ScaledDotProductAttention};
use super::composite::{eval_built, largest_kept, sum_kept, unsqueeze_last, widen};
use super::dropout::{drop, drop_threshold};
use super::{
    Array, BatchContext, Built, Class, Grads, Matmul, NestBuilder, OpDef, OperandView, Precision, Real, Sample, TriangularMatmul, VjpContext,
};
use crate::graph::{Builder, Value};
use crate::loop_ir::{BodyBuilder, Combiner, IndexExpr, Seen, Tag, Val, flatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, MatmulPrecision, Shape, TensorType};
use serde::{Deserialize, Serialize};

/// [`ScaledDotProductAttention`] with the logarithm of each row's sum of exponentials beside it, in one kernel without scores in memory
/// (Dao and others, "FlashAttention", 2022).
///
/// * Operands and attributes as there, of f32, f16 or bf16, with feature sizes of 1 to 256 that are known and a dropout below one. Results:
///   `y`, and `logsumexp` of f32, one for each row of q: infinity where a row under a mask attends to nothing.
/// * Gradient: [`FusedAttentionGrad`] of q, k and v. That of a mask that is added computes the scores once more and stores them. With
///   `stores_weights`, products of the weights `exp(score - logsumexp)` and of the gradient of the scores, which are stored in f32; the upper
///   triangle of causal ones is left out.
/// * Numerics: all in f32; exponentials below the running maximum, the quotient by their sum at the end. A row under a mask that attends to
///   nothing gives zeros, whatever values hold. Where values at columns that no row of a block sees are not finite, `causal` attention may
///   leave them out, which otherwise make NaN of zero times infinity; so do PyTorch's kernels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FusedAttention {
    /// Whether its derivative stores the weights and the gradient of the scores, and is five products, instead of three kernels that compute
    /// the scores again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stores_weights: bool,
    /// What is computed.
    #[serde(flatten)]
    pub attention: ScaledDotProductAttention,
}

/// What a gradient of attention is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionOperand {
    /// Queries.
    #[default]
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
}

/// A gradient of [`FusedAttention`]: with `p = exp(score - logsumexp)` and `ds = p * (dropout(g v^T) - delta)`, that of q is
/// `ds k * scale`, of k `ds^T q * scale`, of v `dropout(p)^T g`.
///
/// * Operands: those of the attention, then the cotangent `g` of its result, `logsumexp`, and `delta = sum(g * y)` along features, both f32.
///   The result has the type of the operand that it is of.
/// * No gradient: passes introduce it where nothing is differentiated twice.
/// * Numerics: as [`FusedAttention`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FusedAttentionGrad {
    /// What the gradient is of.
    pub of: AttentionOperand,
    /// The attention.
    #[serde(flatten)]
    pub attention: ScaledDotProductAttention,
}

/// Features that a kernel takes at most.
const MOST_FEATURES: i64 = 256;

/// Whether the kernels take attention of these operand types, or why not.
fn check(op: &ScaledDotProductAttention, operands: &[TensorType]) -> Result<TensorType, String> {
    let y = op.infer(operands)?.remove(0);
    let features = [&operands[0], &operands[2]].map(|t| t.shape[t.shape.rank() - 1].as_int());
    if !features.iter().all(|n| n.is_some_and(|n| (1..=MOST_FEATURES).contains(&n))) {
        return Err(format!("feature sizes are not known to be in 1..={MOST_FEATURES}"));
    }
    let has_keys = op.parts(operands)?.key.is_some_and(|key| key.shape.rank() > 1);
    if y.dtype == DType::F64 || op.dropout.get() >= 1.0 || has_keys {
        return Err("f64, keys of their own for parts, and a dropout of everything, are not computed by one kernel".into());
    }
    Ok(y)
}

/// The type of a number for each row.
fn row_type(y: &TensorType) -> TensorType {
    TensorType { dtype: DType::F32, shape: Shape::new(y.shape.0[..y.shape.rank() - 1].to_vec()) }
}

/// Rows and columns below which attention stays decomposed.
const FEWEST: i64 = 16;

impl FusedAttention {
    /// The fused form of an attention that the kernels take, and whose blocks are not nearly empty.
    pub fn of(attention: &ScaledDotProductAttention, operands: &[TensorType]) -> Option<FusedAttention> {
        check(attention, operands).ok()?;
        let rows = |t: &TensorType| t.shape[t.shape.rank() - 2].hint();
        let fills = rows(&operands[0]) >= FEWEST && rows(&operands[1]) >= FEWEST;
        fills.then(|| FusedAttention { stores_weights: false, attention: attention.clone() })
    }

    fn define(&self, b: &mut Builder, operands: &[Value]) -> Built<Vec<Value>> {
        let op = &self.attention;
        let AttentionParts { q, k, v, mask, key } = op.parts(operands)?;
        let dtype = b.dtype(q);
        let (q, k, v) = (widen(b, q)?, widen(b, k)?, widen(b, v)?);
        let scores = op.scores(b, q, k, mask)?;
        let p = op.softmax(b, scores, mask)?;
        let p = op.drop(b, p, key)?;
        let mut y = b.matmul(p, v)?;
        let max = largest_kept(b, scores)?;
        let below = b.sub(scores, max)?;
        let e = b.scalar(ScalarFn::Exp, &[below])?;
        let last = b.shape(e).rank() - 1;
        let sum = sum_kept(b, e, &[last])?;
        let log = b.scalar(ScalarFn::Log, &[sum])?;
        let mut row = b.add(max, log)?;
        if mask.is_some() {
            let [nothing, infinity] = [f64::NEG_INFINITY, f64::INFINITY].map(|x| b.constant(DType::F32, x));
            let nothing = b.scalar(ScalarFn::Eq, &[max, nothing?])?;
            row = b.where_(nothing, infinity?, row)?;
            let zero = b.constant(DType::F32, 0.0)?;
            y = b.where_(nothing, zero, y)?;
        }
        let shape = Shape::new(b.shape(row).0[..last].to_vec());
        Ok(vec![b.cast(y, dtype)?, b.reshape(row, shape)?])
    }
}

impl FusedAttentionGrad {
    /// The attention's operands, and the cotangent, logsumexp and delta.
    fn split<'t, T>(&self, operands: &'t [T]) -> Result<(&'t [T], &'t [T; 3]), String> {
        operands.split_last_chunk().ok_or_else(|| "takes the attention's operands, a cotangent, logsumexp and delta".into())
    }

    fn define(&self, b: &mut Builder, operands: &[Value]) -> Built {
        let (own, &[g, logsumexp, delta]) = self.split(operands)?;
        let AttentionParts { q, k, v, mask, key } = self.attention.parts(own)?;
        let dtype = b.dtype(q);
        let scores = Scores { op: &self.attention, q, k, v, mask, key, g, logsumexp, delta, stored: false };
        let p = scores.weights(b)?;
        let grad = match self.of {
            AttentionOperand::Value => {
                let kept = self.attention.drop(b, p, key)?;
                scores.weighted(b, kept, true, g)?
            }
            of => {
                let ds = scores.gradient(b, p)?;
                let scaled = scores.scaled(b, ds)?;
                let by_key = of == AttentionOperand::Key;
                scores.weighted(b, scaled, by_key, if by_key { q } else { k })?
            }
        };
        b.cast(grad, dtype)
    }
}

/// Two tensors of one type as parts of one, so that a kernel beside a mask and a key binds no more buffers than any device allows.
fn in_one(b: &mut Builder, [x, y]: [Value; 2]) -> Built<[Value; 2]> {
    let shape = b.shape(x).clone();
    let both = b.stack(&[x, y], 0)?;
    let mut part = |k: i64| {
        let part = b.slice(both, 0, k, k + 1, 1)?;
        b.reshape(part, shape.clone())
    };
    Ok([part(0)?, part(1)?])
}

/// The gradient of a mask that is added to scores.
fn of_mask(b: &mut Builder, ds: Value, mask: Value) -> Built {
    let sum = b.sum_to(ds, &b.shape(mask).clone())?;
    b.cast(sum, b.dtype(mask))
}

/// What the scores' gradient is computed from.
struct Scores<'a> {
    op: &'a ScaledDotProductAttention,
    q: Value,
    k: Value,
    v: Value,
    mask: Option<Value>,
    key: Option<Value>,
    g: Value,
    logsumexp: Value,
    delta: Value,
    /// Whether they are stored, by products that leave out what a causal mask hides.
    stored: bool,
}

impl Scores<'_> {
    /// The softmax, from the scores and the rows' logarithms.
    fn weights(&self, b: &mut Builder) -> Built {
        let (q, k) = (widen(b, self.q)?, widen(b, self.k)?);
        let products = self.products(b, q, k)?;
        let scores = self.op.masked(b, products, q, self.mask)?;
        let row = unsqueeze_last(b, self.logsumexp)?;
        let below = b.sub(scores, row)?;
        b.scalar(ScalarFn::Exp, &[below])
    }

    /// A product whose result, or else whose left operand, is of scores.
    fn product(&self, b: &mut Builder, of_result: bool, product: Matmul, operands: [Value; 2]) -> Built {
        match self.stored && self.op.causal {
            true => b.op(TriangularMatmul { of_result, product }, &operands),
            false => b.op(product, &operands),
        }
    }

    /// Products of rows with rows, where scores are.
    fn products(&self, b: &mut Builder, x: Value, y: Value) -> Built {
        self.product(b, true, Matmul { transpose_a: false, transpose_b: true }, [x, y])
    }

    /// The product of weights, or of columns of them, with rows.
    fn weighted(&self, b: &mut Builder, weights: Value, by_column: bool, x: Value) -> Built {
        let x = widen(b, x)?;
        self.product(b, false, Matmul { transpose_a: by_column, transpose_b: false }, [weights, x])
    }

    /// The gradient of scores, times the factor of the products that they are of.
    fn scaled(&self, b: &mut Builder, ds: Value) -> Built {
        let q = widen(b, self.q)?;
        let factor = self.op.factor(b, q)?;
        b.mul(ds, factor)
    }

    /// The gradients of q, k and v by products of what is stored, and that of the scores.
    fn by_products(&self, b: &mut Builder) -> Built<([Option<Value>; 3], Value)> {
        let dtype = b.dtype(self.q);
        let p = self.weights(b)?;
        let kept = self.op.drop(b, p, self.key)?;
        let dv = self.weighted(b, kept, true, self.g)?;
        let ds = self.gradient(b, p)?;
        let scaled = self.scaled(b, ds)?;
        let dq = self.weighted(b, scaled, false, self.k)?;
        let dk = self.weighted(b, scaled, true, self.q)?;
        let mut narrow = |x| b.cast(x, dtype).map(Some);
        Ok(([narrow(dq)?, narrow(dk)?, narrow(dv)?], ds))
    }

    /// The gradient of the scores, by the weights.
    fn gradient(&self, b: &mut Builder, p: Value) -> Built {
        let (g, v) = (widen(b, self.g)?, widen(b, self.v)?);
        let dp = self.products(b, g, v)?;
        let dp = match self.key {
            Some(key) => drop(b, dp, key, self.op.dropout.get())?,
            None => dp,
        };
        let delta = unsqueeze_last(b, self.delta)?;
        let rest = b.sub(dp, delta)?;
        b.mul(p, rest)
    }
}

impl OpDef for FusedAttention {
    fn name(&self) -> &'static str {
        "fused_attention"
    }
    fn class(&self) -> Class {
        Class::Template
    }
    fn multiply_adds(&self, operands: &[TensorType], _results: &[TensorType]) -> f64 {
        let keys = operands[1].shape.0.iter().rev().nth(1).map_or(1.0, |d| d.hint() as f64);
        2.0 * operands[0].numel().hint() as f64 * keys
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let y = check(&self.attention, operands)?;
        let row = row_type(&y);
        Ok(vec![y, row])
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        self.attention.equal_sizes(operands)
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        eval_built(operands, precision, |b, operands| self.define(b, operands))
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let mut grads = vec![None; cx.operands.len()];
        if cx.cotangents.iter().all(Option::is_none) {
            return Ok(grads);
        }
        let (op, y, logsumexp) = (&self.attention, cx.results[0], cx.results[1]);
        let b = &mut *cx.b;
        let g = match cx.cotangents[0] {
            Some(g) => g,
            None => b.full(b.dtype(y), 0.0, b.shape(y).clone())?,
        };
        let (wide, own) = (widen(b, g)?, widen(b, y)?);
        let product = b.mul(wide, own)?;
        let mut delta = b.reduce(super::ReduceKind::Sum, product, &[b.shape(y).rank() - 1], false)?;
        if let Some(of_row) = cx.cotangents[1] {
            delta = b.sub(delta, of_row)?;
        }
        let AttentionParts { q, k, v, mask, key } = op.parts(cx.operands)?;
        let scores = Scores { op, q, k, v, mask, key, g, logsumexp, delta, stored: self.stores_weights };
        if self.stores_weights {
            let ds;
            ([grads[0], grads[1], grads[2]], ds) = scores.by_products(b)?;
            if let Some(mask) = mask.filter(|m| b.dtype(*m).is_float()) {
                grads[3] = Some(of_mask(b, ds, mask)?);
            }
            return Ok(grads);
        }
        let [own, own_delta] = match op.parts(cx.operands)? {
            AttentionParts { mask: Some(_), key: Some(_), .. } => in_one(b, [logsumexp, delta])?,
            _ => [logsumexp, delta],
        };
        let operands: Vec<Value> = cx.operands.iter().copied().chain([g, own, own_delta]).collect();
        for (grad, of) in grads.iter_mut().zip([AttentionOperand::Query, AttentionOperand::Key, AttentionOperand::Value]) {
            *grad = Some(b.op(FusedAttentionGrad { of, attention: op.clone() }, &operands)?);
        }
        if let Some(mask) = mask.filter(|m| b.dtype(*m).is_float()) {
            let p = scores.weights(b)?;
            let ds = scores.gradient(b, p)?;
            grads[3] = Some(of_mask(b, ds, mask)?);
        }
        Ok(grads)
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.through(|b, operands| self.define(b, operands))
    }
    fn in_inference(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        let (_key, rest) = operands.split_last().filter(|_| self.attention.dropout.get() != 0.0)?;
        let attention = ScaledDotProductAttention { dropout: Real::new(0.0), ..self.attention.clone() };
        Some(b.node(FusedAttention { attention, ..self.clone() }, rest))
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let lowering = Lowering::new(&self.attention, &cx.operands)?;
        let ((y, ty), (row, _)) = (cx.results[0].clone(), cx.results[1].clone());
        let (t, s) = (lowering.t(), lowering.s());
        let e = ty.shape.0[ty.shape.rank() - 1].clone();
        let rows = [lowering.lead.clone(), vec![t, e]].concat();
        cx.nest(&rows, &[s], |b, at, col| {
            let (lead, [i, c]) = at.split_last_chunk().expect("rows have two axes at least");
            let place = Place { lead, i, j: &col[0] };
            lowering.set(b, true);
            let score = lowering.score(b, &place, true);
            let max = b.reduce(Combiner::OnlineSoftmax, score);
            let sum = b.proj(max, 1);
            let below = b.call(ScalarFn::Sub, &[score, max]);
            let exp = b.call(ScalarFn::Exp, &[below]);
            let weight = lowering.kept(b, &place, exp);
            let value = lowering.value(b, &lowering.parts.v, &place, &col[0], c);
            let product = b.call(ScalarFn::Mul, &[weight, value]);
            let weighted = b.reduce(Combiner::Sum, product);
            let out = b.call(ScalarFn::Div, &[weighted, sum]);
            let out = lowering.scaled(b, out, lowering.kept_factor());
            let log = b.call(ScalarFn::Log, &[sum]);
            let log = b.call(ScalarFn::Add, &[max, log]);
            let (out, log) = match lowering.parts.mask {
                Some(_) => (lowering.unless_nothing(b, max, out, 0.0), lowering.unless_nothing(b, max, log, f64::INFINITY)),
                None => (out, log),
            };
            let out = b.cast(out, ty.dtype);
            b.write(y, flatten(at, &ty.shape.0), out);
            b.write(row, flatten(&at[..at.len() - 1], &ty.shape.0[..ty.shape.rank() - 1]), log);
            Ok(())
        })
    }
    fn is_random(&self) -> bool {
        self.attention.dropout.get() != 0.0
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |s: Sample| match s.op {
            super::Op::ScaledDotProductAttention(attention) => Sample { op: FusedAttention { attention, stores_weights: false }.into(), ..s },
            _ => unreachable!("samples are of their op"),
        };
        let has_keys = |s: &Sample| s.operands.last().is_some_and(|key| key.dtype == DType::U32 && key.shape.rank() > 1);
        let mut out: Vec<Sample> = self.attention.samples().into_iter().filter(|s| !has_keys(s)).map(of).collect();
        // Rows and columns of several blocks, in sizes that divide by nothing.
        let ty = |rows: i64, cols: i64| TensorType::new(DType::F32, (rows, cols));
        let attention = ScaledDotProductAttention { causal: true, ..Default::default() };
        out.push(Sample::new(FusedAttention { attention, stores_weights: false }, vec![ty(33, 3), ty(35, 3), ty(35, 2)]));
        let storing = |s: &Sample| match &s.op {
            super::Op::FusedAttention(op) => Sample { op: FusedAttention { stores_weights: true, ..op.clone() }.into(), ..s.clone() },
            _ => unreachable!("samples are of their op"),
        };
        out.extend(out.iter().map(storing).collect::<Vec<_>>());
        out
    }
}

impl OpDef for FusedAttentionGrad {
    fn name(&self) -> &'static str {
        "fused_attention_grad"
    }
    fn class(&self) -> Class {
        Class::Template
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let (own, [g, logsumexp, delta]) = self.split(operands)?;
        let y = check(&self.attention, own)?;
        let row = row_type(&y);
        let fits = |t: &TensorType, to: &TensorType| t.dtype == to.dtype && t.shape.known_eq(&to.shape);
        if !fits(g, &y) || !fits(logsumexp, &row) || !fits(delta, &row) {
            return Err(format!("the cotangent is not {y}, or logsumexp and delta are not {row}"));
        }
        Ok(vec![own[self.of as usize].clone()])
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        self.split(operands).map_or(vec![], |(own, _)| self.attention.equal_sizes(own))
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        eval_built(operands, precision, |b, operands| Ok(vec![self.define(b, operands)?]))
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Err("fused_attention_grad is not differentiable; differentiate scaled_dot_product_attention, whose derivative is of products".into())
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.through(|b, operands| Ok(vec![self.define(b, operands)?]))
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (own, [g, logsumexp, delta]) = self.split(&cx.operands)?;
        let lowering = Lowering::new(&self.attention, own)?;
        let (g, logsumexp, delta) = (g.clone(), logsumexp.clone(), delta.clone());
        let (buffer, ty) = cx.results[0].clone();
        let rows = ty.shape.0.clone();
        let by_query = self.of == AttentionOperand::Query;
        let columns = if by_query { lowering.s() } else { lowering.t() };
        cx.nest(&rows, &[columns], |b, at, col| {
            let (lead, [x, c]) = at.split_last_chunk().expect("rows have two axes at least");
            let y = &col[0];
            let place = if by_query { Place { lead, i: x, j: y } } else { Place { lead, i: y, j: x } };
            lowering.set(b, by_query);
            let score = lowering.score(b, &place, by_query);
            let row = b.load(logsumexp.at(&place.row()));
            let below = b.call(ScalarFn::Sub, &[score, row]);
            let p = b.call(ScalarFn::Exp, &[below]);
            let (weight, held, factor) = match self.of {
                AttentionOperand::Value => (lowering.kept(b, &place, p), &g, lowering.kept_factor()),
                of => {
                    let dp = lowering.cotangent(b, &g, &place, by_query);
                    let dp = lowering.scaled(b, dp, lowering.kept_factor());
                    let dp = lowering.kept(b, &place, dp);
                    let delta = b.load(delta.at(&place.row()));
                    let rest = b.call(ScalarFn::Sub, &[dp, delta]);
                    let held = if of == AttentionOperand::Query { &lowering.parts.k } else { &lowering.parts.q };
                    (b.call(ScalarFn::Mul, &[p, rest]), held, Some(lowering.factor))
                }
            };
            let value = lowering.value(b, held, &place, y, c);
            let product = b.call(ScalarFn::Mul, &[weight, value]);
            let sum = b.reduce(Combiner::Sum, product);
            let sum = lowering.scaled(b, sum, factor);
            let sum = b.cast(sum, ty.dtype);
            b.write(buffer, flatten(at, &rows), sum);
            Ok(())
        })
    }
    fn is_random(&self) -> bool {
        self.attention.dropout.get() != 0.0
    }
    fn samples(&self) -> Vec<Sample> {
        let mut out = vec![];
        for of in [AttentionOperand::Query, AttentionOperand::Key, AttentionOperand::Value] {
            for s in FusedAttention::default().samples() {
                let super::Op::FusedAttention(FusedAttention { attention, stores_weights: false }) = &s.op else { continue };
                // A mask, a key and all else are one buffer more than WebGPU promises; there logsumexp and delta are of one buffer.
                if attention.parts(&s.operands).is_ok_and(|p| p.mask.is_some() && p.key.is_some()) {
                    continue;
                }
                let y = attention.infer(&s.operands).expect("samples are sound").remove(0);
                let row = row_type(&y);
                let operands = s.operands.iter().cloned().chain([y, row.clone(), row]).collect();
                out.push(Sample { op: FusedAttentionGrad { of, attention: attention.clone() }.into(), operands, ..s });
            }
        }
        out
    }
}

/// Where a score stands.
struct Place<'a> {
    lead: &'a [IndexExpr],
    /// The row of q.
    i: &'a IndexExpr,
    /// The row of k and v.
    j: &'a IndexExpr,
}

impl Place<'_> {
    fn scores(&self) -> Vec<IndexExpr> {
        [self.lead, &[self.i.clone(), self.j.clone()]].concat()
    }

    fn row(&self) -> Vec<IndexExpr> {
        [self.lead, std::slice::from_ref(self.i)].concat()
    }

    fn element(&self, row: &IndexExpr, feature: &IndexExpr) -> Vec<IndexExpr> {
        [self.lead, &[row.clone(), feature.clone()]].concat()
    }
}

/// Parts of the bodies of attention's nests.
struct Lowering<'a> {
    op: &'a ScaledDotProductAttention,
    parts: AttentionParts<OperandView>,
    lead: Vec<Dim>,
    factor: f64,
}

impl<'a> Lowering<'a> {
    fn new(op: &'a ScaledDotProductAttention, operands: &[OperandView]) -> Result<Lowering<'a>, String> {
        let parts = op.parts(operands)?;
        let (d, lead) = parts.q.ty.shape.0.split_last().expect("rank is checked");
        let d = d.as_int().ok_or("the feature size is not known")?;
        let lead = lead[..lead.len() - 1].to_vec();
        let factor = op.scale.map_or(1.0 / (d as f64).sqrt(), Real::get);
        Ok(Lowering { op, parts, lead, factor })
    }

    fn t(&self) -> Dim {
        self.parts.q.ty.shape.0[self.lead.len()].clone()
    }

    fn s(&self) -> Dim {
        self.parts.k.ty.shape.0[self.lead.len()].clone()
    }

    /// Inner axes and the tag of a nest whose rows are of queries, or of keys.
    fn set(&self, b: &mut BodyBuilder, by_query: bool) {
        let features = |x: &OperandView| x.ty.shape.0[self.lead.len() + 1].clone();
        b.inner = vec![features(&self.parts.q), features(&self.parts.v)].into();
        let seen = match (self.op.causal, by_query) {
            (false, _) => Seen::All,
            (true, true) => Seen::UpToRow,
            (true, false) => Seen::FromRow,
        };
        b.tag = Tag::Attention { batch: self.lead.len() as u32, seen, precision: MatmulPrecision::default() };
    }

    /// An element in f32.
    fn value(&self, b: &mut BodyBuilder, x: &OperandView, at: &Place, row: &IndexExpr, feature: &IndexExpr) -> Val {
        let v = b.load(x.at(&at.element(row, feature)));
        b.cast(v, DType::F32)
    }

    /// The product of a row of queries' `x` with a row of keys' `y` over their features.
    fn product(&self, b: &mut BodyBuilder, [x, y]: [&OperandView; 2], at: &Place, over: u32, by_query: bool) -> Val {
        let first = self.lead.len() as u32 + 3;
        let feature = IndexExpr::axis(first + over, &b.inner[over as usize].clone());
        let (x, y) = (self.value(b, x, at, at.i, &feature), self.value(b, y, at, at.j, &feature));
        if by_query { b.contract(x, y, over) } else { b.contract(y, x, over) }
    }

    /// The product of a row of the cotangent with one of the values.
    fn cotangent(&self, b: &mut BodyBuilder, g: &OperandView, at: &Place, by_query: bool) -> Val {
        self.product(b, [g, &self.parts.v], at, 1, by_query)
    }

    fn score(&self, b: &mut BodyBuilder, at: &Place, by_query: bool) -> Val {
        let dot = self.product(b, [&self.parts.q, &self.parts.k], at, 0, by_query);
        let mut score = self.scaled(b, dot, Some(self.factor));
        let nothing = b.constant(DType::F32, f64::NEG_INFINITY);
        if self.op.causal {
            let (i, j) = (b.index(at.i, DType::I32), b.index(at.j, DType::I32));
            let seen = b.call(ScalarFn::Ge, &[i, j]);
            score = b.call(ScalarFn::Where, &[seen, score, nothing]);
        }
        let Some(mask) = &self.parts.mask else { return score };
        let m = b.load(mask.at(&broadcast(&at.scores(), &mask.ty.shape)));
        if mask.ty.dtype == DType::Bool {
            return b.call(ScalarFn::Where, &[m, score, nothing]);
        }
        let m = b.cast(m, DType::F32);
        b.call(ScalarFn::Add, &[score, m])
    }

    fn scaled(&self, b: &mut BodyBuilder, x: Val, factor: Option<f64>) -> Val {
        let Some(factor) = factor else { return x };
        let factor = b.constant(DType::F32, factor);
        b.call(ScalarFn::Mul, &[x, factor])
    }

    /// What kept weights are multiplied by.
    fn kept_factor(&self) -> Option<f64> {
        self.parts.key.as_ref().map(|_| 1.0 / (1.0 - self.op.dropout.get()))
    }

    /// `x` where dropout keeps the weight, else zero.
    fn kept(&self, b: &mut BodyBuilder, at: &Place, x: Val) -> Val {
        let Some(key) = &self.parts.key else { return x };
        let sizes = [self.lead.clone(), vec![self.t(), self.s()]].concat();
        let [k0, k1] = [0, 1].map(|k| b.load(key.at(&[IndexExpr::constant(k)])));
        let position = b.index(&flatten(&at.scores(), &sizes), DType::U32);
        let bits = b.call(ScalarFn::Philox, &[k0, k1, position]);
        let threshold = b.constant(DType::U32, drop_threshold(self.op.dropout.get()) as f64);
        let keep = b.call(ScalarFn::Ge, &[bits, threshold]);
        let zero = b.constant(DType::F32, 0.0);
        b.call(ScalarFn::Where, &[keep, x, zero])
    }

    /// `x`, or a number where the row's maximum says that it attends to nothing.
    fn unless_nothing(&self, b: &mut BodyBuilder, max: Val, x: Val, otherwise: f64) -> Val {
        let (nothing, otherwise) = (b.constant(DType::F32, f64::NEG_INFINITY), b.constant(DType::F32, otherwise));
        let nothing = b.call(ScalarFn::Eq, &[max, nothing]);
        b.call(ScalarFn::Where, &[nothing, otherwise, x])
    }
}

/// The coordinates in an operand of this shape that broadcasts.
fn broadcast(at: &[IndexExpr], shape: &Shape) -> Vec<IndexExpr> {
    let own = at[at.len() - shape.rank()..].iter().zip(&shape.0);
    own.map(|(c, n)| if n.is(1) { IndexExpr::zero() } else { c.clone() }).collect()
}
