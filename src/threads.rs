//! Work spread over threads. Where the system gives no thread, the calling one does everything.
//!
//! The pool is made at the first call. Its size is the machine's, or `RAYON_NUM_THREADS`; where the system grants fewer, it has those.

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Calls `f` with every number below `count`.
pub fn for_each(count: usize, f: impl Fn(usize) + Sync + Send) {
    within(|| (0..count).into_par_iter().for_each(&f)).unwrap_or_else(|| (0..count).for_each(&f));
}

/// What `f` gives for every number below `count`, in order.
pub fn collect<T: Send>(count: usize, f: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    within(|| (0..count).into_par_iter().map(&f).collect()).unwrap_or_else(|| (0..count).map(&f).collect())
}

/// Calls `f` with every item.
pub fn consume<T: Send>(items: Vec<T>, f: impl Fn(T) + Sync + Send) {
    let items: Vec<Mutex<Option<T>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    let take = |k: usize| items[k].lock().unwrap_or_else(PoisonError::into_inner).take();
    for_each(items.len(), |k| {
        if let Some(item) = take(k) {
            f(item);
        }
    });
}

/// Runs in the pool that the caller is in, else in ours; `None` without threads.
fn within<T: Send>(f: impl FnOnce() -> T + Send) -> Option<T> {
    if rayon::current_thread_index().is_some() {
        return Some(f());
    }
    pool().map(|pool| pool.install(f))
}

fn pool() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    POOL.get_or_init(|| largest(&|threads| ThreadPoolBuilder::new().num_threads(threads).build().ok())).as_ref()
}

/// The first pool that can be made, from the whole machine down by halves. One thread beside the caller's gains nothing.
fn largest<T>(make: &dyn Fn(usize) -> Option<T>) -> Option<T> {
    if let Some(pool) = make(0) {
        return Some(pool);
    }
    let machine = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::iter::successors(Some(machine / 2), |n| Some(n / 2)).take_while(|&n| n > 1).find_map(make)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_number_comes_once() {
        let sum = AtomicUsize::new(0);
        for_each(1000, |k| {
            sum.fetch_add(k, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 999 * 500);
        let left = AtomicUsize::new(0);
        consume((0..100usize).collect(), |k| {
            left.fetch_add(k, Ordering::Relaxed);
        });
        assert_eq!(left.into_inner(), 99 * 50);
        assert_eq!(collect(100, |k| k * k), (0..100).map(|k| k * k).collect::<Vec<_>>());
    }

    #[test]
    fn fewer_threads_are_better_than_none() {
        let machine = std::thread::available_parallelism().map_or(1, |n| n.get());
        assert_eq!(largest(&|n| (n == 0).then_some(n)), Some(0));
        assert_eq!(largest(&|_| None::<usize>), None);
        let found = largest(&|n| (n != 0 && n <= machine / 2).then_some(n));
        assert_eq!(found, (machine / 2 > 1).then_some(machine / 2));
    }
}
