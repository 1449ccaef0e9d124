//! `top`: the processes of a container as the host sees them.
//!
//! The default columns (`-ef`) are read from `/proc` here; other arguments go to the host's `ps`, whose rows are
//! kept by process id.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use wharf_linux::hostfs;

use crate::blocking::blocking;
use crate::{Engine, Error, Result, TopView};

impl Engine {
    /// The processes of a running container.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it does not run, [`Error::Invalid`] when `ps` refuses the arguments.
    pub async fn top(&self, name: &str, ps_args: &str) -> Result<TopView> {
        let container = self.find(name)?;
        if !container.record().is_running() {
            let restarting = container.record().phase == super::Phase::Restarting;
            return Err(if restarting { container.between_runs() } else { container.not_running() });
        }
        let pids = self.with_cgroup(&container, |cgroup| cgroup.pids()).await?;
        let arguments = ps_args.to_owned();
        let view = blocking(move || match arguments.as_str() {
            "" | "-ef" => Ok(own_listing(&pids)),
            arguments => host_ps(arguments, &pids),
        })
        .await?;
        self.emit(&container, "top", &[]);
        Ok(view)
    }
}

fn own_listing(pids: &[i32]) -> TopView {
    let titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
    let users = hostfs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
    let mut pids = pids.to_vec();
    pids.sort_unstable();
    TopView {
        titles: titles.map(str::to_owned).to_vec(),
        processes: pids.iter().filter_map(|pid| row(*pid, &users)).collect(),
    }
}

/// One row of `ps -ef`; `None` when the process ended meanwhile.
fn row(pid: i32, users: &str) -> Option<Vec<String>> {
    let read = |file: &str| hostfs::read_bounded(Path::new(&format!("/proc/{pid}/{file}")), 1024 * 1024).ok();
    let stat = String::from_utf8_lossy(&read("stat")?).into_owned();
    // The name in parentheses may hold anything: fields count from the last parenthesis.
    let (head, rest) = stat.rsplit_once(") ")?;
    let name = head.split_once('(')?.1;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_ascii_whitespace()
        .nth(1)?
        .to_owned();
    let command = read("cmdline")?;
    let command = if command.is_empty() {
        format!("[{name}]")
    } else {
        let parts = command.split(|byte| *byte == 0).filter(|part| !part.is_empty());
        parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect::<Vec<_>>().join(" ")
    };
    let seconds = (number(11) + number(12)) / 100;
    let started = started(number(19))?;
    let age = (jiff::Timestamp::now().as_second() - started.as_second()).max(1);
    let percent = i64::try_from(seconds).unwrap_or(0) * 100 / age;
    Some(vec![
        user_name(users, &uid),
        pid.to_string(),
        number(1).to_string(),
        percent.min(99).to_string(),
        jiff::ZonedDateTime::new(started, jiff::tz::TimeZone::system()).strftime("%H:%M").to_string(),
        terminal(number(4)),
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        command,
    ])
}

fn user_name(users: &str, uid: &str) -> String {
    let by_uid = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    by_uid.unwrap_or_else(|| uid.to_owned())
}

fn terminal(number: u64) -> String {
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match major {
        0 => "?".to_owned(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => "?".to_owned(),
    }
}

/// Boot time plus the start in ticks (proc_pid_stat(5), field 22).
fn started(ticks: u64) -> Option<jiff::Timestamp> {
    let stat = hostfs::read_to_string(Path::new("/proc/stat")).ok()?;
    let boot: i64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    jiff::Timestamp::from_second(boot + i64::try_from(ticks / 100).ok()?).ok()
}

/// Runs the host's `ps` and keeps the rows of the container.
fn host_ps(arguments: &str, pids: &[i32]) -> Result<TopView> {
    let output =
        Command::new("ps").args(arguments.split_ascii_whitespace()).env("LC_ALL", "C").output().map_err(
            |error| Error::System(format!("error running ps: {error}; install procps on the host")),
        )?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Invalid(format!("ps: {reason}")));
    }
    let pids: HashSet<i32> = pids.iter().copied().collect();
    select(&String::from_utf8_lossy(&output.stdout), &pids)
}

fn select(text: &str, pids: &HashSet<i32>) -> Result<TopView> {
    let mut lines = text.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    let column = titles.iter().position(|title| title == "PID");
    let column = column.ok_or_else(|| Error::Invalid("Couldn't find PID field in ps output".into()))?;
    let mut processes = Vec::new();
    for line in lines {
        let mut fields: Vec<String> = line.split_ascii_whitespace().map(str::to_owned).collect();
        // The last column is the command and may have blanks.
        if fields.len() > titles.len() {
            let command = fields.split_off(titles.len() - 1).join(" ");
            fields.push(command);
        }
        if fields.get(column).and_then(|pid| pid.parse().ok()).is_some_and(|pid: i32| pids.contains(&pid)) {
            processes.push(fields);
        }
    }
    Ok(TopView { titles, processes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_by_process_id() {
        let view = select("PID CMD\n  7 sh -c x y\n  8 other\n", &[7].into()).unwrap();
        assert_eq!(view.processes, [["7", "sh -c x y"]]);
        assert!(select("CMD\nsh\n", &[7].into()).is_err());
    }

    #[test]
    fn this_process_has_a_row() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let row = row(pid, "root:x:0:0::/:/bin/sh\n").unwrap();
        assert_eq!(row[1], pid.to_string());
        assert_eq!(row.len(), 8);
    }
}
