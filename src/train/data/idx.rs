//! The IDX format, in which MNIST and its kin are published (uncompressed).

use crate::error::{Error, Result};
use crate::types::{DType, HostTensor};
use std::path::Path;

/// Reads a tensor: two zero bytes, a type, the number of dimensions, the dimensions, the elements, all big endian.
pub fn read_idx(path: impl AsRef<Path>) -> Result<HostTensor> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
    parse(&bytes).map_err(|what| Error::file(path, format!("not a sound IDX file: {what}")))
}

/// A tensor of the bytes of a file.
fn parse(bytes: &[u8]) -> Result<HostTensor, String> {
    let &[0, 0, kind, rank, ref rest @ ..] = bytes else { return Err("it does not begin as one; a compressed file is to be unpacked".into()) };
    let dtype = match kind {
        0x08 => DType::U8,
        0x09 => DType::I8,
        0x0b => DType::I16,
        0x0c => DType::I32,
        0x0d => DType::F32,
        0x0e => DType::F64,
        _ => return Err(format!("type {kind:#x} is none")),
    };
    let (sizes, data) = rest.split_at_checked(4 * rank as usize).ok_or("its sizes are cut short")?;
    let shape: Vec<usize> = sizes.as_chunks::<4>().0.iter().map(|&c| u32::from_be_bytes(c) as usize).collect();
    let little = data.chunks(dtype.size()).flat_map(|element| element.iter().rev().copied()).collect();
    HostTensor::from_bytes(dtype, shape, little)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_big_endian() {
        let header = [0, 0, 0x0b, 2, 0, 0, 0, 1, 0, 0, 0, 2];
        let tensor = parse(&[&header[..], &[0x01, 0x02, 0xff, 0xfe]].concat()).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape(), tensor.to_i64()), (DType::I16, &[1, 2][..], vec![258, -2]));
        for wrong in [&header[..], &[0x1f, 0x8b, 8, 0], &[0, 0, 7, 0], &[0, 0, 8, 2, 0, 0]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
