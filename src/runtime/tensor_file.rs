//! Named tensors in safetensors files.
//!
//! A file is read by parts: its header first, which says what is there, then the tensors that are asked for. So a file of any length
//! costs what is wanted of it. Parts are read rather than mapped: a file that another process cuts short while it is mapped would
//! end this one.

use super::memory;
use crate::error::{Error, Result};
use crate::types::{DType, HostTensor};
use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Named tensors of a safetensors file.
pub type NamedTensors = Vec<(String, HostTensor)>;

/// Bytes of a header beyond these are refused; the format's own limit.
const MAX_HEADER: u64 = 100_000_000;
/// What is no regular file is read as a whole, up to so many bytes.
const MAX_STREAM: u64 = 1 << 32;

const DTYPES: [(DType, Dtype); 11] = [
    (DType::F32, Dtype::F32),
    (DType::F16, Dtype::F16),
    (DType::BF16, Dtype::BF16),
    (DType::F64, Dtype::F64),
    (DType::I32, Dtype::I32),
    (DType::I64, Dtype::I64),
    (DType::U32, Dtype::U32),
    (DType::U8, Dtype::U8),
    (DType::I8, Dtype::I8),
    (DType::I16, Dtype::I16),
    (DType::Bool, Dtype::BOOL),
];

/// Where tensors are read from.
trait Source: Read + Seek {}
impl<T: Read + Seek> Source for T {}

/// One tensor of a file.
struct Entry {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    /// Its first byte in the file.
    start: u64,
    bytes: usize,
}

/// A safetensors file whose header is read.
pub struct TensorFile {
    path: PathBuf,
    source: Box<dyn Source>,
    /// Sorted by name.
    entries: Vec<Entry>,
    metadata: HashMap<String, String>,
}

impl TensorFile {
    /// Reads and checks the header.
    pub fn open(path: &Path) -> Result<TensorFile> {
        let fail = |e: std::io::Error| Error::file(path, e);
        let file = File::open(path).map_err(fail)?;
        let facts = file.metadata().map_err(fail)?;
        let (mut source, length): (Box<dyn Source>, u64) = if facts.is_file() {
            (Box::new(file), facts.len())
        } else {
            let mut bytes = vec![];
            file.take(MAX_STREAM).read_to_end(&mut bytes).map_err(fail)?;
            let length = bytes.len() as u64;
            (Box::new(Cursor::new(bytes)), length)
        };
        let unsound = |what: String| Error::file(path, format!("not a sound safetensors file: {what}"));
        let (header, start) = read_header(&mut source, length).map_err(unsound)?;
        let entries = entries(&header, start).map_err(|what| Error::file(path, what))?;
        Ok(TensorFile { path: path.into(), source, entries, metadata: header.metadata().clone().unwrap_or_default() })
    }

    /// What it holds, sorted by name: names, dtypes and shapes.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, DType, &[usize])> {
        self.entries.iter().map(|e| (e.name.as_str(), e.dtype, e.shape.as_slice()))
    }

    /// Whether it holds a tensor of that name.
    pub fn holds(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// Words that its writer left.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// Reads one tensor.
    pub fn read(&mut self, name: &str) -> Result<HostTensor> {
        let at = self.position(name).ok_or_else(|| Error::file(&self.path, format!("there is no tensor {name}")))?;
        self.read_at(at)
    }

    /// Reads all tensors, sorted by name.
    pub fn read_all(&mut self) -> Result<NamedTensors> {
        let total = self.entries.iter().fold(0u64, |n, e| n.saturating_add(e.bytes as u64));
        memory::admit(total, || format!("the tensors of {}", self.path.display()))?;
        (0..self.entries.len()).map(|k| Ok((self.entries[k].name.clone(), self.read_at(k)?))).collect()
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.entries.binary_search_by(|e| e.name.as_str().cmp(name)).ok()
    }

    fn read_at(&mut self, k: usize) -> Result<HostTensor> {
        let entry = &self.entries[k];
        let fail = |what: String| Error::file(&self.path, format!("{}: {what}", entry.name));
        memory::admit(entry.bytes as u64, || format!("tensor {} of {}", entry.name, self.path.display()))?;
        let mut bytes = vec![0; entry.bytes];
        let read = self.source.seek(SeekFrom::Start(entry.start)).and_then(|_| self.source.read_exact(&mut bytes));
        read.map_err(|e| fail(e.to_string()))?;
        HostTensor::from_bytes(entry.dtype, entry.shape.clone(), bytes).map_err(fail)
    }
}

