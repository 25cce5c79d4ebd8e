//! Random bits from a key. Randomness is a value: equal keys give equal bits, on every device and however often.

use super::array::sizes;
use super::{Array, BatchContext, Built, Class, Grads, NestBuilder, OpDef, OperandView, Precision, Sample, VjpContext};
use crate::graph::Value;
use crate::loop_ir::{BodyBuilder, IndexExpr, Val, flatten};
use crate::scalar::{ScalarFn, philox};
use crate::types::{DType, Dim, Shape, TensorType};
use serde::{Deserialize, Serialize};

/// Separates keys from bits: folding uses another first key word than drawing, so that their streams are unrelated.
const FOLD: u32 = 0x85EB_CA6B;

/// `out[k..., i...] = philox(key[k...], flat index of i...)`: 32 random bits for each element, from a key `u32[2]`, or from keys of
/// their own along leading dimensions.
///
/// * Operand `key: u32[lead..., 2]`; result `u32` of `lead` and `shape`. Philox 4x32-10, counted by the logical row-major element
///   index in `shape`, so that the bits depend on neither tile nor launch shape. Elements from 2^32 on repeat.
/// * Gradient: none; the key is an integer. Recomputing is bitwise equal.
/// * PyTorch: no counterpart; its generators are not reproduced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RandomBits {
    /// Sizes of what each key is drawn for.
    pub shape: Shape,
}

/// A new key from a key and a stream number: `out = (philox(key', 2 stream), philox(key', 2 stream + 1))`, where `key'` is the
/// key with its first word changed. With a second operand (a 0-d integer, such as the counter of a loop) the result is folded
/// once more with that number.
///
/// * Operands `key: u32[lead..., 2]` and optionally `counter`, a u32 or i32 for each key; the result is as many keys.
/// * Streams below 2^31 give distinct words of one Philox sequence. Gradient: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FoldIn {
    /// The stream, assigned when the program is traced.
    pub stream: u32,
}

/// The dimensions along which there are keys.
pub(super) fn key_lead(key: &TensorType) -> Result<&[Dim], String> {
    match key.shape.0.split_last() {
        Some((words, lead)) if words.is(2) && key.dtype == DType::U32 => Ok(lead),
        _ => Err(format!("the key is {key}, not u32[2] or several of them")),
    }
}

/// The two words of each key.
fn words(keys: &Array) -> Vec<(u32, u32)> {
    keys.ints().chunks_exact(2).map(|w| (w[0] as u32, w[1] as u32)).collect()
}

/// The words at the end of keys that lie along leading coordinates.
fn load_words(b: &mut BodyBuilder, key: &OperandView, lead: &[IndexExpr]) -> [Val; 2] {
    [IndexExpr::zero(), IndexExpr::constant(1)].map(|word| b.load(key.at(&[lead, &[word]].concat())))
}

/// The key of stream `n`.
fn fold((k0, k1): (u32, u32), n: u32) -> (u32, u32) {
    let index = n.wrapping_mul(2);
    (philox(k0 ^ FOLD, k1, index), philox(k0 ^ FOLD, k1, index.wrapping_add(1)))
}

