//! Checkpoints of a run in a folder: the last ones and the best one, written by a thread.

use super::trainer::Memory;
use crate::error::{Error, Result};
use crate::frontend::optim::Goal;
use crate::runtime::State;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

type Write = Box<dyn FnOnce() -> Result<()> + Send>;

const BEST: &str = "best.safetensors";

/// Where and when checkpoints are written. Each is a file `step-<number>.safetensors` and, for what the loop itself remembers,
/// `step-<number>.json`; the best one by a metric is `best.safetensors`.
pub struct Checkpoints {
    folder: PathBuf,
    every: u64,
    kept: usize,
    best: Option<(String, Goal)>,
    writer: Option<JoinHandle<Result<()>>>,
}

impl Checkpoints {
    /// In a folder, which is made where there is none: one at the end of the run, and the last three are kept.
    pub fn new(folder: impl Into<PathBuf>) -> Checkpoints {
        Checkpoints { folder: folder.into(), every: 0, kept: 3, best: None, writer: None }
    }

    /// One after each so many steps, too.
    pub fn every(mut self, steps: u64) -> Checkpoints {
        self.every = steps;
        self
    }

    /// How many are kept, at least one.
    pub fn keep(mut self, kept: usize) -> Checkpoints {
        self.kept = kept.max(1);
        self
    }

    /// Keeps the one with the best value of a metric of evaluations apart.
    pub fn best(mut self, metric: &str, goal: Goal) -> Checkpoints {
        self.best = Some((metric.into(), goal));
        self
    }

    /// The best one, if it was written.
    pub fn best_path(&self) -> PathBuf {
        self.folder.join(BEST)
    }

    /// The step and the file of the last one.
    pub fn last(&self) -> Result<Option<(u64, PathBuf)>> {
        Ok(numbered(&self.folder)?.pop())
    }

    pub(super) fn is_due(&self, step: u64) -> bool {
        self.every > 0 && step.is_multiple_of(self.every)
    }

    /// What decides which one is the best.
    pub(super) fn criterion(&self) -> Option<&(String, Goal)> {
        self.best.as_ref()
    }

    /// Where the checkpoint of a step is.
    pub(super) fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step:08}.safetensors"))
    }

    /// Writes a checkpoint of the state as it is now.
    pub(super) fn write(&mut self, state: &State, memory: &Memory) -> Result<()> {
        let path = self.path(state.step());
        let beside = path.with_extension("json");
        let (folder, kept, memory) = (self.folder.clone(), self.kept, serde_json::json!(memory).to_string());
        let copy = state.try_clone()?;
        self.start(move || {
            crate::files::write(&beside, memory)?;
            copy.save_checkpoint(&path)?;
            remove_old(&folder, kept)
        })
    }

    pub(super) fn write_best(&mut self, state: &State) -> Result<()> {
        let (copy, path) = (state.try_clone()?, self.best_path());
        self.start(move || copy.save_checkpoint(&path))
    }

    /// Runs a write on a thread, after the one before it; where the system gives no threads, here.
    fn start(&mut self, write: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        self.finish()?;
        std::fs::create_dir_all(&self.folder).map_err(|e| Error::file(&self.folder, e))?;
        // The write is handed over once there is a thread: what a thread that does not start was to run is lost.
        let (give, take) = std::sync::mpsc::channel::<Write>();
        let run = move || take.recv().map_or(Ok(()), |write| write());
        match std::thread::Builder::new().name("checkpoint".into()).spawn(run) {
            Ok(thread) => {
                self.writer = Some(thread);
                give.send(Box::new(write)).map_err(|_| Error::Platform("the thread that writes checkpoints has ended".into()))
            }
            Err(_) => write(),
        }
    }

    /// Waits for what is being written.
    pub(super) fn finish(&mut self) -> Result<()> {
        match self.writer.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(written)) => written,
            Some(Err(_)) => Err(Error::file(&self.folder, "writing a checkpoint failed: its thread panicked")),
        }
    }

    /// What the loop remembered at that checkpoint.
    pub(super) fn memory(path: &Path) -> Result<Memory> {
        let beside = path.with_extension("json");
        let text = std::fs::read_to_string(&beside).map_err(|e| Error::file(&beside, e))?;
        serde_json::from_str(&text).map_err(|e| Error::file(&beside, e))
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::error!(%error, "a checkpoint was not written");
        }
    }
}

/// Checkpoints by the number of their step, in order.
fn numbered(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    if !folder.exists() {
        return Ok(vec![]);
    }
    let fail = |e: std::io::Error| Error::file(folder, e);
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let number = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok());
        found.extend(number.map(|number: u64| (number, path)));
    }
    found.sort();
    Ok(found)
}

fn remove_old(folder: &Path, kept: usize) -> Result<()> {
    let all = numbered(folder)?;
    for (_, path) in &all[..all.len().saturating_sub(kept)] {
        for file in [path, &path.with_extension("json")] {
            match std::fs::remove_file(file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::file(file, e)),
                _ => {}
            }
        }
    }
    Ok(())
}
