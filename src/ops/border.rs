//! Inputs and values made of attributes alone.

use super::array::{coordinates, sizes};
use super::batch::NO_OPERAND;
use super::{Array, BatchContext, Built, Class, Data, Grads, NestBuilder, OpDef, Precision, Sample, VjpContext};
use crate::graph::Value;
use crate::loop_ir::{IndexExpr, Number};
use crate::types::{DType, Dim, HostTensor, Shape, TensorType};
use serde::{Deserialize, Serialize};

/// An input of the graph; the graph's input list carries its role and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InputOp {
    /// Position in the input list.
    pub index: u32,
    /// Its type.
    pub ty: TensorType,
}

impl Default for InputOp {
    fn default() -> InputOp {
        InputOp { index: 0, ty: TensorType::new(DType::F32, ()) }
    }
}

impl OpDef for InputOp {
    fn name(&self) -> &'static str {
        "input"
    }
    fn class(&self) -> Class {
        Class::Input
    }
    fn infer(&self, _operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        Ok(vec![self.ty.clone()])
    }
    fn eval(&self, _operands: &[Array], _types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        Err("inputs are bound by the evaluator".into())
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Ok(vec![])
    }
    fn batch(&self, _cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        Err(NO_OPERAND.into())
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.ty.shape = self.ty.shape.map(f);
    }
}

/// A tensor of one repeated number: `full(x)[i...] = x`. Any dtype; no gradient, it has no operand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Full {
    /// The number, exactly representable in `dtype`.
    pub value: Real,
    /// Element type.
    pub dtype: DType,
    /// Sizes.
    pub shape: Shape,
}

impl Full {
    /// `x` rounded or wrapped to `dtype`, `shape` times.
    pub fn new(x: f64, dtype: DType, shape: Shape) -> Full {
        let x = if dtype.is_float() { dtype.round(x) } else { dtype.wrap(x as i64) as f64 };
        Full { value: Real::new(x), dtype, shape }
    }
}

impl OpDef for Full {
    fn name(&self) -> &'static str {
        "full"
    }
    fn class(&self) -> Class {
        Class::Source
    }
    fn infer(&self, _operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        Ok(vec![TensorType { dtype: self.dtype, shape: self.shape.clone() }])
    }
    fn eval(&self, _operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let shape = sizes(&types[0]);
        let numel = shape.iter().product();
        let x = self.value.get();
        let data = if self.dtype.is_float() { Data::Float(vec![x; numel]) } else { Data::Int(vec![x as i64; numel]) };
        Ok(vec![Array { dtype: self.dtype, shape, data }])
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Ok(vec![])
    }
    fn batch(&self, _cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        Err(NO_OPERAND.into())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (dtype, x) = (self.dtype, self.value.get());
        cx.pointwise(0, |b, _| Ok(b.constant(dtype, x)))
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.shape = self.shape.map(f);
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |x, dtype| Sample::new(Full::new(x, dtype, Shape::new(vec![3.into(), 5.into()])), vec![]);
        vec![of(2.5, DType::F32), of(-7.0, DType::I32), of(1.0, DType::Bool), of(f64::NEG_INFINITY, DType::F32)]
    }
}

/// Memory that nobody wrote, as `torch.empty` gives it: elements may be anything, and are zeros here, the same at every run. Any
/// dtype; no gradient, it has no operand. It is an op of its own so that what depends on it can be told from what is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Empty {
    /// Element type.
    pub dtype: DType,
    /// Sizes.
    pub shape: Shape,
}

impl Empty {
    /// What the elements happen to be.
    fn zeros(&self) -> Full {
        Full::new(0.0, self.dtype, self.shape.clone())
    }
}

impl OpDef for Empty {
    fn name(&self) -> &'static str {
        "empty"
    }
    fn class(&self) -> Class {
        Class::Source
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        self.zeros().infer(operands)
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        self.zeros().eval(operands, types, precision)
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Ok(vec![])
    }
    fn batch(&self, _cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        Err(NO_OPERAND.into())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        self.zeros().lower(cx)
    }
    fn is_unwritten(&self) -> bool {
        true
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.shape = self.shape.map(f);
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype| Sample::new(Empty { dtype, shape: Shape::new(vec![3.into(), 5.into()]) }, vec![]);
        vec![of(DType::F32), of(DType::I32)]
    }
}

/// Counts along one dimension: `iota[..., i, ...] = i`. Integer and float dtypes; no gradient, it has no operand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Iota {
    /// Element type, not bool.
    pub dtype: DType,
    /// Sizes.
    pub shape: Shape,
    /// The dimension counted along.
    pub dim: u32,
}

impl OpDef for Iota {
    fn name(&self) -> &'static str {
        "iota"
    }
    fn class(&self) -> Class {
        Class::Source
    }
    fn infer(&self, _operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        if self.dim as usize >= self.shape.rank() {
            return Err(format!("dimension {} is out of range for {}", self.dim, self.shape));
        }
        if self.dtype == DType::Bool {
            return Err("bool does not count".into());
        }
        Ok(vec![TensorType { dtype: self.dtype, shape: self.shape.clone() }])
    }
    fn eval(&self, _operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let shape = sizes(&types[0]);
        let data: Vec<i64> = coordinates(&shape).map(|at| at[self.dim as usize] as i64).collect();
        let data = if self.dtype.is_float() {
            Data::Float(data.into_iter().map(|x| self.dtype.round(x as f64)).collect())
        } else {
            Data::Int(data.into_iter().map(|x| self.dtype.wrap(x)).collect())
        };
        Ok(vec![Array { dtype: self.dtype, shape, data }])
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Ok(vec![])
    }
    fn batch(&self, _cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        Err(NO_OPERAND.into())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (dtype, dim) = (self.dtype, self.dim as usize);
        cx.pointwise(0, |b, at| Ok(b.index(&at[dim], dtype)))
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.shape = self.shape.map(f);
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype, dim| Sample::new(Iota { dtype, shape: Shape::new(vec![3.into(), 5.into()]), dim }, vec![]);
        vec![of(DType::I32, 0), of(DType::F32, 1), of(DType::U32, 1)]
    }
}

