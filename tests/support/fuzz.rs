//! What tests of hostile input share: random changes, and a driver that runs many of them on all threads and lists what went wrong.
//!
//! `INDUCTOR_MUTATIONS` asks for more changes than a daily run has; `INDUCTOR_FIRST_MUTATION` starts elsewhere: change number `k` is
//! the same in every run.
#![allow(dead_code)]

use super::memory;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

/// Longer than this is a hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// Numbers at which arithmetic breaks.
pub const NUMBERS: [i64; 22] = [
    0,
    1,
    2,
    3,
    7,
    13,
    28,
    -1,
    -2,
    64,
    65,
    1 << 16,
    1 << 20,
    i32::MAX as i64,
    1 << 31,
    1 << 32,
    1_000_000_000_000,
    1_000_000_000_000_000,
    1 << 62,
    i64::MAX,
    i64::MIN,
    -1_000_000_000_000,
];

/// A number of the environment.
pub fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Random numbers of one change.
pub struct Random(u64);

impl Random {
    /// Those of change number `k`.
    pub fn of(k: u64) -> Random {
        Random(k.wrapping_mul(0xD1B5_4A32_D192_ED03))
    }
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Bytes overwritten, removed, doubled or cut off; another number where one stands.
pub fn change_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    let end = (at + 1 + random.below(64)).min(bytes.len());
    match random.below(10) {
        0..=3 => bytes[at] = random.next() as u8,
        4 => drop(bytes.drain(at..end)),
        5 => {
            let part = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, part));
        }
        6 => bytes.truncate(at),
        _ => {
            let digits = random.next().to_string();
            let first = (at..bytes.len()).find(|&i| bytes[i].is_ascii_digit()).unwrap_or(bytes.len());
            let found = bytes[first..].iter_mut().take_while(|b| b.is_ascii_digit());
            found.zip(digits.bytes().cycle()).for_each(|(byte, digit)| *byte = digit);
        }
    }
}

thread_local! {
    /// Where this thread panicked last.
    static PANICKED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What happened to one change: [`Trial::step`] runs each part of it.
pub struct Trial<'a> {
    k: u64,
    faults: &'a Faults,
    worst: &'a AtomicU64,
}

/// What went wrong, with the number of the first change that did it, and how often.
type Faults = Mutex<BTreeMap<String, (u64, u64)>>;

impl Trial<'_> {
    /// Runs a part within so many bytes of memory and some time, without a panic, not even one that is caught inside. `None` after one.
    pub fn step<T>(&self, what: &str, room: u64, f: impl FnOnce() -> T) -> Option<T> {
        let started = Instant::now();
        PANICKED.take();
        let (result, peak) = memory::peak_of(|| catch_unwind(AssertUnwindSafe(f)));
        self.worst.fetch_max(peak, Ordering::Relaxed);
        if peak > room {
            self.blame(format!("{what} takes {} MiB", peak >> 20));
        }
        if started.elapsed() > PATIENCE {
            self.blame(format!("{what} does not end"));
        }
        let panicked = PANICKED.take();
        if !panicked.is_empty() {
            self.blame(format!("{what} panicked at {panicked}"));
        }
        result.ok()
    }

    fn blame(&self, what: String) {
        let mut faults = self.faults.lock().expect("no panic here");
        faults.entry(what).or_insert((self.k, 0)).1 += 1;
    }
}

/// Runs `INDUCTOR_MUTATIONS` changes, or `count`, on all threads. `f` gives whether a change was still a program. Lists all faults.
pub fn run(kind: &str, count: u64, f: impl Fn(u64, &Trial<'_>) -> bool + Sync) {
    run_range(kind, number("INDUCTOR_FIRST_MUTATION", 0), number("INDUCTOR_MUTATIONS", count), f);
}

/// The same for just so many.
#[allow(dead_code)]
pub fn run_each(kind: &str, count: u64, f: impl Fn(u64, &Trial<'_>) -> bool + Sync) {
    run_range(kind, 0, count, f);
}

fn run_range(kind: &str, first: u64, count: u64, f: impl Fn(u64, &Trial<'_>) -> bool + Sync) {
    note_panics();
    let (faults, worst, programs, next) = (Faults::default(), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(first));
    let threads = number("INDUCTOR_THREADS", std::thread::available_parallelism().map_or(1, |n| n.get() as u64));
    let (running, slots): (AtomicU64, Vec<AtomicU64>) = (AtomicU64::new(threads), (0..threads).map(|_| AtomicU64::new(0)).collect());
    std::thread::scope(|scope| {
        scope.spawn(|| watch(&running, &slots));
        for slot in &slots {
            let (f, faults, worst, programs, next, running) = (&f, &faults, &worst, &programs, &next, &running);
            scope.spawn(move || {
                loop {
                    let k = next.fetch_add(1, Ordering::Relaxed);
                    slot.store(k, Ordering::Relaxed);
                    if k >= first + count {
                        running.fetch_sub(1, Ordering::Relaxed);
                        break;
                    }
                    memory::TASK.set(k);
                    programs.fetch_add(f(k, &Trial { k, faults, worst }) as u64, Ordering::Relaxed);
                    if (k + 1) % 10_000 == 0 {
                        eprintln!("{} changes, {} kinds of fault", k + 1, faults.lock().expect("no panic here").len());
                    }
                }
            });
        }
    });
    let (programs, worst) = (programs.into_inner(), worst.into_inner());
    println!("{count} changed {kind}: {programs} are still programs, the others errors; at most {} KiB", worst >> 10);
    let faults = faults.into_inner().expect("no panic here");
    let list: Vec<String> = faults.iter().map(|(what, (k, n))| format!("{n} times, first change {k}: {what}")).collect();
    assert!(list.is_empty(), "\n{}", list.join("\n"));
    assert!(programs * 20 > count, "changes must reach what is behind the door, and only {programs} of {count} gave a program");
}

/// Notes where a thread panics, whoever catches it.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let outer = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let at = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
            let text = info.payload_as_str().unwrap_or_default().lines().next().unwrap_or_default().to_string();
            PANICKED.set(format!("{at}: {}", text.chars().take(160).collect::<String>()));
            // A test's own panic is shown; one of a change is listed.
            if at.starts_with("tests/") {
                outer(info);
            }
        }));
    });
}

/// Ends the process when a thread stays at one change for too long: a hang has no other end.
fn watch(running: &AtomicU64, slots: &[AtomicU64]) {
    let mut since: Vec<(u64, Instant)> = slots.iter().map(|_| (u64::MAX, Instant::now())).collect();
    while running.load(Ordering::Relaxed) > 0 {
        std::thread::sleep(Duration::from_millis(100));
        for (slot, at) in slots.iter().zip(&mut since) {
            let k = slot.load(Ordering::Relaxed);
            if at.0 != k {
                *at = (k, Instant::now());
            } else if at.1.elapsed() > 2 * PATIENCE {
                let _ = writeln!(std::io::stderr(), "change {k} does not end");
                std::process::abort();
            }
        }
    }
}
