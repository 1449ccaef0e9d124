//! The table in `docs/benchmarks.md`: renewed row by row, so that one row can be measured again alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use wharf_testkit::workspace_root;

const FILE: &str = "docs/benchmarks.md";
const HEAD: &str = "| row | Wharf | peer | ratio | goal |\n|---|---|---|---|---|\n";

/// One measured comparison.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// Row and what exactly, such as `P2 run --rm, bridge`.
    pub(crate) label: String,
    /// Which peer.
    pub(crate) peer: &'static str,
    /// Wharf's median.
    pub(crate) wharf: f64,
    /// The peer's median, where it is installed.
    pub(crate) other: Option<f64>,
    /// `ms`, `s` or `MB`.
    pub(crate) unit: &'static str,
    /// The promise in words.
    pub(crate) goal: &'static str,
}

impl Measured {
    /// The row of the table.
    pub(crate) fn line(&self) -> String {
        let (other, ratio) = match self.other {
            Some(other) => {
                (format!("{} {:.2} {}", self.peer, other, self.unit), format!("{:.3}", self.wharf / other))
            }
            None => (format!("{} not here", self.peer), "–".to_owned()),
        };
        format!("| {} | {:.2} {} | {other} | {ratio} | {} |", self.label, self.wharf, self.unit, self.goal)
    }
}

/// Puts the rows into the file, beside those of earlier runs.
pub(crate) fn write(measured: &[Measured]) -> Result<()> {
    let path = workspace_root().join(FILE);
    let old = std::fs::read_to_string(&path).with_context(|| format!("reading {FILE}"))?;
    let text = merge(&old, measured, &machine()).with_context(|| format!("{FILE} has no table"))?;
    std::fs::write(&path, text).with_context(|| format!("writing {FILE}"))
}

fn merge(old: &str, measured: &[Measured], machine: &str) -> Option<String> {
    let (before, table) = old.split_once(HEAD)?;
    let label = |line: &str| line.split('|').nth(1).map(|cell| cell.trim().to_owned()).unwrap_or_default();
    let end = table.find("\n\n").map_or(table.len(), |end| end + 1);
    let mut rows: BTreeMap<String, String> = table[..end]
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| (label(line), line.to_owned()))
        .collect();
    rows.extend(measured.iter().map(|row| (row.line(), row)).map(|(line, _)| (label(&line), line)));
    let mut text = before.to_owned();
    text.push_str(HEAD);
    for row in rows.values() {
        let _ = writeln!(text, "{row}");
    }
    let _ = write!(text, "\nLast measured: {machine}.\n");
    // What people wrote beneath the table stays.
    let after = table[end..].trim_start_matches('\n');
    let prose = if after.starts_with("Last measured:") {
        after.split_once('\n').map_or("", |cut| cut.1)
    } else {
        after
    };
    text.push_str(prose);
    Some(text)
}

/// Date and machine in one line.
fn machine() -> String {
    let output = |program: &str, arguments: &[&str]| {
        let output =
            Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).trim().to_owned()
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown CPU");
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    format!(
        "{}, Linux {}, {cores} × {}, a virtual machine; Docker 28.5.2, crun 1.28, runc 1.3.6",
        output("date", &["-u", "+%Y-%m-%d"]),
        output("uname", &["-r"]),
        model.trim_start_matches(['\t', ' ', ':'])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_renewed_and_others_kept() {
        let old = format!(
            "# Title\n\n{HEAD}| P1 x | a | b | c | d |\n| P2 y | a | b | c | d |\n\nLast measured: never.\n\n## Why\nBecause.\n"
        );
        let row = Measured {
            label: "P2 y".to_owned(),
            peer: "Docker",
            wharf: 10.0,
            other: Some(200.0),
            unit: "ms",
            goal: "≤ 0.08",
        };
        let new = merge(&old, &[row], "today").unwrap();
        assert!(
            new.contains(
                "| P1 x | a | b | c | d |\n| P2 y | 10.00 ms | Docker 200.00 ms | 0.050 | ≤ 0.08 |\n"
            )
        );
        assert!(new.ends_with("\nLast measured: today.\n\n## Why\nBecause.\n"));
        assert!(new.starts_with("# Title\n"));
    }
}
