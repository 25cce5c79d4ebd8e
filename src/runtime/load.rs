//! Weights from files, under the names of others.

use super::parts::is_weight;
use super::shards::Shards;
use super::state::{State, lock};
use crate::error::{Error, Result};
use crate::types::{DType, HostTensor};
use std::collections::BTreeMap;
use std::path::Path;

/// How weights are loaded. By default every tensor of the state must be in the file and the reverse, under the same names and of the
/// same types.
///
/// ```no_run
/// # fn load(state: &mut inductor::State) -> inductor::Result<()> {
/// use inductor::runtime::Load;
/// let load = Load::new().strict(false).strip_prefix("model.").rename(|name| Some(name.replace("gamma", "weight"))).cast(true);
/// let report = state.load_with("pretrained", &load)?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Load {
    is_lax: bool,
    casts: bool,
    prefix: String,
    #[allow(clippy::type_complexity)]
    rename: Option<Box<dyn Fn(&str) -> Option<String>>>,
}

impl Load {
    /// Everything must fit.
    pub fn new() -> Load {
        Load::default()
    }

    /// Whether names that only one side has are an error. Otherwise they are reported, and what is missing stays as it is. Tensors of
    /// other types are always an error.
    pub fn strict(mut self, strict: bool) -> Load {
        self.is_lax = !strict;
        self
    }

    /// What names in the file begin with, and those of the state do not; names without it stay.
    pub fn strip_prefix(mut self, prefix: &str) -> Load {
        self.prefix = prefix.into();
        self
    }

    /// The name in the state of a name in the file, its prefix stripped; `None` leaves a tensor out without a word.
    pub fn rename(mut self, rename: impl Fn(&str) -> Option<String> + 'static) -> Load {
        self.rename = Some(Box::new(rename));
        self
    }

    /// Converts floats of other precision, such as the halves that models are published in.
    pub fn cast(mut self, casts: bool) -> Load {
        self.casts = casts;
        self
    }

    fn name(&self, name: &str) -> Option<String> {
        let name = name.strip_prefix(&self.prefix).unwrap_or(name);
        self.rename.as_ref().map_or(Some(name.into()), |rename| rename(name))
    }

    fn fits(&self, from: DType, to: DType) -> bool {
        from == to || (self.casts && from.is_float() && to.is_float())
    }
}

/// What became of a file's tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Tensors of the state that were replaced.
    pub loaded: Vec<String>,
    /// Tensors of the state that the file lacks: they are as they were.
    pub missing: Vec<String>,
    /// Tensors of the file, by their names there, that the state lacks.
    pub unexpected: Vec<String>,
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tensors loaded", self.loaded.len())?;
        for (names, what) in [(&self.missing, "missing"), (&self.unexpected, "unexpected")] {
            if !names.is_empty() {
                write!(f, "; {what}: {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}

impl State {
    /// Reads parameters and buffers of a safetensors file, an index of several, or a folder with either. Names that are unknown,
    /// missing or of another type are an error that lists all of them, and nothing changes.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.load_with(path, &Load::new()).map(|_| ())
    }

    /// [`State::load`] under other names, or of what there is: see [`Load`].
    pub fn load_with(&mut self, path: impl AsRef<Path>, load: &Load) -> Result<LoadReport> {
        let path = path.as_ref();
        let mut files = Shards::open(path)?;
        let (mut report, mut faults, mut sources) = (LoadReport::default(), vec![], BTreeMap::new());
        {
            let entries = lock(&self.entries);
            let known = |name: &str| entries.get(name).filter(|e| is_weight(&e.role));
            for (from, dtype, shape) in files.tensors() {
                let Some(to) = load.name(from) else { continue };
                let Some(entry) = known(&to) else {
                    report.unexpected.push(from.to_string());
                    continue;
                };
                let dtype = if load.fits(dtype, entry.dtype) { entry.dtype } else { dtype };
                faults.extend(entry.mismatch(&to, dtype, shape));
                if let Some(other) = sources.insert(to.clone(), (from.to_string(), entry.dtype)) {
                    faults.push(format!("{to} is given twice, as {} and {from}", other.0));
                }
            }
            let missing = entries.iter().filter(|(name, e)| is_weight(&e.role) && !sources.contains_key(*name));
            report.missing = missing.map(|(name, _)| name.clone()).collect();
        }
        if !load.is_lax {
            faults.extend(report.unexpected.iter().map(|name| format!("unknown tensor {name}")));
            faults.extend(report.missing.iter().map(|name| format!("{name} is missing")));
        }
        if !faults.is_empty() {
            return Err(Error::file(path, faults.join("; ")));
        }
        let read = |(to, (from, dtype)): (String, (String, DType))| Ok((to, convert(files.read(&from)?, dtype)));
        let tensors = sources.into_iter().map(read).collect::<Result<Vec<(String, HostTensor)>>>()?;
        for (name, tensor) in tensors {
            self.set(&name, tensor)?;
            report.loaded.push(name);
        }
        Ok(report)
    }
}

fn convert(tensor: HostTensor, dtype: DType) -> HostTensor {
    if tensor.dtype() == dtype { tensor } else { HostTensor::from_f64(dtype, tensor.shape(), &tensor.to_f64()) }
}
