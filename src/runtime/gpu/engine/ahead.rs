//! The next step, recorded on a thread of its own while the device works on the last one.
//!
//! Steps of equal sizes run equal commands, and recording takes a host as long as a small step takes the device. So a thread records the next step
//! as soon as the last one is submitted: who asks for it finds it ready, and has had his own thread for himself meanwhile.

use super::script::{Recorded, Script};
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
    /// Where the last part copies status word and loss.
    pub staging: wgpu::Buffer,
}

/// A step to be recorded.
struct Job {
    script: Script,
    launches: Range<usize>,
    /// Launches of a part.
    most: usize,
    staging: wgpu::Buffer,
    done: SyncSender<Step>,
}

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

    /// Records launches in parts of so many at most, of which the last copies status word and loss to `staging`.
    pub fn record(&mut self, script: Script, launches: Range<usize>, most: usize, staging: wgpu::Buffer) {
        let (done, next) = sync_channel(1);
        self.recorder.get_or_insert_with(Recorder::new).take(Job { script, launches, most, staging, done });
        self.next = Some(next);
    }
}

impl Job {
    fn work(self) {
        let mut parts = vec![];
        let Range { mut start, end } = self.launches;
        while start < end {
            let until = start.saturating_add(self.most).min(end);
            parts.push(self.script.record(start..until, Some(&self.staging).filter(|_| until == end)));
            start = until;
        }
        // Nobody may want it any more.
        drop(self.done.send(Step { parts, staging: self.staging }));
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
