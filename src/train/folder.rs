//! The files of a run: lines of JSON as it goes, a page and curves at its end.

use super::history::{History, line_of};
use super::html::report;
use super::observer::{Event, Observer};
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

pub(super) const METRICS: &str = "metrics.jsonl";

/// Writes `metrics.jsonl`, `report.html` and, with the feature `plots`, `curves.png`.
pub(super) struct Folder {
    path: PathBuf,
    title: String,
    lines: Option<BufWriter<File>>,
}

impl Folder {
    pub fn new(path: &Path, title: &str) -> Folder {
        Folder { path: path.into(), title: title.into(), lines: None }
    }

    /// Starts the file anew with what went before, so that lines behind the step of a checkpoint are gone.
    fn begin(&mut self, history: &History) -> Result<()> {
        std::fs::create_dir_all(&self.path).map_err(|e| Error::file(&self.path, e))?;
        let path = self.path.join(METRICS);
        crate::files::write(&path, history.to_lines())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| Error::file(&path, e))?;
        self.lines = Some(BufWriter::new(file));
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let written = self.lines.as_mut().map_or(Ok(()), |lines| lines.write_all(line.as_bytes()));
        written.map_err(|e| Error::file(self.path.join(METRICS), e))
    }

    fn flush(&mut self) -> Result<()> {
        let flushed = self.lines.as_mut().map_or(Ok(()), Write::flush);
        flushed.map_err(|e| Error::file(self.path.join(METRICS), e))
    }

    fn end(&mut self, history: &History) -> Result<()> {
        self.flush()?;
        crate::files::write(self.path.join("report.html"), report(&self.title, history))?;
        #[cfg(feature = "plots")]
        super::plot::draw(&self.path.join("curves.png"), &self.title, history)?;
        Ok(())
    }
}

impl Observer for Folder {
    fn observe(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Begin { history, .. } => self.begin(history),
            Event::Step(record) => self.line(&line_of(record)),
            Event::Evaluation(found) => self.line(&line_of(found)).and_then(|()| self.flush()),
            Event::Checkpoint { .. } => self.flush(),
            Event::End { history, .. } => self.end(history),
        }
    }
}
