//! Weights of GGUF files (versions 2 and 3), as llama.cpp has them: f32, f16, bf16 and q8_0, which becomes f32.
//!
//! A file is a header, key-value pairs, descriptions of tensors, and their data, each aligned. Descriptions give sizes from the one
//! that runs along memory on, so that a shape is read backwards. A block of q8_0 is a scale in f16 and 32 bytes.

use super::memory;
use crate::error::{Error, Result};
use crate::types::{DType, HostTensor};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT: u64 = 32;
/// Longer names, lists and counts are not believed.
const MAX_TEXT: u64 = 1 << 16;
const MAX_COUNT: u64 = 1 << 24;
const MAX_RANK: u32 = 8;
/// Elements of a block of q8_0, and its bytes.
const BLOCK: (usize, usize) = (32, 34);

type Parsed<T> = Result<T, String>;

/// How a tensor is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Plain(DType),
    Q8,
}

struct Entry {
    name: String,
    encoding: Encoding,
    shape: Vec<usize>,
    start: u64,
    bytes: usize,
}

/// A GGUF file whose header is read.
pub(super) struct Gguf {
    path: PathBuf,
    source: File,
    /// Sorted by name.
    entries: Vec<Entry>,
}

impl Gguf {
    /// Reads and checks the header.
    pub fn open(path: &Path) -> Result<Gguf> {
        let fail = |e: std::io::Error| Error::file(path, e);
        let source = File::open(path).map_err(fail)?;
        let length = source.metadata().map_err(fail)?.len();
        let mut header = Header { source: BufReader::new(&source), at: 0, alignment: ALIGNMENT };
        let entries = header.entries(length).map_err(|what| Error::file(path, format!("not a sound GGUF file: {what}")))?;
        Ok(Gguf { path: path.into(), source, entries })
    }

    /// What it holds, sorted by name, as it is read.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, DType, &[usize])> {
        self.entries.iter().map(|e| {
            let dtype = if let Encoding::Plain(dtype) = e.encoding { dtype } else { DType::F32 };
            (e.name.as_str(), dtype, e.shape.as_slice())
        })
    }

    /// Reads one tensor.
    pub fn read(&mut self, name: &str) -> Result<HostTensor> {
        let fail = |what: String| Error::file(&self.path, format!("{name}: {what}"));
        let entry = self.entries.iter().find(|e| e.name == name).ok_or_else(|| fail("there is no such tensor".into()))?;
        memory::admit(4 * entry.bytes as u64, || format!("tensor {name} of {}", self.path.display()))?;
        let mut bytes = vec![0; entry.bytes];
        let read = self.source.seek(SeekFrom::Start(entry.start)).and_then(|_| self.source.read_exact(&mut bytes));
        read.map_err(|e| fail(e.to_string()))?;
        match entry.encoding {
            Encoding::Plain(dtype) => HostTensor::from_bytes(dtype, entry.shape.clone(), bytes).map_err(fail),
            Encoding::Q8 => Ok(HostTensor::f32(&entry.shape, &bytes.chunks(BLOCK.1).flat_map(block).collect::<Vec<f32>>())),
        }
    }
}

/// The numbers of a block of q8_0.
fn block(bytes: &[u8]) -> impl Iterator<Item = f32> + use<'_> {
    let scale = half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    bytes[2..].iter().map(move |&q| q as i8 as f32 * scale)
}

/// The part of a file before the data.
struct Header<R: Read> {
    source: R,
    at: u64,
    alignment: u64,
}

impl<R: Read> Header<R> {
    fn entries(&mut self, length: u64) -> Parsed<Vec<Entry>> {
        if self.bytes::<4>()? != *MAGIC {
            return Err("it does not begin as one".into());
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!("version {version} is not supported"));
        }
        let (tensors, pairs) = (self.count()?, self.count()?);
        (0..pairs).try_for_each(|_| self.pair())?;
        let mut entries = (0..tensors).map(|_| self.entry()).collect::<Parsed<Vec<Entry>>>()?;
        let data = self.at.next_multiple_of(self.alignment);
        for entry in &mut entries {
            entry.start = entry.start.checked_add(data).filter(|s| s.is_multiple_of(self.alignment)).ok_or("a tensor is not aligned")?;
            if entry.start.checked_add(entry.bytes as u64).is_none_or(|end| end > length) {
                return Err(format!("{} goes beyond the end of the file", entry.name));
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        match entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            Some(pair) => Err(format!("there are two tensors {}", pair[0].name)),
            None => Ok(entries),
        }
    }

    fn pair(&mut self) -> Parsed<()> {
        let (key, kind) = (self.text()?, self.u32()?);
        if key == "general.alignment" && kind == 4 {
            self.alignment = self.u32()? as u64;
            return if self.alignment.is_power_of_two() { Ok(()) } else { Err(format!("its alignment is {}", self.alignment)) };
        }
        self.skip_value(kind)
    }

