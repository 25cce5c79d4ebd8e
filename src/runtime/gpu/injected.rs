//! Faults that tests plan: what memory, drivers and users do to a device, at a place of the test's choice.

use super::device::lock;
use crate::error::{Error, Result};
use std::sync::Mutex;

/// What will fail, and when.
#[derive(Default)]
pub(in super::super) struct Injected {
    plan: Mutex<Plan>,
}

#[derive(Default)]
struct Plan {
    /// Allocations before the one that fails.
    memory: Option<u64>,
    /// Submissions before the one that loses the device.
    loss: Option<u64>,
    /// Compilations before the one that fails.
    compilation: Option<u64>,
    /// Whether drafts stay.
    drafts: bool,
}

impl Injected {
    /// The allocation behind so many others fails, once.
    pub fn fail_allocation(&self, after: u64) {
        lock(&self.plan).memory = Some(after);
    }

    /// The device is lost before the submission behind so many others.
    pub fn lose_device(&self, after: u64) {
        lock(&self.plan).loss = Some(after);
    }

    /// The driver refuses the shader behind so many others, once.
    pub fn fail_compilation(&self, after: u64) {
        lock(&self.plan).compilation = Some(after);
    }

    /// Steps that run on drafts go on so, until this is called with `false`.
    pub fn keep_drafts(&self, keep: bool) {
        lock(&self.plan).drafts = keep;
    }

    /// Whether something planned has not happened yet.
    pub fn is_armed(&self) -> bool {
        let plan = lock(&self.plan);
        plan.memory.is_some() || plan.loss.is_some() || plan.compilation.is_some()
    }

    /// Plans nothing.
    pub fn disarm(&self) {
        *lock(&self.plan) = Plan::default();
    }

    pub(super) fn allocation(&self) -> Result<()> {
        let due = count_down(&mut lock(&self.plan).memory);
        if due { Err(Error::Device("a planned allocation failed: Out of Memory".into())) } else { Ok(()) }
    }

    pub(super) fn compilation(&self) -> Result<()> {
        let due = count_down(&mut lock(&self.plan).compilation);
        if due { Err(Error::Device("a planned compilation failed".into())) } else { Ok(()) }
    }

    pub(super) fn keeps_drafts(&self) -> bool {
        lock(&self.plan).drafts
    }

    pub(super) fn submission(&self, device: &wgpu::Device) {
        if count_down(&mut lock(&self.plan).loss) {
            device.destroy();
            // Who is to know of it hears when the device is asked.
            drop(device.poll(wgpu::PollType::Poll));
        }
    }
}

/// Whether it is now; then it is not planned any more.
fn count_down(left: &mut Option<u64>) -> bool {
    match left {
        Some(0) => {
            *left = None;
            true
        }
        Some(n) => {
            *n -= 1;
            false
        }
        None => false,
    }
}
