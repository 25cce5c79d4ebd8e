//! The next step, recorded while the device works on the last one.
//!
//! Steps of equal sizes run equal commands, and recording takes a host as long as a small step takes the device. So the next step is recorded
//! as soon as the last one is submitted: who asks for it finds it ready. A thread of its own records, so that the caller's is free
//! meanwhile; but for a step of few launches, which is recorded before a thread has woken up.

use super::script::{Opening, Recorded, Script};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

/// The next step as far as it can be known.
#[derive(Default)]
pub(super) struct Ahead {
    /// Whether a step of these sizes has run: others may never be asked for again.
    is_steady: bool,
    next: Option<Receiver<Step>>,
    recorder: Option<Recorder>,
}

/// A recorded step.
pub(super) struct Step {
    pub parts: Vec<Recorded>,
    /// What the first part begins with; none where that comes apart.
    pub opening: Option<Opening>,
    /// Where the last part copies status word and loss.
    pub staging: wgpu::Buffer,
}

/// A step to be recorded.
pub(super) struct Order {
    pub script: Script,
    pub opening: Option<Opening>,
    pub launches: Range<usize>,
    /// Launches of a part at most.
    pub most: usize,
    /// Where status word and loss are copied.
    pub staging: wgpu::Buffer,
}

/// An order, and who waits for it.
struct Job {
    order: Order,
    done: SyncSender<Step>,
}

/// Launches from which on a thread records them.
const MANY: usize = 48;

/// A thread that records.
struct Recorder {
    /// None once there is nothing more to record.
    jobs: Option<Sender<Job>>,
    /// None where the system gives no thread.
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Drops what is recorded.
    pub fn forget(&mut self) {
        self.next = None;
    }

    /// Sizes changed: forgets what is recorded, and that there will be more of it.
    pub fn restart(&mut self) {
        self.forget();
        self.is_steady = false;
    }

    /// A step has run. True from the second one of its sizes on.
    pub fn has_run(&mut self) -> bool {
        std::mem::replace(&mut self.is_steady, true)
    }

    /// The next step, if it was recorded.
    pub fn take(&mut self) -> Option<Step> {
        // No step comes from a recorder that has panicked: then who asks records, and meets the same.
        self.next.take().and_then(|next| next.recv().ok())
    }

    /// Has the next step recorded.
    pub fn record(&mut self, order: Order) {
        let (done, next) = sync_channel(1);
        let job = Job { order, done };
        match job.order.launches.len() {
            0..MANY => job.work(),
            _ => self.recorder.get_or_insert_with(Recorder::new).take(job),
        }
        self.next = Some(next);
    }
}

impl Job {
    fn work(self) {
        // Nobody may want it any more.
        drop(self.done.send(self.order.recorded()));
    }
}

impl Order {
    fn recorded(self) -> Step {
        let Order { script, opening, launches: Range { mut start, end }, most, staging } = self;
        let mut parts = vec![];
        while start < end {
            let until = start.saturating_add(most).min(end);
            parts.push(script.record(opening.as_ref().filter(|_| parts.is_empty()), start..until, Some(&staging).filter(|_| until == end)));
            start = until;
        }
        Step { parts, opening, staging }
    }
}

impl Recorder {
    fn new() -> Recorder {
        let (jobs, todo) = channel::<Job>();
        let work = move || todo.iter().for_each(Job::work);
        match std::thread::Builder::new().name("recorder".into()).spawn(work) {
            Ok(thread) => Recorder { jobs: Some(jobs), thread: Some(thread) },
            Err(error) => {
                tracing::debug!(%error, "no thread records ahead");
                Recorder { jobs: None, thread: None }
            }
        }
    }

    /// Has a step recorded, by the caller where there is no thread.
    fn take(&self, job: Job) {
        let left = match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|refused| refused.0),
            None => Some(job),
        };
        if let Some(job) = left {
            job.work();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!(?panic, "the recorder has panicked");
        }
    }
}
