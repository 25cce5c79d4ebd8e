//! Timing a step: each launch in a pass of its own between two timestamps, in the order in which they run. Blocks of control flow are
//! timed as often as they run.

use super::recording::Line;
use super::{Fetch, GpuEngine, LaunchTime};
use crate::error::Result;
use std::ops::Range;

/// Launches that are timed at once: a query set holds at most 4,096 queries.
pub(super) const TIMED_AT_ONCE: usize = 1024;

/// What was timed so far.
#[derive(Default)]
pub(super) struct Clock {
    /// The device's clock when the first launch began.
    first: Option<u64>,
    times: Vec<LaunchTime>,
}

impl GpuEngine {
    /// Runs launches, and those of the blocks that they stand for, with timestamps.
    pub(super) fn time_launches(&mut self, launches: Range<usize>) -> Result<Vec<LaunchTime>> {
        self.timed = Some(Clock::default());
        let mut line = Line::default();
        let done = self.push_launches(&mut line, launches).and_then(|()| self.time_waiting(&mut line));
        let timed = self.timed.take().unwrap_or_default();
        done.map(|()| timed.times)
    }

    /// Runs what waits, where launches are timed.
    pub(super) fn time_waiting(&mut self, line: &mut Line) -> Result<()> {
        let Some(mut timed) = self.timed.take() else { return Ok(()) };
        let launches = std::mem::take(&mut line.waiting);
        if !launches.is_empty() {
            self.time(&launches, &mut timed)?;
        }
        self.timed = Some(timed);
        Ok(())
    }

    fn time(&mut self, launches: &[usize], timed: &mut Clock) -> Result<()> {
        let gpu = self.device.clone();
        let count = 2 * launches.len() as u32;
        let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = gpu.buffer("timestamps", 8 * count as u64, usage)?;
        let (mut encoder, script) = (self.encoder("timed step"), self.script()?);
        for (k, &launch) in launches.iter().enumerate() {
            let writes = wgpu::ComputePassTimestampWrites {
                query_set: &queries,
                beginning_of_pass_write_index: Some(2 * k as u32),
                end_of_pass_write_index: Some(2 * k as u32 + 1),
            };
            self.launches += script.pass(&mut encoder, launch..launch + 1, Some(writes));
        }
        encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
        gpu.submit(encoder);
        let copy = |encoder: &mut wgpu::CommandEncoder, staging: &wgpu::Buffer| {
            encoder.copy_buffer_to_buffer(&resolved, 0, staging, 0, 8 * count as u64);
        };
        let bytes = Fetch::request(&gpu, 8 * count as u64, copy)?.bytes()?;
        let ticks: Vec<u64> = bytes.chunks_exact(8).map(|c| u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]])).collect();
        let (period, first) = (gpu.queue.get_timestamp_period() as f64, *timed.first.get_or_insert(ticks[0]));
        timed.times.extend(launches.iter().zip(ticks.chunks_exact(2)).map(|(&launch, ticks)| LaunchTime {
            launch,
            label: self.plan.label(&self.plan.launches[launch]),
            start_us: ticks[0].saturating_sub(first) as f64 * period / 1000.0,
            us: ticks[1].saturating_sub(ticks[0]) as f64 * period / 1000.0,
        }));
        Ok(())
    }
}
