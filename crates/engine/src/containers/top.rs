//! `top`: the processes of a container as the host sees them.
//!
//! The default columns (`-ef`) are read from `/proc` here; other arguments go to the host's `ps`, whose rows are
//! kept by process id.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use wharf_linux::hostfs;

use crate::blocking::blocking;
use crate::{Engine, Error, Result, TopView};

/// The most that is kept of what `ps` prints.
const OUTPUT: u64 = 16 * 1024 * 1024;
/// How long `ps` may take.
const DEADLINE: Duration = Duration::from_secs(20);

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
        check_titles(ps_args)?;
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

/// Runs the host's `ps` and keeps the rows of the container. Nothing of the container is executed or loaded: `ps` is the
/// host's, in the host's namespaces, and reads `/proc`.
fn host_ps(arguments: &str, pids: &[i32]) -> Result<TopView> {
    let words: Vec<&str> = arguments.split_ascii_whitespace().collect();
    let list = pids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    // Some options do not go together with `-q`; then without it, and the rows are chosen here alone.
    let output = match ps(&words, Some(&format!("-q{list}")))? {
        Ran::Printed(text) => text,
        Ran::Refused(_) => match ps(&words, None)? {
            Ran::Printed(text) => text,
            Ran::Refused(reason) => {
                return Err(Error::System(format!("ps: {}", reason.lines().next().unwrap_or_default())));
            }
        },
    };
    let pids: HashSet<i32> = pids.iter().copied().collect();
    select(&output, &pids)
}

/// What came of `ps`.
enum Ran {
    Printed(String),
    Refused(String),
}

fn ps(words: &[&str], chosen: Option<&str>) -> Result<Ran> {
    let failed =
        |error: std::io::Error| Error::System(format!("ps: {error}; is procps installed on the host?"));
    let mut command = Command::new("ps");
    command.args(words).args(chosen).env("LC_ALL", "C");
    // Nobody answers questions, and a `ps` that hangs in a mount of /proc must not hold the request for ever.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let errors = std::thread::spawn(move || read_some(stderr));
    let output = std::thread::spawn(move || read_some(stdout));
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                let _ended_just_now = child.kill();
                let _status = child.wait().map_err(failed)?;
                return Err(Error::Deadline { what: "ps".into(), seconds: DEADLINE.as_secs() });
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let [output, errors] = [output, errors].map(|reader| reader.join().unwrap_or_default());
    Ok(if status.success() { Ran::Printed(output) } else { Ran::Refused(errors) })
}

/// Reads to the end and keeps the first [`OUTPUT`] bytes.
fn read_some(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _cut = pipe.by_ref().take(OUTPUT).read_to_end(&mut bytes);
        let _rest = std::io::copy(&mut pipe, &mut std::io::sink());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Titles by which `ps` could call another column PID are refused: it is by that column that rows are chosen.
fn check_titles(arguments: &str) -> Result<()> {
    for word in arguments.split_ascii_whitespace().skip(1) {
        if let Some((key, title)) = word.split_once('=')
            && title.starts_with("PID")
            && key != "pid"
        {
            return Err(Error::Invalid(format!("specifying \"{key}={title}\" is not allowed")));
        }
    }
    Ok(())
}

fn select(text: &str, pids: &HashSet<i32>) -> Result<TopView> {
    let mut lines = text.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    let column = titles.iter().position(|title| title == "PID");
    let column = column.ok_or_else(|| Error::System("Couldn't find PID field in ps output".into()))?;
    let mut processes = Vec::new();
    // With `m`, the threads of a process follow it with a dash for their process id.
    let mut ours = false;
    for line in lines {
        let mut fields: Vec<String> = line.split_ascii_whitespace().map(str::to_owned).collect();
        let Some(pid) = fields.get(column) else { continue };
        if pid != "-" {
            let pid: i32 =
                pid.parse().map_err(|error| Error::System(format!("unexpected pid '{pid}': {error}")))?;
            ours = pids.contains(&pid);
        }
        if !ours {
            continue;
        }
        // The last column is the command and may have blanks.
        if fields.len() > titles.len() {
            let command = fields.split_off(titles.len() - 1).join(" ");
            fields.push(command);
        }
        processes.push(fields);
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
        let threads = select("PID TTY CMD\n7 ? a b\n- ? -\n8 ? c\n- ? -\n", &[7].into()).unwrap();
        assert_eq!(threads.processes, [vec!["7", "?", "a b"], vec!["-", "?", "-"]]);
        assert!(check_titles("-o pid=PID,cmd").is_ok());
        assert!(check_titles("-o ppid=PID").is_err());
    }

    #[test]
    fn this_process_has_a_row() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let row = row(pid, "root:x:0:0::/:/bin/sh\n").unwrap();
        assert_eq!(row[1], pid.to_string());
        assert_eq!(row.len(), 8);
    }
}
