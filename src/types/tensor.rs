//! Tensors in host memory.

use super::{DType, Shape, TensorType};
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::panic::Location;
use std::sync::Arc;

/// A message of a lower room, wrapped into `inductor::Error` by the stage that knows the node and the line.
pub type StringError = String;

/// A dense row-major tensor in host memory; cloning shares the bytes.
///
/// A length that does not fit the shape gives a poisoned tensor, which is empty: whatever takes tensors from a user reports it,
/// with the line that made it. [`HostTensor::from_bytes`] and [`HostTensor::fault`] tell at once.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct HostTensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Arc<Vec<u8>>,
    #[serde(skip)]
    fault: Option<Arc<str>>,
}

impl HostTensor {
    /// From little-endian bytes; the length must fit the shape.
    pub fn from_bytes(dtype: DType, shape: Vec<usize>, data: Vec<u8>) -> Result<HostTensor, StringError> {
        let numel = count(dtype, &shape).ok_or("size overflows")?;
        if numel * dtype.size() != data.len() {
            return Err(format!("{dtype}{shape:?} needs {} bytes, got {}", numel * dtype.size(), data.len()));
        }
        Ok(HostTensor { dtype, shape, data: Arc::new(data), fault: None })
    }

    /// As [`HostTensor::from_bytes`], poisoned at the caller's line where the length does not fit.
    #[track_caller]
    fn poisoning(dtype: DType, shape: &[usize], data: Vec<u8>) -> HostTensor {
        let given = data.len() / dtype.size();
        match HostTensor::from_bytes(dtype, shape.to_vec(), data) {
            Ok(tensor) => tensor,
            Err(_) => HostTensor::poisoned(dtype, shape, Some(given)),
        }
    }

    #[track_caller]
    fn poisoned(dtype: DType, shape: &[usize], given: Option<usize>) -> HostTensor {
        let at = Location::caller();
        let fault = match (count(dtype, shape), given) {
            (Some(n), Some(given)) => format!("{dtype}{shape:?} has {n} elements, and {given} are given (at {at})"),
            _ => format!("{dtype}{shape:?} has more elements than can be addressed (at {at})"),
        };
        HostTensor { dtype, shape: vec![0], data: Arc::default(), fault: Some(fault.into()) }
    }

    /// Why it is no tensor: its length and shape do not fit.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// An f32 tensor; poisoned when the length does not fit the shape.
    #[track_caller]
    pub fn f32(shape: &[usize], data: &[f32]) -> HostTensor {
        HostTensor::poisoning(DType::F32, shape, bytemuck::cast_slice(data).to_vec())
    }

    /// An i32 tensor; poisoned when the length does not fit the shape.
    #[track_caller]
    pub fn i32(shape: &[usize], data: &[i32]) -> HostTensor {
        HostTensor::poisoning(DType::I32, shape, bytemuck::cast_slice(data).to_vec())
    }

    /// As [`HostTensor::f32`]; a length that does not fit the shape is an error at once.
    ///
    /// ```
    /// use inductor::HostTensor;
    /// let error = HostTensor::try_f32(&[2, 3], &[0.0; 5]).unwrap_err().to_string();
    /// assert!(error.contains("f32[2, 3] has 6 elements, and 5 are given"));
    /// ```
    #[track_caller]
    pub fn try_f32(shape: &[usize], data: &[f32]) -> Result<HostTensor, Error> {
        HostTensor::f32(shape, data).checked()
    }

    /// As [`HostTensor::i32`]; a length that does not fit the shape is an error at once.
    #[track_caller]
    pub fn try_i32(shape: &[usize], data: &[i32]) -> Result<HostTensor, Error> {
        HostTensor::i32(shape, data).checked()
    }

    /// As [`HostTensor::from_f64`]; a length that does not fit the shape is an error at once.
    #[track_caller]
    pub fn try_from_f64(dtype: DType, shape: &[usize], data: &[f64]) -> Result<HostTensor, Error> {
        HostTensor::from_f64(dtype, shape, data).checked()
    }

    /// As [`HostTensor::from_i64`]; a length that does not fit the shape is an error at once.
    #[track_caller]
    pub fn try_from_i64(dtype: DType, shape: &[usize], data: &[i64]) -> Result<HostTensor, Error> {
        HostTensor::from_i64(dtype, shape, data).checked()
    }