impl OpDef for RandomBits {
    fn name(&self) -> &'static str {
        "random_bits"
    }
    fn class(&self) -> Class {
        Class::Random
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [key] = operands else { return Err("takes a key".into()) };
        let shape = [key_lead(key)?, &self.shape.0].concat();
        Ok(vec![TensorType { dtype: DType::U32, shape: Shape::new(shape) }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let (keys, shape) = (words(&operands[0]), sizes(&types[0]));
        let each: usize = shape[operands[0].shape.len() - 1..].iter().product();
        let bits = keys.into_iter().flat_map(|(k0, k1)| (0..each).map(move |i| philox(k0, k1, i as u32) as i64));
        Ok(vec![Array::int(DType::U32, shape, bits.collect())])
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Ok(vec![None])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(self.clone())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (key, ty) = (cx.operand(0), cx.result(0));
        let lead = key.ty.shape.rank() - 1;
        cx.pointwise(0, |b, at| {
            let [k0, k1] = load_words(b, &key, &at[..lead]);
            let index = b.index(&flatten(&at[lead..], &ty.shape.0[lead..]), DType::U32);
            Ok(b.call(ScalarFn::Philox, &[k0, k1, index]))
        })
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.shape = self.shape.map(f);
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |keys: &[i64], shape: &[i64]| {
            let op = RandomBits { shape: Shape::new(shape.iter().map(|&n| n.into()).collect()) };
            Sample::new(op, vec![TensorType::new(DType::U32, keys)])
        };
        vec![of(&[2], &[3, 7]), of(&[2], &[]), of(&[2], &[0, 2]), of(&[3, 2], &[5]), of(&[2, 3, 2], &[])]
    }
}

impl OpDef for FoldIn {
    fn name(&self) -> &'static str {
        "fold_in"
    }
    fn class(&self) -> Class {
        Class::Random
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let Some(key) = operands.first() else { return Err("takes a key".into()) };
        let lead = key_lead(key)?;
        match &operands[1..] {
            [] => {}
            [counter] if counter.shape.0 == lead && matches!(counter.dtype, DType::U32 | DType::I32) => {}
            _ => return Err("takes a key and at most one counter for it".into()),
        }
        Ok(vec![key.clone()])
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let mut keys: Vec<(u32, u32)> = words(&operands[0]).into_iter().map(|key| fold(key, self.stream)).collect();
        if let Some(counter) = operands.get(1) {
            keys = keys.into_iter().zip(counter.ints()).map(|(key, n)| fold(key, n as u32)).collect();
        }
        Ok(vec![Array::int(DType::U32, operands[0].shape.clone(), keys.into_iter().flat_map(|(k0, k1)| [k0 as i64, k1 as i64]).collect())])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        Ok(vec![None; cx.operands.len()])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(self.clone())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let operands = cx.operands.clone();
        cx.pointwise(0, |b, at| {
            let (word, lead) = at.split_last().expect("a key has words");
            let change = b.constant(DType::U32, FOLD as f64);
            let [k0, k1] = load_words(b, &operands[0], lead);
            let k0 = b.call(ScalarFn::BitwiseXor, &[k0, change]);
            let base = Dim::int(self.stream.wrapping_mul(2) as i64);
            let Some(counter) = operands.get(1) else {
                let index = b.index(&word.plus(&base), DType::U32);
                return Ok(b.call(ScalarFn::Philox, &[k0, k1, index]));
            };
            let (first, second) = (b.constant(DType::U32, self.stream.wrapping_mul(2) as f64), b.constant(DType::U32, 1.0));
            let second = b.call(ScalarFn::Add, &[first, second]);
            let (w0, w1) = (b.call(ScalarFn::Philox, &[k0, k1, first]), b.call(ScalarFn::Philox, &[k0, k1, second]));
            let w0 = b.call(ScalarFn::BitwiseXor, &[w0, change]);
            let counter = b.load(counter.at(lead));
            let counter = b.cast(counter, DType::U32);
            let twice = b.call(ScalarFn::Add, &[counter, counter]);
            let word = b.index(word, DType::U32);
            let index = b.call(ScalarFn::Add, &[twice, word]);
            Ok(b.call(ScalarFn::Philox, &[w0, w1, index]))
        })
    }
    fn samples(&self) -> Vec<Sample> {
        let key = TensorType::new(DType::U32, 2);
        vec![
            Sample::new(FoldIn { stream: 0 }, vec![key.clone()]),
            Sample::new(FoldIn { stream: 7 }, vec![key.clone()]),
            Sample::new(FoldIn { stream: 3 }, vec![key.clone(), TensorType::new(DType::U32, ())]),
            Sample::new(FoldIn { stream: 3 }, vec![key, TensorType::new(DType::I32, ())]),
            Sample::new(FoldIn { stream: 3 }, vec![TensorType::new(DType::U32, (3, 2)), TensorType::new(DType::I32, 3)]),
        ]
    }
}