    fn skip_value(&mut self, kind: u32) -> Parsed<()> {
        match kind {
            8 => self.text().map(|_| ()),
            9 => {
                let (kind, count) = (self.u32()?, self.count()?);
                if kind == 9 {
                    return Err("a list of lists".into());
                }
                (0..count).try_for_each(|_| self.skip_value(kind))
            }
            0 | 1 | 7 => self.bytes::<1>().map(|_| ()),
            2 | 3 => self.bytes::<2>().map(|_| ()),
            4..=6 => self.bytes::<4>().map(|_| ()),
            10..=12 => self.bytes::<8>().map(|_| ()),
            _ => Err(format!("a value of type {kind}")),
        }
    }

    /// A tensor; its place counts from the beginning of the data.
    fn entry(&mut self) -> Parsed<Entry> {
        let (name, rank) = (self.text()?, self.u32()?);
        if rank > MAX_RANK {
            return Err(format!("{name} has {rank} dimensions"));
        }
        let mut shape = (0..rank).map(|_| self.u64()).collect::<Parsed<Vec<u64>>>()?;
        shape.reverse();
        let (kind, start) = (self.u32()?, self.u64()?);
        let count = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|n| *n < 1 << 48).ok_or_else(|| format!("{name} is too large"))?;
        let plain = |dtype: DType| (Encoding::Plain(dtype), count as usize * dtype.size());
        let (encoding, bytes) = match kind {
            0 => plain(DType::F32),
            1 => plain(DType::F16),
            30 => plain(DType::BF16),
            8 if count.is_multiple_of(BLOCK.0 as u64) => (Encoding::Q8, count as usize / BLOCK.0 * BLOCK.1),
            8 => return Err(format!("{name} of q8_0 has {count} elements, which are no blocks of {}", BLOCK.0)),
            _ => return Err(format!("{name} is of GGML type {kind}; f32 (0), f16 (1), q8_0 (8) and bf16 (30) are supported")),
        };
        Ok(Entry { name, encoding, shape: shape.into_iter().map(|d| d as usize).collect(), start, bytes })
    }

    fn text(&mut self) -> Parsed<String> {
        let length = self.u64()?;
        // Texts of values, such as chat templates, may be long; names are not.
        if length > MAX_TEXT * 16 {
            return Err(format!("a text of {length} bytes"));
        }
        let mut bytes = vec![0; length as usize];
        self.source.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        self.at += length;
        String::from_utf8(bytes).map_err(|_| "a text is not UTF-8".into())
    }

    fn count(&mut self) -> Parsed<u64> {
        let count = self.u64()?;
        if count > MAX_COUNT { Err(format!("a count of {count}")) } else { Ok(count) }
    }

    fn u32(&mut self) -> Parsed<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Parsed<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn bytes<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        self.at += N as u64;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 3 with one tensor of that description, and so much data.
    fn file(kind: u32, sizes: &[u64], start: u64, data: usize) -> tempfile::NamedTempFile {
        let text = |s: &str| [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat();
        let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes(), &1u64.to_le_bytes(), &1u64.to_le_bytes()].concat();
        bytes.extend([text("general.alignment"), 4u32.to_le_bytes().to_vec(), 64u32.to_le_bytes().to_vec()].concat());
        bytes.extend([text("w"), (sizes.len() as u32).to_le_bytes().to_vec()].concat());
        sizes.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        bytes.extend([kind.to_le_bytes().to_vec(), start.to_le_bytes().to_vec()].concat());
        bytes.resize(bytes.len().next_multiple_of(64), 0);
        bytes.extend((0..data).map(|k| k as u8));
        let out = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(out.path(), bytes).unwrap();
        out
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let sound = file(1, &[3, 2], 0, 12);
        let mut opened = Gguf::open(sound.path()).unwrap();
        assert_eq!(opened.tensors().collect::<Vec<_>>(), [("w", DType::F16, &[2, 3][..])]);
        assert_eq!(opened.read("w").unwrap().bytes(), (0..12).collect::<Vec<u8>>());
        assert!(opened.read("v").is_err());
        for (wrong, part) in [
            (file(1, &[3, 2], 0, 11), "beyond the end"),
            (file(1, &[3, 2], 8, 64), "not aligned"),
            (file(2, &[32], 0, 64), "GGML type 2"),
            (file(8, &[33], 0, 64), "no blocks"),
            (file(0, &[1 << 40, 1 << 40], 0, 64), "too large"),
            (file(0, &[u64::MAX, 2], 0, 64), "too large"),
            (file(0, &[1; 9], 0, 64), "9 dimensions"),
        ] {
            let error = Gguf::open(wrong.path()).err().expect("refused").to_string();
            assert!(error.contains(part), "{error}");
        }
        let cut = std::fs::read(sound.path()).unwrap();
        for length in 0..60 {
            std::fs::write(sound.path(), &cut[..length]).unwrap();
            assert!(Gguf::open(sound.path()).is_err(), "{length}");
        }
    }
}
