//! Host arrays of the reference evaluation: floats as f64, integers and bool as i64.

use crate::types::{DType, HostTensor, TensorType};

/// In which arithmetic the graph is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Every float result is rounded to its dtype (sums are accumulated in the dtype's accumulator).
    Working,
    /// Floats are exact f64: the oracle.
    Exact,
}

impl Precision {
    /// Rounds a float result of `dtype`.
    pub fn round(self, dtype: DType, x: f64) -> f64 {
        match self {
            Precision::Working => dtype.round(x),
            Precision::Exact => x,
        }
    }
}

/// Elements of an array.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Elements of float dtypes.
    Float(Vec<f64>),
    /// Elements of integer dtypes and bool (0 or 1).
    Int(Vec<i64>),
}

/// A dense row-major array.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Element type.
    pub dtype: DType,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Elements; the variant fits the dtype.
    pub data: Data,
}

impl Array {
    /// From a host tensor.
    pub fn from_host(t: &HostTensor) -> Array {
        let data = if t.dtype().is_float() { Data::Float(t.to_f64()) } else { Data::Int(t.to_i64()) };
        Array { dtype: t.dtype(), shape: t.shape().to_vec(), data }
    }

    /// To a host tensor, rounding to the dtype.
    pub fn to_host(&self) -> HostTensor {
        match &self.data {
            Data::Float(x) => HostTensor::from_f64(self.dtype, &self.shape, x),
            Data::Int(x) => HostTensor::from_i64(self.dtype, &self.shape, x),
        }
    }

    /// A float array.
    pub fn float(dtype: DType, shape: Vec<usize>, data: Vec<f64>) -> Array {
        Array { dtype, shape, data: Data::Float(data) }
    }

    /// An integer or bool array.
    pub fn int(dtype: DType, shape: Vec<usize>, data: Vec<i64>) -> Array {
        Array { dtype, shape, data: Data::Int(data) }
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements as floats. Integers convert.
    pub fn floats(&self) -> Vec<f64> {
        match &self.data {
            Data::Float(x) => x.clone(),
            Data::Int(x) => x.iter().map(|&i| i as f64).collect(),
        }
    }

    /// Elements as integers. Floats truncate.
    pub fn ints(&self) -> Vec<i64> {
        match &self.data {
            Data::Float(x) => x.iter().map(|&f| f as i64).collect(),
            Data::Int(x) => x.clone(),
        }
    }

    /// Elements picked by flat index, in a new shape.
    pub fn gather(&self, shape: Vec<usize>, index: impl Iterator<Item = usize>) -> Array {
        let data = match &self.data {
            Data::Float(x) => Data::Float(index.map(|i| x[i]).collect()),
            Data::Int(x) => Data::Int(index.map(|i| x[i]).collect()),
        };
        Array { dtype: self.dtype, shape, data }
    }
}

/// Constant sizes of a result type.
pub fn sizes(ty: &TensorType) -> Vec<usize> {
    ty.shape.as_ints().expect("evaluation resolves symbols first")
}

/// All coordinates of a shape in row-major order.
pub fn coordinates(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + '_ {
    let numel: usize = shape.iter().product();
    (0..numel).map(move |mut flat| {
        let mut at = vec![0; shape.len()];
        for (i, &n) in shape.iter().enumerate().rev() {
            at[i] = flat % n;
            flat /= n;
        }
        at
    })
}

/// Row-major flat index of coordinates.
pub fn flat_index(at: &[usize], shape: &[usize]) -> usize {
    at.iter().zip(shape).fold(0, |flat, (&i, &n)| flat * n + i)
}