    /// The tensor, or why it is none.
    fn checked(self) -> Result<HostTensor, Error> {
        match &self.fault {
            Some(fault) => Err(Error::Input(fault.to_string())),
            None => Ok(self),
        }
    }

    /// The only element, as a number.
    ///
    /// ```
    /// use inductor::HostTensor;
    /// assert_eq!(HostTensor::f32(&[1, 1], &[2.5]).item()?, 2.5);
    /// assert!(HostTensor::f32(&[2], &[1.0, 2.0]).item().is_err());
    /// println!("{}", HostTensor::f32(&[2], &[1.0, 2.0])); // [1. 2.]
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn item(&self) -> Result<f64, Error> {
        match (self.fault(), &self.to_f64()[..]) {
            (Some(fault), _) => Err(Error::Input(fault.into())),
            (None, [x]) => Ok(*x),
            (None, _) => Err(Error::Input(format!("item: {} has {} elements, not one", self.ty(), self.numel()))),
        }
    }

    /// A tensor of any dtype from numbers, rounded or wrapped to it; poisoned when the length does not fit the shape.
    ///
    /// ```
    /// use inductor::{DType, HostTensor};
    /// let half = HostTensor::from_f64(DType::F16, &[2], &[0.5, 1e9]);
    /// assert_eq!(format!("{half:?}"), "f16[2] [0.5, inf]");
    /// ```
    #[track_caller]
    pub fn from_f64(dtype: DType, shape: &[usize], data: &[f64]) -> HostTensor {
        let mut bytes = Vec::with_capacity(data.len() * dtype.size());
        for &x in data {
            match dtype {
                DType::F32 => bytes.extend((x as f32).to_le_bytes()),
                DType::F16 => bytes.extend(half::f16::from_f64(x).to_le_bytes()),
                DType::BF16 => bytes.extend(half::bf16::from_f32(x as f32).to_le_bytes()),
                DType::F64 => bytes.extend(x.to_le_bytes()),
                _ => push_int(&mut bytes, dtype, x as i64),
            }
        }
        HostTensor::poisoning(dtype, shape, bytes)
    }

    /// A tensor of an integer or bool dtype from integers, wrapped to it (floats convert); poisoned when the length does not fit
    /// the shape.
    #[track_caller]
    pub fn from_i64(dtype: DType, shape: &[usize], data: &[i64]) -> HostTensor {
        if dtype.is_float() {
            return HostTensor::from_f64(dtype, shape, &data.iter().map(|&x| x as f64).collect::<Vec<_>>());
        }
        let mut bytes = Vec::with_capacity(data.len() * dtype.size());
        for &x in data {
            push_int(&mut bytes, dtype, x);
        }
        HostTensor::poisoning(dtype, shape, bytes)
    }

