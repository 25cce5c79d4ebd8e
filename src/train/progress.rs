//! Progress of a run: one line that changes on a terminal, plain lines elsewhere.

use super::observer::{Event, Observer};
use crate::error::Result;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two pictures of the line on a terminal.
const FRAME: Duration = Duration::from_millis(100);
/// Characters of the bar.
const BAR: usize = 24;

/// Shows steps as they finish, with the time that is left.
pub struct Progress<W: Write = io::Stdout> {
    out: W,
    is_terminal: bool,
    /// What a step goes through: so many units of that name.
    unit: Option<(u64, String)>,
    every: u64,
    begun: Instant,
    shown: Option<Instant>,
    done: u64,
    steps: u64,
}

impl Progress {
    /// On the standard output.
    pub fn new() -> Progress {
        let is_terminal = io::stdout().is_terminal();
        Progress::on(io::stdout(), is_terminal)
    }
}

impl Default for Progress {
    fn default() -> Progress {
        Progress::new()
    }
}

impl<W: Write> Progress<W> {
    /// On any writer.
    pub fn on(out: W, is_terminal: bool) -> Progress<W> {
        Progress { out, is_terminal, unit: None, every: 1, begun: Instant::now(), shown: None, done: 0, steps: 0 }
    }

    /// Shows a rate: each step goes through so many units of that name.
    pub fn rate(mut self, per_step: u64, unit: &str) -> Progress<W> {
        self.unit = Some((per_step, unit.into()));
        self
    }

    /// Off a terminal, a line for one of so many steps.
    pub fn every(mut self, steps: u64) -> Progress<W> {
        self.every = steps.max(1);
        self
    }

    fn step(&mut self, step: u64, loss: f64) -> io::Result<()> {
        if !self.is_terminal {
            return if step.is_multiple_of(self.every) { writeln!(self.out, "step {step} loss {loss:.6}") } else { Ok(()) };
        }
        let is_due = self.shown.is_none_or(|at| at.elapsed() >= FRAME) || step == self.steps;
        if !is_due {
            return Ok(());
        }
        self.shown = Some(Instant::now());
        let (bar, left) = if self.steps == u64::MAX { (format!("step {step}"), String::new()) } else { (self.bar(step), self.left(step)) };
        write!(self.out, "\r\x1b[K{bar}  loss {loss:.4}{}{left}", self.speed(step))?;
        self.out.flush()
    }

    fn speed(&self, step: u64) -> String {
        let Some((each, unit)) = &self.unit else { return String::new() };
        let rate = (step - self.done) as f64 * *each as f64 / self.begun.elapsed().as_secs_f64().max(1e-9);
        format!("  {rate:.0} {unit}/s")
    }

    fn bar(&self, step: u64) -> String {
        let full = (BAR as f64 * step as f64 / self.steps.max(1) as f64).min(BAR as f64) as usize;
        format!("[{}{}] {step}/{}", "#".repeat(full), "-".repeat(BAR - full), self.steps)
    }

    fn left(&self, step: u64) -> String {
        let taken = (step - self.done).max(1) as f64;
        let seconds = self.begun.elapsed().as_secs_f64() / taken * self.steps.saturating_sub(step) as f64;
        format!("  {} left", clock(seconds))
    }

    /// A line beside the steps.
    fn line(&mut self, line: &str) -> io::Result<()> {
        if self.is_terminal {
            write!(self.out, "\r\x1b[K")?;
        }
        self.shown = None;
        writeln!(self.out, "{line}")
    }

    fn show(&mut self, event: Event<'_>) -> io::Result<()> {
        match event {
            Event::Begin { done, steps, .. } => {
                (self.begun, self.done, self.steps) = (Instant::now(), done, steps);
                if done > 0 { self.line(&format!("resumed after step {done}")) } else { Ok(()) }
            }
            Event::Step(record) => self.step(record.step, record.loss),
            Event::Evaluation(found) => {
                let metrics: Vec<String> = found.metrics.iter().map(|(name, x)| format!("{name} {x:.4}")).collect();
                self.line(&format!("step {} evaluation: {}", found.step, metrics.join(", ")))
            }
            Event::End { step, .. } => {
                let (taken, seconds) = (step.saturating_sub(self.done), self.begun.elapsed().as_secs_f64());
                self.line(&format!("{taken} steps in {seconds:.1} s{}", self.speed(step.max(self.done))))
            }
            _ => Ok(()),
        }
    }
}

impl<W: Write> Observer for Progress<W> {
    fn observe(&mut self, event: Event<'_>) -> Result<()> {
        // A reader that has gone, as `head` does, does not stop the training.
        if let Err(error) = self.show(event) {
            tracing::debug!(%error, "progress is not shown");
        }
        Ok(())
    }
}

/// Seconds as people read them.
fn clock(seconds: f64) -> String {
    let s = seconds.round().max(0.0) as u64;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m}:{s:02}"),
        (h, m, s) => format!("{h}:{m:02}:{s:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::{History, StepRecord};
    use super::*;

    fn shown(is_terminal: bool) -> String {
        let mut out = vec![];
        let mut progress = Progress::on(&mut out, is_terminal).every(2);
        let history = History::default();
        progress.observe(Event::Begin { done: 1, steps: 4, history: &history }).unwrap();
        for step in 2..=4 {
            let record = StepRecord { step, loss: 0.5, lr: 0.1, seconds: 0.0, gradient_norms: Default::default() };
            progress.observe(Event::Step(&record)).unwrap();
        }
        progress.observe(Event::End { step: 4, history: &history }).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_and_a_bar() {
        let plain = shown(false);
        assert!(plain.starts_with("resumed after step 1\nstep 2 loss 0.500000\nstep 4 loss 0.500000\n3 steps in "), "{plain}");
        let bar = shown(true);
        assert!(bar.contains("\r\x1b[K[############------------] 2/4  loss 0.5000") && bar.contains("] 4/4"), "{bar}");
        assert_eq!([3.4, 75.0, 7300.0].map(clock), ["3 s", "1:15", "2:01:40"]);
    }
}
