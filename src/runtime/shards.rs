//! Tensors of a model: one safetensors file, several with an index, as Hugging Face writes them, or a GGUF file.

use super::gguf::Gguf;
use super::tensor_file::TensorFile;
use crate::error::{Error, Result};
use crate::types::{DType, HostTensor};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A file of tensors.
enum Held {
    Safetensors(TensorFile),
    Gguf(Gguf),
}

impl Held {
    fn tensors(&self) -> Vec<(&str, DType, &[usize])> {
        match self {
            Held::Safetensors(file) => file.tensors().collect(),
            Held::Gguf(file) => file.tensors().collect(),
        }
    }

    fn read(&mut self, name: &str) -> Result<HostTensor> {
        match self {
            Held::Safetensors(file) => file.read(name),
            Held::Gguf(file) => file.read(name),
        }
    }
}

/// Files that together hold a model's tensors.
pub struct Shards {
    files: Vec<Held>,
    /// The file of each tensor.
    places: BTreeMap<String, usize>,
}

impl Shards {
    /// Opens a safetensors file, a GGUF file (`*.gguf`), an index (`*.index.json`), or a folder with `model.safetensors` or `model.safetensors.index.json`.
    /// Headers are read and compared with the index; tensors are not read.
    pub fn open(path: &Path) -> Result<Shards> {
        let path = if path.is_dir() { inside(path)? } else { path.to_path_buf() };
        match path.extension().and_then(|e| e.to_str()) {
            Some("json") => Shards::of_index(&path),
            Some("gguf") => Shards::of_files(vec![Held::Gguf(Gguf::open(&path)?)], None),
            _ => Shards::of_files(vec![Held::Safetensors(TensorFile::open(&path)?)], None),
        }
    }

    fn of_index(path: &Path) -> Result<Shards> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
        let unsound = |what: String| Error::file(path, format!("not a sound index: {what}"));
        let index: Index = serde_json::from_str(&text).map_err(|e| unsound(e.to_string()))?;
        let names: BTreeSet<&String> = index.weight_map.values().collect();
        // A name that leads elsewhere is no shard of this model.
        if let Some(name) = names.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
            return Err(unsound(format!("{name:?} is no name of a file beside it")));
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        let files = names.iter().map(|name| TensorFile::open(&folder.join(name)).map(Held::Safetensors)).collect::<Result<Vec<_>>>()?;
        let at = |file: &String| names.iter().position(|n| *n == file).unwrap_or(0);
        let places = index.weight_map.iter().map(|(tensor, file)| (tensor.clone(), at(file))).collect();
        Shards::of_files(files, Some(places)).map_err(|e| unsound(e.to_string()))
    }

    fn of_files(files: Vec<Held>, index: Option<BTreeMap<String, usize>>) -> Result<Shards> {
        let mut places = BTreeMap::new();
        for (at, file) in files.iter().enumerate() {
            places.extend(file.tensors().into_iter().map(|(name, ..)| (name.to_string(), at)));
        }
        let is_lost = |(name, at): &(&String, &usize)| places.get(*name) != Some(*at);
        if let Some((name, _)) = index.iter().flatten().find(is_lost) {
            return Err(Error::Input(format!("{name} is not in its file, or in several")));
        }
        Ok(Shards { files, places: index.unwrap_or(places) })
    }

    /// What they hold, sorted by name: names, dtypes and shapes.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, DType, &[usize])> {
        let all = self.files.iter().enumerate().flat_map(|(at, file)| file.tensors().into_iter().map(move |tensor| (at, tensor)));
        let mut held: Vec<_> = all.filter(|(at, (name, ..))| self.places.get(*name) == Some(at)).map(|(_, tensor)| tensor).collect();
        held.sort_by_key(|(name, ..)| *name);
        held.into_iter()
    }

    /// Reads one tensor.
    pub fn read(&mut self, name: &str) -> Result<HostTensor> {
        let at = self.places.get(name).ok_or_else(|| Error::Input(format!("there is no tensor {name}")))?;
        self.files[*at].read(name)
    }
}

/// What an index says; its total size is not looked at.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn inside(folder: &Path) -> Result<PathBuf> {
    let found = [SINGLE, INDEX].map(|name| folder.join(name)).into_iter().find(|path| path.is_file());
    found.ok_or_else(|| Error::file(folder, format!("there is neither {SINGLE} nor {INDEX} in it")))
}
