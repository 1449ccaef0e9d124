//! Paired, interleaved timing.

use std::time::{Duration, Instant};

use anyhow::Result;

/// How often something is measured, after how many unmeasured runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Runs {
    count: usize,
    warm_up: usize,
}

/// Runs whose times are thrown away: caches, first use of the bridge, lazily loaded code.
const WARM_UP: usize = 3;

impl Runs {
    pub(crate) fn new(count: usize) -> Self {
        Self { count, warm_up: WARM_UP }
    }

    pub(crate) fn count(self) -> usize {
        self.count
    }

    /// At most `limit`, for rows where one run takes many seconds.
    pub(crate) fn at_most(self, limit: usize) -> Self {
        Self { count: self.count.min(limit), ..self }
    }

    /// For rows where one run of all programs takes minutes: five runs after one.
    pub(crate) fn few(self) -> Self {
        Self { count: self.count.min(5), warm_up: 1 }
    }
}

/// Something to time; it gets the number of the run.
pub(crate) type Task<'a> = Box<dyn FnMut(usize) -> Result<Duration> + 'a>;

/// A task whose whole call is timed.
pub(crate) fn timed<'a>(mut work: impl FnMut(usize) -> Result<()> + 'a) -> Task<'a> {
    Box::new(move |run| {
        let start = Instant::now();
        work(run)?;
        Ok(start.elapsed())
    })
}

/// Runs the tasks in turn, so that a slow moment of the machine hits all of them, and returns the median of each.
pub(crate) fn interleave(runs: Runs, tasks: &mut [Task<'_>]) -> Result<Vec<Duration>> {
    let mut times = vec![Vec::new(); tasks.len()];
    for run in 0..runs.warm_up + runs.count {
        for (task, times) in tasks.iter_mut().zip(&mut times) {
            let time = task(run)?;
            if run >= runs.warm_up {
                times.push(time);
            }
        }
    }
    Ok(times.into_iter().map(median).collect())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_take_turns_and_the_warm_up_is_dropped() {
        let order = std::cell::RefCell::new(String::new());
        let task = |name: char, slow: u64| -> Task<'_> {
            let order = &order;
            Box::new(move |run| {
                order.borrow_mut().push(name);
                Ok(Duration::from_secs(if run < WARM_UP { 1000 } else { slow }))
            })
        };
        let medians = interleave(Runs::new(2), &mut [task('a', 1), task('b', 2)]).unwrap();
        assert_eq!(medians, [Duration::from_secs(1), Duration::from_secs(2)]);
        assert_eq!(*order.borrow(), "ab".repeat(WARM_UP + 2));
    }
}
