//! How many launches go over in one submission.
//!
//! The device works on the first ones while the host records the others, which takes it more than a microsecond each; and no
//! submission may take so long that a driver's watchdog ends it. How long launches take is measured in the first step, which waits for
//! each of its submissions, and in a second one where the first was slow: some drivers compile when a kernel is first used. A single launch is never cut: WGSL knows no first workgroup, so that a part would need a shader of its
//! own. A kernel that alone takes longer than the watchdog admits (two seconds on Windows, unless the system says otherwise) is for
//! smaller sizes, or another device.

use std::ops::Range;
use std::time::Duration;

/// Launches of a step's first submission; each that follows has twice as many.
const FIRST: usize = 32;
/// What a submission may take, with room below what watchdogs admit.
const LONGEST: Duration = Duration::from_millis(500);

/// What is known of a program's launches.
pub(super) struct Pace {
    longest: Duration,
    /// Launches that a submission may have, once a step has been measured.
    most: Option<usize>,
    /// The slowest launch of the step so far, and all of them.
    slowest: Duration,
    total: Duration,
    /// Whether a step has been measured already.
    is_second: bool,
}

impl Pace {
    pub fn new() -> Pace {
        Pace { longest: LONGEST, most: None, slowest: Duration::ZERO, total: Duration::ZERO, is_second: false }
    }

    /// Whether each submission is to be waited for.
    pub fn is_measuring(&self) -> bool {
        self.most.is_none()
    }

    /// The launches that a submission may have, once it is known what they take.
    pub fn most(&self) -> Option<usize> {
        self.most
    }

    /// The launches after `done`, whose last submission had `before` launches, that go over next.
    pub fn next(&self, done: usize, before: usize, launches: usize) -> Range<usize> {
        let left = launches - done;
        let count = match self.most {
            None => (2 * before).clamp(1, self.fitting()),
            Some(most) => {
                let count = if done == 0 { FIRST } else { 2 * before }.min(most);
                if left > 2 * count || left > most { count } else { left }
            }
        };
        done..done + count.min(left)
    }

    /// Learns how long a submission took.
    pub fn measured(&mut self, launches: usize, time: Duration) {
        self.slowest = self.slowest.max(time / launches.max(1) as u32);
        self.total += time;
    }

    /// The step is over: nobody waits any more, once it is known what launches take.
    pub fn settle(&mut self) {
        if self.most.is_none() && self.total > self.longest && !self.is_second {
            *self = Pace { is_second: true, ..Pace::new() };
        } else if self.most.is_none() {
            self.most = Some(if self.total <= self.longest { usize::MAX } else { self.fitting() });
        }
    }

    /// How many of the slowest launches a submission may have.
    fn fitting(&self) -> usize {
        let each = self.slowest.as_nanos().max(1);
        usize::try_from(self.longest.as_nanos() / each).unwrap_or(usize::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(pace: &mut Pace, launches: usize, each: Duration) -> Vec<usize> {
        let (mut done, mut before, mut sizes) = (0, 0, vec![]);
        while done < launches {
            let range = pace.next(done, before, launches);
            (done, before) = (range.end, range.len());
            sizes.push(before);
            if pace.is_measuring() {
                pace.measured(before, each * before as u32);
            }
        }
        pace.settle();
        sizes
    }

    #[test]
    fn a_fast_device_gets_few_submissions() {
        let (mut pace, each) = (Pace::new(), Duration::from_micros(10));
        assert_eq!(ranges(&mut pace, 200, each), [1, 2, 4, 8, 16, 32, 64, 73]);
        assert_eq!(ranges(&mut pace, 200, each), [32, 64, 104]);
        assert_eq!(ranges(&mut pace, 20, each), [20]);
        assert_eq!(ranges(&mut pace, 64, each), [64]);
    }

    #[test]
    fn no_submission_of_a_slow_device_takes_long() {
        let (mut pace, each) = (Pace::new(), Duration::from_millis(60));
        for _ in 0..2 {
            assert_eq!(ranges(&mut pace, 30, each), [1, 2, 4, 8, 8, 7]);
        }
        assert_eq!(ranges(&mut pace, 30, each), [8, 8, 8, 6]);
        let (mut pace, each) = (Pace::new(), Duration::from_secs(2));
        for _ in 0..3 {
            assert_eq!(ranges(&mut pace, 3, each), [1, 1, 1]);
        }
    }

    #[test]
    fn a_slow_first_step_is_measured_again() {
        let mut pace = Pace::new();
        assert_eq!(ranges(&mut pace, 5, Duration::from_secs(1)), [1, 1, 1, 1, 1]);
        assert_eq!(ranges(&mut pace, 5, Duration::from_millis(1)), [1, 2, 2]);
        assert_eq!(ranges(&mut pace, 5, Duration::from_millis(1)), [5]);
    }
}
