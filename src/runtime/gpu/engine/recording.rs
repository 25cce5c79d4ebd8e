//! Recording a step: launches in the order in which they run, in a few submissions.
//!
//! A device works on what is submitted while the host records the rest, which takes it more than a microsecond for each launch. Blocks
//! of control flow are recorded as often as they run. So that a long loop takes no more memory than a short one, its submissions are
//! bounded, and so is how many of them the device has not done. Where only the device knows when a loop ends, the host asks it every
//! so many trips; the trips behind the last skip themselves.
//!
//! Steps of equal sizes run equal commands, and recording takes the host as long as a small step takes the device. So the next step is
//! recorded behind the submission of the last one ([`Ahead`]): who waits for each step before he asks for the next finds it ready.

use super::super::staging::Place;
use super::timing::TIMED_AT_ONCE;
use super::{Fetch, GpuEngine, IN_FLIGHT};
use crate::error::Result;
use crate::loop_ir::BufferId;
use crate::lower::Repeat;
use crate::schedule::Control;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

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

/// The next step as far as it can be known.
#[derive(Default)]
pub(super) struct Ahead {
    /// Whether a step of these sizes has run: others may never be asked for again.
    is_steady: bool,
    /// Its launches, none where they were not recorded.
    parts: Vec<Recorded>,
}

impl Ahead {
    /// Drops what is recorded.
    pub(super) fn forget(&mut self) {
        self.parts.clear();
    }
}

/// Launches that are submitted together.
struct Recorded {
    commands: wgpu::CommandBuffer,
    launches: usize,
    /// Those that have something to do.
    dispatched: u64,
}

impl GpuEngine {
    /// Submits a step: what the host brings, its launches, and `last`, what is read of it. Then records the next one.
    pub(super) fn submit_step(&mut self, last: wgpu::CommandEncoder) -> Result<wgpu::SubmissionIndex> {
        let mut waiting = vec![self.begin()?];
        let mut count = 0;
        let ahead = std::mem::take(&mut self.ahead.parts);
        let parts = if ahead.is_empty() {
            self.submit_parts(waiting.drain(..), 0)?;
            vec![self.record_step()?]
        } else {
            ahead
        };
        for part in parts {
            if count > 0 {
                self.submit_parts(waiting.drain(..), count)?;
            }
            count = part.launches;
            self.launches += part.dispatched;
            waiting.push(part.commands);
        }
        waiting.push(last.finish());
        let submission = self.submit_parts(waiting, count)?;
        self.pace.settle();
        self.record_ahead();
        Ok(submission)
    }

    /// Submits some launches alone.
    pub(super) fn submit_launches(&mut self, launches: Range<usize>) -> Result<()> {
        let part = self.record_launches(launches)?;
        self.launches += part.dispatched;
        self.device.submit_all([part.commands]);
        self.device.check()
    }

    /// What comes before the first launch of a step.
    pub(super) fn begin(&mut self) -> Result<wgpu::CommandBuffer> {
        let mut encoder = self.encoder("inputs");
        encoder.clear_buffer(&self.status, 0, None);
        self.parcel.seal();
        if let Some((staging, places)) = self.parcel.sealed() {
            for &Place { buffer, at, bytes } in places {
                encoder.copy_buffer_to_buffer(staging, at, self.slot_of(buffer)?, 0, bytes);
            }
        }
        Ok(encoder.finish())
    }

    /// Submits a part of a step, and learns how long its launches take, where nobody knows.
    pub(super) fn submit_parts(&mut self, recorded: impl IntoIterator<Item = wgpu::CommandBuffer>, launches: usize) -> Result<wgpu::SubmissionIndex> {
        let started = Instant::now();
        let submission = self.device.submit_all(recorded);
        self.device.check()?;
        self.parcel.sent(submission.clone());
        if self.pace.is_measuring() && launches > 0 {
            self.device.wait_for(Some(submission.clone()))?;
            self.pace.measured(launches, started.elapsed());
        }
        Ok(submission)
    }

    /// Records launches into one pass; how many of them have something to do.
    pub(super) fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        launches: impl IntoIterator<Item = usize>,
        timestamps: Option<wgpu::ComputePassTimestampWrites<'_>>,
    ) -> u64 {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: timestamps });
        let (mut current, mut dispatched) = (usize::MAX, 0);
        for command in launches.into_iter().map(|launch| &self.ready[launch]) {
            if command.grid[0] == 0 {
                continue;
            }
            if command.code != current {
                pass.set_pipeline(&self.pipelines.current()[command.code].pipeline);
                current = command.code;
            }
            pass.set_bind_group(0, command.group.as_ref(), &[]);
            pass.dispatch_workgroups(command.grid[0], command.grid[1], command.grid[2]);
            dispatched += 1;
        }
        dispatched
    }

    /// Records the next step, where it will be as the last one was and the host decides nothing in it.
    fn record_ahead(&mut self) {
        let main: Vec<usize> = self.plan.launches_of(&self.plan.program.main()).collect();
        let is_plain = main.len() <= MOST_LAUNCHES && main.iter().all(|&launch| self.plan.launches[launch].code.is_some());
        let Some(most) = self.pace.most().filter(|_| is_plain) else { return };
        if std::mem::replace(&mut self.ahead.is_steady, true) {
            self.ahead.parts = main.chunks(most).map(|part| self.recorded(part.to_vec())).collect();
        }
    }

    /// Submits the launches of a step but for the last of them, which it gives.
    fn record_step(&mut self) -> Result<Recorded> {
        let main = self.plan.launches_of(&self.plan.program.main());
        self.record_launches(main)
    }

    /// The same for some launches.
    fn record_launches(&mut self, launches: Range<usize>) -> Result<Recorded> {
        let mut line = Line::default();
        self.push_launches(&mut line, launches)?;
        Ok(self.recorded(line.waiting))
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
            line.submitted.push_back(self.submit_recorded(launches)?);
            if line.submitted.len() > IN_FLIGHT {
                self.device.wait_for(line.submitted.pop_front())?;
            }
        }
    }

    fn recorded(&self, launches: Vec<usize>) -> Recorded {
        let (mut encoder, count) = (self.encoder("step"), launches.len());
        let dispatched = self.record(&mut encoder, launches, None);
        Recorded { commands: encoder.finish(), launches: count, dispatched }
    }

    fn submit_recorded(&mut self, launches: Vec<usize>) -> Result<wgpu::SubmissionIndex> {
        let part = self.recorded(launches);
        self.launches += part.dispatched;
        self.submit_parts([part.commands], part.launches)
    }

    /// Whether a word is not zero behind everything so far. A step that failed commits nothing any more: its loops have ended, too.
    fn has_ended(&mut self, line: &mut Line, word: BufferId) -> Result<bool> {
        self.time_waiting(line)?;
        let launches = std::mem::take(&mut line.waiting);
        self.submit_recorded(launches)?;
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