/// A symbolic size as a 0-d number. Integer and float dtypes; no gradient, it has no operand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SizeOf {
    /// The size.
    pub size: Dim,
    /// Element type, not bool.
    pub dtype: DType,
}

impl OpDef for SizeOf {
    fn name(&self) -> &'static str {
        "size"
    }
    fn class(&self) -> Class {
        Class::Source
    }
    fn infer(&self, _operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        if self.dtype == DType::Bool {
            return Err("bool does not count".into());
        }
        Ok(vec![TensorType { dtype: self.dtype, shape: Shape::scalar() }])
    }
    fn eval(&self, _operands: &[Array], _types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let n = self.size.as_int().ok_or("symbolic size")?;
        let data = if self.dtype.is_float() { Data::Float(vec![self.dtype.round(n as f64)]) } else { Data::Int(vec![self.dtype.wrap(n)]) };
        Ok(vec![Array { dtype: self.dtype, shape: vec![], data }])
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Ok(vec![])
    }
    fn batch(&self, _cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        Err(NO_OPERAND.into())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        cx.pointwise(0, |b, _| Ok(b.index(&IndexExpr::constant(self.size.clone()), self.dtype)))
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.size = f(&self.size);
    }
    fn samples(&self) -> Vec<Sample> {
        vec![Sample::new(SizeOf { size: 7.into(), dtype: DType::F32 }, vec![]), Sample::new(SizeOf { size: 3.into(), dtype: DType::I32 }, vec![])]
    }
}

/// A small tensor carried by the graph. Any dtype; no gradient, it has no operand. Large constants are inputs with the role
/// `constant`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Constant {
    /// Element type.
    pub dtype: DType,
    /// Sizes.
    pub shape: Vec<u64>,
    /// Elements in row-major order; integers and bool as whole numbers.
    pub data: Vec<Real>,
}

impl Constant {
    /// From a host tensor.
    pub fn from_host(t: &HostTensor) -> Constant {
        Constant { dtype: t.dtype(), shape: t.shape().iter().map(|&n| n as u64).collect(), data: t.to_f64().into_iter().map(Real::new).collect() }
    }

    /// As a host tensor.
    pub fn to_host(&self) -> HostTensor {
        let shape: Vec<usize> = self.shape.iter().map(|&n| n as usize).collect();
        HostTensor::from_f64(self.dtype, &shape, &self.data.iter().map(|x| x.get()).collect::<Vec<_>>())
    }
}

impl OpDef for Constant {
    fn name(&self) -> &'static str {
        "constant"
    }
    fn class(&self) -> Class {
        Class::Source
    }
    fn infer(&self, _operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let numel = self.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        if numel != Some(self.data.len() as u64) || self.shape.iter().any(|&n| n > i64::MAX as u64) {
            return Err(format!("{} elements do not fill {:?}", self.data.len(), self.shape));
        }
        Ok(vec![TensorType { dtype: self.dtype, shape: Shape::new(self.shape.iter().map(|&n| (n as i64).into()).collect()) }])
    }
    fn eval(&self, _operands: &[Array], _types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        Ok(vec![Array::from_host(&self.to_host())])
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Ok(vec![])
    }
    fn batch(&self, _cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        Err(NO_OPERAND.into())
    }
    fn constant(&self) -> Option<HostTensor> {
        Some(self.to_host())
    }
    fn samples(&self) -> Vec<Sample> {
        vec![Sample::new(Constant::from_host(&HostTensor::f32(&[2, 2], &[1.0, -2.0, 0.5, 3.0])), vec![])]
    }
}

/// A float attribute: compares by bits, prints as a number, `"inf"`, `"-inf"` or `"nan"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Real(u64);

impl Real {
    /// Of a number. All NaNs are one.
    pub fn new(x: f64) -> Real {
        Real(if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() })
    }
    /// The number.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
    /// As a loop IR constant.
    pub fn number(self, dtype: DType) -> Number {
        Number::new(dtype, self.get())
    }
}

impl Serialize for Real {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let x = self.get();
        if x.is_finite() {
            s.serialize_f64(x)
        } else {
            s.serialize_str(if x.is_nan() {
                "nan"
            } else if x > 0.0 {
                "inf"
            } else {
                "-inf"
            })
        }
    }
}

impl<'de> Deserialize<'de> for Real {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Real, D::Error> {
        match serde_json::Value::deserialize(d)? {
            serde_json::Value::Number(n) => n.as_f64().map(Real::new).ok_or_else(|| serde::de::Error::custom("not a number")),
            serde_json::Value::String(s) => s.parse().map(Real::new).map_err(serde::de::Error::custom),
            other => Err(serde::de::Error::custom(format!("{other} is no number"))),
        }
    }
}
