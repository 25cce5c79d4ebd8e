//! Raw tensors of an archive: weights, buffers and constants, by the name that the signature calls them.

use super::archive::Archive;
use super::schema::{Payload, PayloadConfig, SymInt, TensorMeta};
use crate::types::{DType, HostTensor};
use std::collections::BTreeMap;

/// Tensors may take this much more memory than the archive has bytes: what expanded ones need.
const EXPANSION: u64 = 16 << 20;

/// Opens tensors by name.
pub struct Weights {
    payloads: BTreeMap<String, (&'static str, Payload)>,
    big_endian: bool,
    budget: u64,
}

/// The dtype of that number.
pub fn dtype(number: i64) -> Result<DType, String> {
    Ok(match number {
        1 => DType::U8,
        2 => DType::I8,
        3 => DType::I16,
        4 => DType::I32,
        5 => DType::I64,
        6 => DType::F16,
        7 => DType::F32,
        8 => DType::F64,
        12 => DType::Bool,
        13 => DType::BF16,
        9..=11 => return Err("complex numbers are not supported".into()),
        28 => DType::U32,
        _ => return Err(format!("dtype number {number} is not supported")),
    })
}

impl Weights {
    /// Reads both configurations and the byte order.
    pub fn open(archive: &mut Archive) -> Result<Weights, String> {
        let big_endian = match archive.size("byteorder") {
            None => false,
            Some(_) => match &archive.read("byteorder")?[..] {
                b"little" => false,
                b"big" => true,
                other => return Err(format!("byte order {:?} is neither little nor big", String::from_utf8_lossy(&other[..other.len().min(16)]))),
            },
        };
        let mut payloads = BTreeMap::new();
        for (folder, file) in [("data/weights", "model_weights_config.json"), ("data/constants", "model_constants_config.json")] {
            let path = format!("{folder}/{file}");
            if archive.size(&path).is_none() {
                continue;
            }
            let config: PayloadConfig = archive.read_json(&path)?;
            for (name, payload) in config.config {
                if payloads.contains_key(&name) {
                    return Err(format!("{name} is both a weight and a constant"));
                }
                payloads.insert(name, (folder, payload));
            }
        }
        Ok(Weights { payloads, big_endian, budget: archive.len() + EXPANSION })
    }

    /// What tells tied tensors: the file and how it is read. Equal for names that share one tensor.
    pub fn identity(&self, name: &str) -> Option<String> {
        let (folder, payload) = self.payloads.get(name)?;
        Some(format!("{folder}/{} {:?}", payload.path_name, payload.tensor_meta))
    }

    /// Whether it is part of a state dict: constants and non-persistent buffers are not.
    pub fn is_saved(&self, name: &str) -> bool {
        self.payloads.get(name).is_some_and(|(folder, _)| *folder == "data/weights")
    }

    /// Whether a parameter is held still: `requires_grad` is false.
    pub fn is_frozen(&self, name: &str) -> bool {
        self.payloads.get(name).and_then(|(_, payload)| payload.tensor_meta.as_ref()?.requires_grad) == Some(false)
    }

    /// The tensor of that name.
    pub fn load(&mut self, archive: &mut Archive, name: &str) -> Result<HostTensor, String> {
        let (folder, payload) = self.payloads.get(name).ok_or_else(|| format!("{name} has no data in the archive"))?;
        let fail = |what: String| format!("{name}: {what}");
        if payload.use_pickle {
            return Err(fail("its data is pickled, and unpickling untrusted data is not safe; export the model without it".into()));
        }
        let meta = payload.tensor_meta.as_ref().ok_or_else(|| fail("it is no tensor".into()))?;
        let layout = Layout::new(meta).map_err(fail)?;
        let size = layout.numel.checked_mul(layout.dtype.size() as u64).ok_or_else(|| fail("its size overflows".into()))?;
        self.budget = self.budget.checked_sub(size).ok_or_else(|| fail(format!("its {size} bytes are more than the archive holds")))?;
        let path = format!("{folder}/{}", payload.path_name);
        let mut bytes = archive.read(&path).map_err(fail)?;
        if self.big_endian && layout.dtype.size() > 1 {
            bytes.chunks_exact_mut(layout.dtype.size()).for_each(|element| element.reverse());
        }
        let dense = layout.dense(bytes).map_err(fail)?;
        let shape = layout.sizes.iter().map(|&n| n as usize).collect();
        HostTensor::from_bytes(layout.dtype, shape, dense).map_err(fail)
    }
}

/// How a tensor lies in its file.
struct Layout {
    dtype: DType,
    sizes: Vec<u64>,
    strides: Vec<u64>,
    offset: u64,
    numel: u64,
}

impl Layout {
    fn new(meta: &TensorMeta) -> Result<Layout, String> {
        let number = |n: &SymInt| match n {
            SymInt::AsInt(n) => u64::try_from(*n).map_err(|_| format!("{n} is no size")),
            SymInt::AsExpr(e) => Err(format!("its size {} is not constant", e.expr_str.chars().take(80).collect::<String>())),
        };
        let sizes: Vec<u64> = meta.sizes.iter().map(number).collect::<Result<_, _>>()?;
        let strides: Vec<u64> = meta.strides.iter().map(number).collect::<Result<_, _>>()?;
        if strides.len() != sizes.len() || sizes.len() > 64 {
            return Err(format!("it has {} sizes and {} strides", sizes.len(), strides.len()));
        }
        let offset = meta.storage_offset.as_ref().map_or(Ok(0), number)?;
        let numel = sizes.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).ok_or("its size overflows")?;
        Ok(Layout { dtype: dtype(meta.dtype)?, sizes, strides, offset, numel })
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.sizes.iter().zip(&self.strides).rev().all(|(&n, &stride)| {
            let fits = n == 1 || stride == expected;
            expected = expected.saturating_mul(n);
            fits
        })
    }

