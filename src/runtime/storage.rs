//! Host tensors to device bytes and back, by [`Storage`].

use crate::schedule::PlacedBuffer;
use crate::types::{Bindings, DType, Dim, HostTensor, Storage};
use std::borrow::Cow;

/// Bytes of one element, as a device stores it.
fn element_bytes(dtype: DType, storage: Storage) -> usize {
    match storage {
        Storage::Native | Storage::Packed => dtype.size(),
        Storage::Word | Storage::Narrow => 4,
    }
}

/// Bytes of `numel` elements, whole words.
pub fn stored_bytes(dtype: DType, storage: Storage, numel: usize) -> usize {
    (numel * element_bytes(dtype, storage)).next_multiple_of(4)
}

/// The bytes a device holds for `tensor`, its own where they are; an i64 that does not fit a narrow buffer is named in the error.
pub fn encode(tensor: &HostTensor, storage: Storage) -> Result<Cow<'_, [u8]>, String> {
    let dtype = tensor.dtype();
    let mut bytes = match storage {
        Storage::Native | Storage::Packed if dtype != DType::Bool && tensor.bytes().len().is_multiple_of(4) => {
            return Ok(Cow::Borrowed(tensor.bytes()));
        }
        Storage::Native | Storage::Packed if dtype == DType::Bool => tensor.bytes().iter().map(|&b| (b != 0) as u8).collect(),
        Storage::Native | Storage::Packed => tensor.bytes().to_vec(),
        Storage::Word if dtype.is_float() => bytemuck::cast_slice(&tensor.to_f32()).to_vec(),
        Storage::Word => tensor.to_i64().iter().flat_map(|&x| (x as u32).to_le_bytes()).collect(),
        Storage::Narrow => narrow(tensor)?,
    };
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(Cow::Owned(bytes))
}

fn narrow(tensor: &HostTensor) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(tensor.numel() * 4);
    for (i, x) in tensor.to_i64().into_iter().enumerate() {
        let x32 = i32::try_from(x).map_err(|_| format!("element {i} is {x}, and this device holds i64 in 32 bits"))?;
        out.extend(x32.to_le_bytes());
    }
    Ok(out)
}

/// The host tensor of that dtype and shape behind device bytes.
pub fn decode(bytes: &[u8], storage: Storage, dtype: DType, shape: &[usize]) -> Result<HostTensor, String> {
    let numel: usize = shape.iter().product();
    let needed = numel * element_bytes(dtype, storage);
    let bytes = bytes.get(..needed).ok_or_else(|| format!("{needed} bytes expected, the device gave {}", bytes.len()))?;
    match storage {
        Storage::Native | Storage::Packed => HostTensor::from_bytes(dtype, shape.to_vec(), bytes.to_vec()),
        Storage::Word if dtype.is_float() => {
            let values: Vec<f64> = words(bytes).map(|w| f32::from_bits(w) as f64).collect();
            Ok(HostTensor::from_f64(dtype, shape, &values))
        }
        Storage::Word if dtype == DType::U32 => Ok(HostTensor::from_i64(dtype, shape, &words(bytes).map(i64::from).collect::<Vec<_>>())),
        Storage::Word | Storage::Narrow => Ok(HostTensor::from_i64(dtype, shape, &words(bytes).map(|w| w as i32 as i64).collect::<Vec<_>>())),
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]))
}

/// The sizes of a buffer under `bindings`.
pub fn concrete_shape(buffer: &PlacedBuffer, bindings: &Bindings) -> Result<Vec<usize>, String> {
    let size = |d: &Dim| {
        let n = d.eval(bindings)?;
        usize::try_from(n).map_err(|_| format!("{}: size {d} is {n}", buffer.name))
    };
    buffer.ty.shape.0.iter().map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(dtype: DType, storage: Storage, data: &[f64]) {
        let t = HostTensor::from_f64(dtype, &[data.len()], data);
        let bytes = encode(&t, storage).unwrap();
        assert_eq!(bytes.len(), stored_bytes(dtype, storage, data.len()), "{dtype} {storage:?}");
        assert_eq!(decode(&bytes, storage, dtype, &[data.len()]).unwrap(), t, "{dtype} {storage:?}");
    }

    #[test]
    fn every_storage_round_trips() {
        for dtype in DType::ALL {
            let data: &[f64] = if dtype == DType::Bool { &[1.0, 0.0, 1.0] } else { &[1.0, 7.0, 100.0, 3.0, 5.0] };
            round_trip(dtype, Storage::Native, data);
            round_trip(dtype, Storage::Packed, data);
            if dtype.size() < 4 {
                round_trip(dtype, Storage::Word, data);
            }
        }
        round_trip(DType::I8, Storage::Word, &[-1.0, -128.0]);
        round_trip(DType::I64, Storage::Narrow, &[-1.0, 2147483647.0]);
    }

    #[test]
    fn narrow_refuses_what_does_not_fit() {
        let t = HostTensor::from_i64(DType::I64, &[2], &[1, 1 << 40]);
        assert!(encode(&t, Storage::Narrow).unwrap_err().starts_with("element 1 is 1099511627776"));
    }
}
