//! Recording a step: launches in the order in which they run, in a few submissions.
//!
//! A device works on what is submitted while the host records the rest, which takes it more than a microsecond for each launch. Blocks
//! of control flow are recorded as often as they run. So that a long loop takes no more memory than a short one, its submissions are
//! bounded, and so is how many of them the device has not done. Where only the device knows when a loop ends, the host asks it every
//! so many trips; the trips behind the last skip themselves.

use super::super::device::lock;
use super::super::staging::Place;
use super::ahead::{Order, Step};
use super::script::{Opening, Recorded};
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

impl GpuEngine {
    /// Submits a step: what the host brings, its launches, and what is read of it. Then the next one is recorded. Gives where the loss arrives.
    pub(super) fn submit_step(&mut self) -> Result<(wgpu::Buffer, wgpu::SubmissionIndex)> {
        self.parcel.seal();
        let Some(step) = self.ahead.take().filter(|step| self.is_as_foreseen(step)) else { return self.submit_anew() };
        let mut waiting = if step.opening.is_none() { vec![self.begin()?] } else { vec![] };
        let mut count = 0;
        for part in step.parts {
            if count > 0 {
                self.submit_parts(waiting.drain(..), count)?;
            }
            count = part.launches;
            self.launches += part.dispatched;
            waiting.push(part.commands);
        }
        let submission = self.submit_parts(waiting, count)?;
        self.record_ahead()?;
        Ok((step.staging, submission))
    }

    /// Submits a step that nobody has recorded: while the device has the first launches, the others are recorded.
    fn submit_anew(&mut self) -> Result<(wgpu::Buffer, wgpu::SubmissionIndex)> {
        let inputs = self.begin()?;
        self.submit_parts([inputs], 0)?;
        let (staging, main) = (self.staging_buffer()?, self.plan.launches_of(&self.plan.program.main()));
        let part = self.record_launches(main, Some(&staging))?;
        self.launches += part.dispatched;
        let submission = self.submit_parts([part.commands], part.launches)?;
        self.pace.settle();
        self.record_ahead()?;
        Ok((staging, submission))
    }

    /// Submits some launches alone.
    pub(super) fn submit_launches(&mut self, launches: Range<usize>) -> Result<()> {
        let part = self.record_launches(launches, None)?;
        self.launches += part.dispatched;
        self.device.submit_all([part.commands]);
        self.device.check()
    }

    /// What comes before the first launch of a step.
    pub(super) fn begin(&mut self) -> Result<wgpu::CommandBuffer> {
        self.parcel.seal();
        let opening = self.opening(self.parcel.sealed())?;
        Ok(self.script()?.record(Some(&opening), 0..0, None).commands)
    }

    /// The first commands of a step, where small inputs lie in those places of a staging buffer.
    fn opening(&self, inputs: Option<(&wgpu::Buffer, &[Place])>) -> Result<Opening> {
        let Some((staging, places)) = inputs else { return Ok(Opening::default()) };
        let copy = |place: &Place| Ok((place.at, self.slot_of(place.buffer)?.clone(), place.bytes));
        Ok(Opening { staging: Some(staging.clone()), copies: places.iter().map(copy).collect::<Result<_>>()? })
    }

    /// Whether the small inputs came as a recorded step copies them.
    fn is_as_foreseen(&self, step: &Step) -> bool {
        let Some(opening) = &step.opening else { return true };
        match (self.parcel.sealed(), &opening.staging) {
            (None, None) => true,
            (Some((sealed, places)), Some(staging)) => sealed == staging && self.parcel.is_full(places),
            _ => false,
        }
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

    /// Has the next step recorded, where it will be as the last one was and the host decides nothing in it.
    fn record_ahead(&mut self) -> Result<()> {
        let main = self.plan.launches_of(&self.plan.program.main());
        let is_plain = (1..=MOST_LAUNCHES).contains(&main.len()) && main.clone().all(|launch| self.plan.launches[launch].code.is_some());
        let Some(most) = self.pace.most().filter(|_| is_plain) else { return Ok(()) };
        // Behind a submission nothing may fail that needs no device.
        if self.ahead.has_run()
            && let Some(staging) = lock(&self.shared.staging).pop()
        {
            let opening = if self.parcel.foresee(&self.device)? { Some(self.opening(self.parcel.foreseen())?) } else { None };
            self.ahead.record(Order { script: self.script()?, opening, launches: main, most, staging });
        }
        Ok(())
    }

    /// Submits launches but for the last of them, which it gives.
    fn record_launches(&mut self, launches: Range<usize>, staging: Option<&wgpu::Buffer>) -> Result<Recorded> {
        let mut line = Line::default();
        self.push_launches(&mut line, launches)?;
        Ok(self.script()?.record(None, line.waiting, staging))
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

    fn submit_recorded(&mut self, launches: Vec<usize>) -> Result<wgpu::SubmissionIndex> {
        let part = self.script()?.record(None, launches, None);
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
