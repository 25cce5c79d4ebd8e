//! Random bits from a key. Randomness is a value: equal keys give equal bits, on every device and however often.

use super::array::sizes;
use super::{Array, Built, Class, Grads, NestBuilder, OpDef, Precision, Sample, VjpContext};
use crate::loop_ir::{IndexExpr, flatten};
use crate::scalar::{ScalarFn, philox};
use crate::types::{DType, Dim, Shape, TensorType};
use serde::{Deserialize, Serialize};

/// Separates keys from bits: folding uses another first key word than drawing, so that their streams are unrelated.
const FOLD: u32 = 0x85EB_CA6B;

/// `out[i...] = philox(key, flat index of i...)`: 32 random bits for each element, from a key `u32[2]`.
///
/// * Operand `key: u32[2]`; result `u32` of `shape`. Philox 4x32-10, counted by the logical row-major element index, so that
///   the bits depend on neither tile nor launch shape. Elements from 2^32 on repeat.
/// * Gradient: none; the key is an integer. Recomputing is bitwise equal.
/// * PyTorch: no counterpart; its generators are not reproduced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RandomBits {
    /// Sizes of the result.
    pub shape: Shape,
}

/// A new key from a key and a stream number: `out = (philox(key', 2 stream), philox(key', 2 stream + 1))`, where `key'` is the
/// key with its first word changed. With a second operand (a 0-d integer, such as the counter of a loop) the result is folded
/// once more with that number.
///
/// * Operands `key: u32[2]` and optionally `counter`, a 0-d u32 or i32; result `u32[2]`.
/// * Streams below 2^31 give distinct words of one Philox sequence. Gradient: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FoldIn {
    /// The stream, assigned when the program is traced.
    pub stream: u32,
}

fn check_key(key: &TensorType) -> Result<(), String> {
    if *key != TensorType::new(DType::U32, 2) {
        return Err("the key is not u32[2]".into());
    }
    Ok(())
}

/// The two words of a key.
fn words(key: &Array) -> (u32, u32) {
    let w = key.ints();
    (w[0] as u32, w[1] as u32)
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
        check_key(key)?;
        Ok(vec![TensorType { dtype: DType::U32, shape: self.shape.clone() }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let ((k0, k1), shape) = (words(&operands[0]), sizes(&types[0]));
        let numel: usize = shape.iter().product();
        Ok(vec![Array::int(DType::U32, shape, (0..numel).map(|i| philox(k0, k1, i as u32) as i64).collect())])
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Ok(vec![None])
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (key, ty) = (cx.operand(0), cx.result(0));
        cx.pointwise(0, |b, at| {
            let (k0, k1) = (b.load(key.at(&[IndexExpr::zero()])), b.load(key.at(&[IndexExpr::constant(1)])));
            let index = b.index(&flatten(at, &ty.shape.0), DType::U32);
            Ok(b.call(ScalarFn::Philox, &[k0, k1, index]))
        })
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.shape = self.shape.map(f);
    }
    fn samples(&self) -> Vec<Sample> {
        let of =
            |shape: &[i64]| Sample::new(RandomBits { shape: Shape(shape.iter().map(|&n| n.into()).collect()) }, vec![TensorType::new(DType::U32, 2)]);
        vec![of(&[3, 7]), of(&[]), of(&[0, 2])]
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
        check_key(key)?;
        match &operands[1..] {
            [] => {}
            [counter] if counter.shape.rank() == 0 && matches!(counter.dtype, DType::U32 | DType::I32) => {}
            _ => return Err("takes a key and at most one 0-d counter".into()),
        }
        Ok(vec![key.clone()])
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let mut key = fold(words(&operands[0]), self.stream);
        if let Some(counter) = operands.get(1) {
            key = fold(key, counter.ints()[0] as u32);
        }
        Ok(vec![Array::int(DType::U32, vec![2], vec![key.0 as i64, key.1 as i64])])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        Ok(vec![None; cx.operands.len()])
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let operands = cx.operands.clone();
        cx.pointwise(0, |b, at| {
            let change = b.constant(DType::U32, FOLD as f64);
            let (k0, k1) = (b.load(operands[0].at(&[IndexExpr::zero()])), b.load(operands[0].at(&[IndexExpr::constant(1)])));
            let k0 = b.call(ScalarFn::BitwiseXor, &[k0, change]);
            let base = Dim::int(self.stream.wrapping_mul(2) as i64);
            let Some(counter) = operands.get(1) else {
                let index = b.index(&at[0].plus(&base), DType::U32);
                return Ok(b.call(ScalarFn::Philox, &[k0, k1, index]));
            };
            let (first, second) = (b.constant(DType::U32, self.stream.wrapping_mul(2) as f64), b.constant(DType::U32, 1.0));
            let second = b.call(ScalarFn::Add, &[first, second]);
            let (w0, w1) = (b.call(ScalarFn::Philox, &[k0, k1, first]), b.call(ScalarFn::Philox, &[k0, k1, second]));
            let w0 = b.call(ScalarFn::BitwiseXor, &[w0, change]);
            let counter = b.load(counter.at(&[]));
            let counter = b.cast(counter, DType::U32);
            let twice = b.call(ScalarFn::Add, &[counter, counter]);
            let word = b.index(&at[0], DType::U32);
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
        ]
    }
}
