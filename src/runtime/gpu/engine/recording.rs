//! Recording a step: launches in the order in which they run, in a few submissions.
//!
//! A device works on what is submitted while the host records the rest, which takes it more than a microsecond for each launch. Blocks
//! of control flow are recorded as often as they run. So that a long loop takes no more memory than a short one, its submissions are
//! bounded, and so is how many of them the device has not done. Where only the device knows when a loop ends, the host asks it every
//! so many trips; the trips behind the last skip themselves.

use super::timing::TIMED_AT_ONCE;
use super::{Fetch, GpuEngine, IN_FLIGHT};
use crate::error::Result;
use crate::loop_ir::BufferId;
use crate::lower::Repeat;
use crate::schedule::Control;
use std::collections::VecDeque;
use std::ops::Range;

/// Launches of a submission at most; how many its pace gives.
const MOST_LAUNCHES: usize = 4096;

/// Trips of a loop before the host first asks whether it has ended; twice as many each time, up to a bound.
const FIRST_TRIPS: usize = 4;
const MOST_TRIPS: usize = 64;

/// What waits to be recorded, and what was submitted.
#[derive(Default)]
pub(super) struct Line {
    pub(super) waiting: Vec<usize>,
    /// Launches of the last submission; none before the first.
    before: usize,
    submitted: VecDeque<wgpu::SubmissionIndex>,
}

impl GpuEngine {
    /// Submits the launches of a step but for the last of them, which are in the encoder; and how many those are.
    pub(super) fn record_step(&mut self) -> Result<(wgpu::CommandEncoder, usize)> {
        let main = self.plan.launches_of(&self.plan.program.main());
        self.record_launches(main)
    }

    /// The same for some launches.
    pub(super) fn record_launches(&mut self, launches: Range<usize>) -> Result<(wgpu::CommandEncoder, usize)> {
        let mut line = Line { waiting: vec![], before: 0, submitted: VecDeque::new() };
        self.push_launches(&mut line, launches)?;
        let count = line.waiting.len();
        Ok((self.encoder_of(line.waiting), count))
    }

    pub(super) fn push_launches(&mut self, line: &mut Line, launches: Range<usize>) -> Result<()> {
        let plan = self.plan.clone();
        for launch in launches {
            match plan.program.control(plan.launches[launch].commands[0] as usize) {
                Some(control) => self.push_control(line, control)?,
                None => {
                    line.waiting.push(launch);
                    self.submit_full(line)?;
                }
            }
        }
        Ok(())
    }

    fn push_control(&mut self, line: &mut Line, control: &Control) -> Result<()> {
        let plan = self.plan.clone();
        let blocks: Vec<Range<usize>> = control.blocks.iter().map(|block| plan.launches_of(block)).collect();
        let Some((first, others)) = blocks.split_first() else { return Ok(()) };
        self.push_launches(line, first.clone())?;
        match &control.repeat {
            Repeat::Times(trips) => {
                for _ in 0..trips.eval(&self.bindings).map_err(crate::error::Error::Input)? {
                    others.iter().try_for_each(|block| self.push_launches(line, block.clone()))?;
                }
            }
            Repeat::Until(word) => {
                let mut trips = FIRST_TRIPS;
                loop {
                    for _ in 0..trips {
                        others.iter().try_for_each(|block| self.push_launches(line, block.clone()))?;
                    }
                    if self.has_ended(line, *word)? {
                        break;
                    }
                    trips = (2 * trips).min(MOST_TRIPS);
                }
            }
        }
        Ok(())
    }

    /// Submits what is full, and waits where the device has much to do.
    fn submit_full(&mut self, line: &mut Line) -> Result<()> {
        if self.timed.is_some() {
            return if line.waiting.len() < TIMED_AT_ONCE { Ok(()) } else { self.time_waiting(line) };
        }
        loop {
            let done = line.before.min(1);
            let count = self.pace.next(done, line.before, done + line.waiting.len()).len().min(MOST_LAUNCHES);
            if count == line.waiting.len() {
                return Ok(());
            }
            let launches: Vec<usize> = line.waiting.drain(..count).collect();
            line.before = count;
            let encoder = self.encoder_of(launches);
            line.submitted.push_back(self.submit_part(encoder, count)?);
            if line.submitted.len() > IN_FLIGHT {
                self.device.wait_for(line.submitted.pop_front())?;
            }
        }
    }

    fn encoder_of(&mut self, launches: Vec<usize>) -> wgpu::CommandEncoder {
        let mut encoder = self.encoder("step");
        self.record(&mut encoder, launches, None);
        encoder
    }

    /// Whether a word is not zero behind everything so far. A step that failed commits nothing any more: its loops have ended, too.
    fn has_ended(&mut self, line: &mut Line, word: BufferId) -> Result<bool> {
        self.time_waiting(line)?;
        let launches = std::mem::take(&mut line.waiting);
        let count = launches.len();
        let encoder = self.encoder_of(launches);
        self.submit_part(encoder, count)?;
        line.submitted.clear();
        let (word, status) = (self.slot_of(word)?, &self.status);
        let copies = |encoder: &mut wgpu::CommandEncoder, staging: &wgpu::Buffer| {
            encoder.copy_buffer_to_buffer(word, 0, staging, 0, 4);
            encoder.copy_buffer_to_buffer(status, 0, staging, 4, 4);
        };
        let bytes = Fetch::request(&self.device, 8, copies)?.bytes()?;
        Ok(bytes.iter().any(|b| *b != 0))
    }
}