    /// Row-major bytes from the file's.
    fn dense(&self, mut bytes: Vec<u8>) -> Result<Vec<u8>, String> {
        let width = self.dtype.size() as u64;
        if self.numel == 0 {
            return Ok(vec![]);
        }
        let last = self.sizes.iter().zip(&self.strides).try_fold(self.offset, |at, (&n, &s)| at.checked_add((n - 1).checked_mul(s)?));
        let end = last.and_then(|at| at.checked_add(1)?.checked_mul(width)).ok_or("its layout overflows")?;
        if end > bytes.len() as u64 {
            return Err(format!("it reaches byte {end} of a file of {}", bytes.len()));
        }
        if self.is_contiguous() {
            bytes.truncate(end as usize);
            bytes.drain(..(self.offset * width) as usize);
            return Ok(bytes);
        }
        let width = width as usize;
        let mut out = Vec::with_capacity(self.numel as usize * width);
        let mut at = vec![0u64; self.sizes.len()];
        for _ in 0..self.numel {
            let element = at.iter().zip(&self.strides).fold(self.offset, |sum, (&i, &s)| sum + i * s) as usize * width;
            out.extend_from_slice(&bytes[element..element + width]);
            for (i, &n) in at.iter_mut().zip(&self.sizes).rev() {
                *i += 1;
                if *i < n {
                    break;
                }
                *i = 0;
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(sizes: &[i64], strides: &[i64], offset: i64) -> Result<Layout, String> {
        let ints = |x: &[i64]| x.iter().map(|&n| SymInt::AsInt(n)).collect();
        Layout::new(&TensorMeta {
            dtype: 1,
            sizes: ints(sizes),
            strides: ints(strides),
            storage_offset: Some(SymInt::AsInt(offset)),
            requires_grad: None,
        })
    }

    #[test]
    fn layouts_become_row_major() {
        let check = |sizes: &[i64], strides: &[i64], offset, expected: &[u8]| {
            assert_eq!(layout(sizes, strides, offset).unwrap().dense(vec![0, 1, 2, 3, 4, 5]).unwrap(), expected);
        };
        check(&[2, 3], &[3, 1], 0, &[0, 1, 2, 3, 4, 5]);
        check(&[3, 2], &[1, 3], 0, &[0, 3, 1, 4, 2, 5]);
        check(&[2], &[1], 3, &[3, 4]);
        check(&[2, 2], &[0, 1], 1, &[1, 2, 1, 2]);
        check(&[2, 0], &[9, 9], 9, &[]);
    }

    #[test]
    fn absurd_layouts_are_refused() {
        assert!(layout(&[2, 3], &[3, 1], 1).unwrap().dense(vec![0; 6]).is_err());
        assert!(layout(&[i64::MAX, i64::MAX], &[1, 1], 0).is_err());
        assert!(layout(&[2, 2], &[i64::MAX, i64::MAX], i64::MAX).unwrap().dense(vec![0; 6]).is_err());
        assert!(layout(&[-1], &[1], 0).is_err());
        assert!(layout(&[1], &[], 0).is_err());
    }
}
