//! What a checkpoint says beside its tensors: counters, seed, notes about the run, and a checksum over all of it.

use super::ledger::Counts;
use super::tensor_file::load_tensors;
use crate::error::{Error, Result};
use crate::types::HostTensor;
use crate::update::moments_of;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

const STEP: &str = "inductor.step";
const SEED: &str = "inductor.seed";
const DRAWS: &str = "inductor.draws";
const UPDATES: &str = "inductor.updates";
const NOTES: &str = "inductor.notes";
const CHECKSUM: &str = "inductor.checksum";
const KNOWN: [&str; 6] = [STEP, SEED, DRAWS, UPDATES, NOTES, CHECKSUM];

/// No run counts further; whatever does is damaged.
const MAX_COUNT: u64 = 1 << 53;

/// What a checkpoint says beside its tensors.
pub(super) struct Facts {
    pub counts: Counts,
    pub seed: u64,
    pub notes: BTreeMap<String, String>,
}

impl Facts {
    /// As metadata of a file that holds those tensors. Counts of updates are written where they are not the number of steps.
    pub fn metadata(&self, tensors: &[(String, HostTensor)]) -> HashMap<String, String> {
        let mut out = HashMap::from([(STEP.to_string(), self.counts.steps.to_string()), (SEED.to_string(), self.seed.to_string())]);
        if self.counts.draws > 0 {
            out.insert(DRAWS.into(), self.counts.draws.to_string());
        }
        let moments = || tensors.iter().filter_map(|(name, _)| moments_of(name));
        let updates: BTreeMap<&str, u64> = moments().map(|name| (name, self.counts.updates_of(name))).collect();
        if updates.values().any(|&n| n != self.counts.steps) {
            out.insert(UPDATES.into(), serde_json::json!(updates).to_string());
        }
        if !self.notes.is_empty() {
            out.insert(NOTES.into(), serde_json::json!(self.notes).to_string());
        }
        out.insert(CHECKSUM.into(), checksum(&out, tensors));
        out
    }

    /// From the metadata of a file that holds tensors of those names.
    pub fn read<'a>(metadata: &HashMap<String, String>, tensors: impl Iterator<Item = &'a str>) -> Result<Facts, String> {
        if let Some(key) = metadata.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return Err(format!("it is damaged, or of another version: its metadata has {key:?}"));
        }
        let (Some(steps), Some(seed)) = (number(metadata, STEP)?, metadata.get(SEED)) else {
            return Err("it is no checkpoint: step counter and seed are missing".into());
        };
        let seed = seed.parse().map_err(|_| format!("it is damaged: its seed is {seed:?}"))?;
        let draws = number(metadata, DRAWS)?.unwrap_or(0);
        let updates: HashMap<String, u64> = match metadata.get(UPDATES) {
            Some(text) => serde_json::from_str(text).map_err(|e| format!("it is damaged: counts of updates: {e}"))?,
            None => tensors.filter_map(moments_of).map(|name| (name.to_string(), steps)).collect(),
        };
        if let Some((name, n)) = updates.iter().find(|(_, n)| **n > MAX_COUNT) {
            return Err(format!("it is damaged: {name} was updated {n} times"));
        }
        let notes = metadata.get(NOTES).map_or(Ok(BTreeMap::new()), |text| serde_json::from_str(text));
        let notes = notes.map_err(|e| format!("it is damaged: notes: {e}"))?;
        Ok(Facts { counts: Counts { steps, draws, updates: updates.into_iter().collect() }, seed, notes })
    }

    /// How the notes differ from those of the run that is to go on, if it has any.
    pub fn differences(&self, wanted: &BTreeMap<String, String>) -> Vec<String> {
        let said = |value: Option<&String>| value.map_or("nothing".into(), |v| format!("{v:?}"));
        let names = || wanted.keys().chain(self.notes.keys().filter(|name| !wanted.contains_key(*name)));
        let differ = |name: &&String| wanted.get(*name) != self.notes.get(*name);
        let all = names().filter(differ).map(|name| format!("{name}: it has {}, this run {}", said(self.notes.get(name)), said(wanted.get(name))));
        if wanted.is_empty() { vec![] } else { all.collect() }
    }
}

/// The notes of a checkpoint, by name: see [`State::note`](super::State::note).
pub fn checkpoint_notes(path: impl AsRef<Path>) -> Result<BTreeMap<String, String>> {
    let path = path.as_ref();
    let (tensors, metadata) = load_tensors(path)?;
    let facts = check_sum(&metadata, &tensors).and_then(|()| Facts::read(&metadata, std::iter::empty()));
    Ok(facts.map_err(|fault| Error::file(path, fault))?.notes)
}

/// Compares the checksum. A file without one is older than checksums.
pub(super) fn check_sum(metadata: &HashMap<String, String>, tensors: &[(String, HostTensor)]) -> Result<(), String> {
    match metadata.get(CHECKSUM) {
        Some(sum) if *sum != checksum(metadata, tensors) => Err("it is damaged: its checksum is another".into()),
        _ => Ok(()),
    }
}

fn number(metadata: &HashMap<String, String>, key: &str) -> Result<Option<u64>, String> {
    let Some(text) = metadata.get(key) else { return Ok(None) };
    let number = text.parse::<u64>().ok().filter(|n| *n <= MAX_COUNT);
    number.map(Some).ok_or_else(|| format!("it is damaged: {key} is {text:?}"))
}

/// Over metadata and tensors in the order of their names; each part with its length before it.
fn checksum(metadata: &HashMap<String, String>, tensors: &[(String, HostTensor)]) -> String {
    let mut hash = blake3::Hasher::new();
    let mut add = |part: &[u8]| {
        hash.update(&(part.len() as u64).to_le_bytes()).update(part);
    };
    let metadata: BTreeMap<&String, &String> = metadata.iter().filter(|(key, _)| *key != CHECKSUM).collect();
    for (key, value) in metadata {
        add(key.as_bytes());
        add(value.as_bytes());
    }
    for (name, tensor) in tensors {
        add(name.as_bytes());
        add(format!("{}{:?}", tensor.dtype(), tensor.shape()).as_bytes());
        add(tensor.bytes());
    }
    hash.finalize().to_hex().to_string()
}