    /// All zeros; poisoned when there are more than can be addressed.
    #[track_caller]
    pub fn zeros(dtype: DType, shape: &[usize]) -> HostTensor {
        match count(dtype, shape) {
            Some(numel) => HostTensor { dtype, shape: shape.to_vec(), data: Arc::new(vec![0; numel * dtype.size()]), fault: None },
            None => HostTensor::poisoned(dtype, shape, None),
        }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Little-endian bytes, row-major.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// The type, with constant sizes.
    pub fn ty(&self) -> TensorType {
        TensorType { dtype: self.dtype, shape: Shape::new(self.shape.iter().map(|&d| (d as i64).into()).collect()) }
    }

    /// The same numbers as another dtype: floats are rounded, what becomes an integer loses its fraction and wraps.
    ///
    /// ```
    /// use inductor::{DType, HostTensor};
    /// let labels = HostTensor::from_i64(DType::I64, &[3], &[2, 0, 1]); // as PyTorch has them
    /// assert_eq!(labels.to_dtype(DType::I32), HostTensor::i32(&[3], &[2, 0, 1]));
    /// ```
    #[track_caller]
    pub fn to_dtype(&self, dtype: DType) -> HostTensor {
        match (self.fault(), self.dtype.is_float()) {
            (Some(_), _) => self.clone(),
            (None, _) if dtype == self.dtype => self.clone(),
            (None, _) if dtype == DType::Bool => {
                HostTensor::from_i64(dtype, &self.shape, &self.to_f64().iter().map(|&x| (x != 0.0) as i64).collect::<Vec<_>>())
            }
            (None, true) => HostTensor::from_f64(dtype, &self.shape, &self.to_f64()),
            (None, false) => HostTensor::from_i64(dtype, &self.shape, &self.to_i64()),
        }
    }

    /// Elements as f64 (integers convert, bool is 0 or 1).
    pub fn to_f64(&self) -> Vec<f64> {
        let b = &self.data[..];
        match self.dtype {
            DType::F32 => chunks::<4>(b).map(|c| f32::from_le_bytes(c) as f64).collect(),
            DType::F16 => chunks::<2>(b).map(|c| half::f16::from_le_bytes(c).to_f64()).collect(),
            DType::BF16 => chunks::<2>(b).map(|c| half::bf16::from_le_bytes(c).to_f64()).collect(),
            DType::F64 => chunks::<8>(b).map(f64::from_le_bytes).collect(),
            _ => self.to_i64().into_iter().map(|x| x as f64).collect(),
        }
    }

    /// Elements as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        if self.dtype == DType::F32 {
            return chunks::<4>(&self.data).map(f32::from_le_bytes).collect();
        }
        self.to_f64().into_iter().map(|x| x as f32).collect()
    }

    /// Elements as i64 (floats truncate).
    pub fn to_i64(&self) -> Vec<i64> {
        let b = &self.data[..];
        match self.dtype {
            DType::I32 => chunks::<4>(b).map(|c| i32::from_le_bytes(c) as i64).collect(),
            DType::U32 => chunks::<4>(b).map(|c| u32::from_le_bytes(c) as i64).collect(),
            DType::I64 => chunks::<8>(b).map(i64::from_le_bytes).collect(),
            DType::I16 => chunks::<2>(b).map(|c| i16::from_le_bytes(c) as i64).collect(),
            DType::I8 => b.iter().map(|&x| x as i8 as i64).collect(),
            DType::U8 => b.iter().map(|&x| x as i64).collect(),
            DType::Bool => b.iter().map(|&x| (x != 0) as i64).collect(),
            _ => self.to_f64().into_iter().map(|x| x as i64).collect(),
        }
    }
}

/// Elements of a tensor whose bytes can be addressed.
fn count(dtype: DType, shape: &[usize]) -> Option<usize> {
    let numel = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    numel.checked_mul(dtype.size()).filter(|bytes| isize::try_from(*bytes).is_ok()).map(|_| numel)
}

fn push_int(bytes: &mut Vec<u8>, dtype: DType, x: i64) {
    match dtype {
        DType::I64 => bytes.extend(x.to_le_bytes()),
        DType::I32 => bytes.extend((x as i32).to_le_bytes()),
        DType::U32 => bytes.extend((x as u32).to_le_bytes()),
        DType::I16 => bytes.extend((x as i16).to_le_bytes()),
        DType::I8 => bytes.push(x as i8 as u8),
        DType::U8 => bytes.push(x as u8),
        DType::Bool => bytes.push((x != 0) as u8),
        _ => unreachable!("push_int on a float dtype"),
    }
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.chunks_exact(N).map(|c| c.try_into().expect("exact chunk"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_do_not_fit_poison() {
        let line = line!() + 1;
        let short = HostTensor::f32(&[2, 3], &[0.0; 5]);
        let fault = short.fault().unwrap();
        assert!(fault.starts_with("f32[2, 3] has 6 elements, and 5 are given (at ") && fault.contains(&format!("tensor.rs:{line}")), "{fault}");
        assert_eq!((short.numel(), short.to_f32().len(), short.ty().to_string()), (0, 0, "f32[0]".to_string()));
        let huge: &[&[usize]] = &[&[usize::MAX, 2], &[1 << 31, 1 << 31, 4], &[1 << 61]];
        for shape in huge {
            for tensor in [HostTensor::zeros(DType::F32, shape), HostTensor::i32(shape, &[1]), HostTensor::from_f64(DType::F64, shape, &[1.0])] {
                assert!(tensor.fault().unwrap().contains("more elements than can be addressed"));
            }
        }
        assert!(HostTensor::from_i64(DType::Bool, &[2], &[1]).fault().is_some());
        assert_eq!(HostTensor::from_i64(DType::I8, &[0, 7], &[]).fault(), None);
    }
}
