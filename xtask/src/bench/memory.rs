//! Memory of processes as the kernel shares it out (PSS): shared pages count for each of their users in part.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the memory must not have become less.
const STILL: Duration = Duration::from_secs(7);
/// How long that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `uses` says when nothing has happened for a while: what its programs hold, not what the last command left.
pub(crate) fn at_rest(uses: &dyn Fn() -> u64) -> u64 {
    let begin = Instant::now();
    let (mut least, mut since) = (uses(), Instant::now());
    while since.elapsed() < STILL && begin.elapsed() < PATIENCE {
        sleep(Duration::from_millis(250));
        let now = uses();
        // A percent less is noise.
        if now < least - least / 100 {
            (least, since) = (now, Instant::now());
        }
    }
    uses()
}

/// The PSS in bytes of all processes that `matches` says yes to, given their command line.
pub(crate) fn pss(matches: impl Fn(&str) -> bool) -> u64 {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    pids.filter(|pid| matches(&command_line(*pid))).map(of_process).sum()
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

fn of_process(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