/// The header, and where the data begins. The data must fill the rest of the file.
fn read_header(source: &mut dyn Source, length: u64) -> Result<(Metadata, u64), String> {
    let mut size = [0u8; 8];
    source.read_exact(&mut size).map_err(|_| format!("{length} bytes hold no header"))?;
    if size.starts_with(b"PK\x03\x04") {
        return Err("it is a zip archive, as torch.save writes; safetensors.torch.save_file writes what is read here".into());
    }
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER || size > length.saturating_sub(8) {
        return Err(format!("its header is to have {size} bytes, of {length} of the file"));
    }
    let mut text = vec![0; size as usize];
    source.read_exact(&mut text).map_err(|e| e.to_string())?;
    let header: Metadata = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    let end = (8 + size).checked_add(header.data_len() as u64);
    if end != Some(length) {
        return Err(format!("its header describes {} bytes, the file has {}", header.data_len(), length - 8 - size));
    }
    Ok((header, 8 + size))
}

fn entries(header: &Metadata, start: u64) -> Result<Vec<Entry>, String> {
    let mut out = header.tensors().into_iter().map(|(name, info)| entry(name, info, start)).collect::<Result<Vec<_>, String>>()?;
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

fn entry(name: String, info: &TensorInfo, start: u64) -> Result<Entry, String> {
    let dtype = DTYPES.iter().find(|(_, theirs)| *theirs == info.dtype).map(|(ours, _)| *ours);
    let dtype = dtype.ok_or_else(|| format!("{name}: dtype {:?} is not supported", info.dtype))?;
    let (from, to) = info.data_offsets;
    Ok(Entry { name, dtype, shape: info.shape.clone(), start: start + from as u64, bytes: to - from })
}

/// Writes named tensors as safetensors.
pub fn save_tensors(path: &Path, tensors: &[(String, HostTensor)], metadata: Option<HashMap<String, String>>) -> Result<()> {
    let mut views = vec![];
    for (name, tensor) in tensors {
        if let Some(fault) = tensor.fault() {
            return Err(Error::Input(format!("{name}: {fault}")));
        }
        let dtype = DTYPES.iter().find(|(ours, _)| *ours == tensor.dtype()).map(|(_, theirs)| *theirs).unwrap_or(Dtype::U8);
        let view = TensorView::new(dtype, tensor.shape().to_vec(), tensor.bytes()).map_err(|e| Error::file(path, e))?;
        views.push((name.as_str(), view));
    }
    let bytes = safetensors::serialize(views, metadata).map_err(|e| Error::file(path, e))?;
    crate::files::write(path, bytes)
}

/// Reads all tensors and the metadata of a safetensors file, sorted by name.
pub fn load_tensors(path: &Path) -> Result<(NamedTensors, HashMap<String, String>)> {
    let mut file = TensorFile::open(path)?;
    Ok((file.read_all()?, file.metadata))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(header: &str, data: u64) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let mut file = File::create(&path).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        // Without data, which takes no room on the disk.
        file.set_len(8 + header.len() as u64 + data).unwrap();
        (folder, path)
    }

    #[test]
    fn a_huge_file_costs_what_is_read_of_it() {
        let tera = 1u64 << 40;
        let header = format!(
            r#"{{"small":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},"vast":{{"dtype":"U8","shape":[{tera}],"data_offsets":[8,{}]}}}}"#,
            tera + 8
        );
        let (_folder, path) = file(&header, tera + 8);
        let mut found = TensorFile::open(&path).unwrap();
        assert_eq!(found.tensors().map(|(n, ..)| n).collect::<Vec<_>>(), ["small", "vast"]);
        assert_eq!(found.read("small").unwrap(), HostTensor::zeros(DType::F32, &[2]));
        assert!(found.read("vaster").is_err());
        if memory::available().is_some() {
            assert!(found.read("vast").unwrap_err().to_string().contains("are available"));
            assert!(load_tensors(&path).unwrap_err().to_string().contains("are available"));
        }
    }

    #[test]
    fn archives_of_pytorch_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.pt");
        std::fs::write(&path, b"PK\x03\x04archive/data.pkl").unwrap();
        let error = TensorFile::open(&path).err().expect("it is none").to_string();
        assert!(error.contains("torch.save") && error.contains("save_file"), "{error}");
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let one = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        for (header, data) in [(one, 7), (one, 9), ("{", 0), ("", 0), (&one.replace("[2]", "[3]"), 8), (&one.replace("[0,8]", "[4,12]"), 12)] {
            let (_folder, path) = file(header, data);
            let error = TensorFile::open(&path).err().expect("it is not sound").to_string();
            assert!(error.contains("not a sound safetensors file"), "{error}");
        }
        let (_folder, path) = file(&one.replace("F32", "F8_E4M3").replace("[2]", "[8]"), 8);
        assert!(TensorFile::open(&path).err().expect("not ours").to_string().contains("is not supported"));
    }
}
