//! The budgets, side by side with the peers in one run on one machine.
//!
//! An absolute time proves nothing on a shared machine. So every row alternates between the programs it compares, drops
//! the warm-up, and reports medians and the ratio of medians. `docs/benchmarks.md` keeps the last table.

mod http;
mod large;
mod memory;
mod registry;
mod report;
mod rows;
mod scale;
mod timing;

use anyhow::{Context as _, Result, bail, ensure};
use wharf_testkit::use_release_binaries;

use report::Measured;
use timing::Runs;

/// Runs the rows that the arguments name, all when they name none.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    if let ["inside", dir, runs] = arguments {
        return rows::oci_inside(dir.as_ref(), Runs::new(runs.parse().context("runs")?));
    }
    let wanted = Wanted::parse(arguments)?;
    use_release_binaries();
    let mut measured: Vec<Measured> = Vec::new();
    for (name, row) in rows::ALL {
        if wanted.rows.is_empty() || wanted.rows.iter().any(|row| row == name) {
            println!("{name} …");
            let results = row(wanted.runs).with_context(|| format!("{name} failed"))?;
            results.iter().for_each(|result| println!("  {}", result.line()));
            measured.extend(results);
        }
    }
    if wanted.write { report::write(&measured) } else { Ok(()) }
}

struct Wanted {
    rows: Vec<String>,
    runs: Runs,
    write: bool,
}

impl Wanted {
    fn parse(arguments: &[&str]) -> Result<Self> {
        let mut wanted = Self { rows: Vec::new(), runs: Runs::new(20), write: false };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match *argument {
                "--write" => wanted.write = true,
                "-n" => {
                    let runs: usize =
                        rest.next().context("-n needs a number")?.parse().context("-n needs a number")?;
                    ensure!(runs > 0, "-n needs at least one run");
                    wanted.runs = Runs::new(runs);
                }
                row if rows::ALL.iter().any(|(name, _)| *name == row) => wanted.rows.push(row.to_owned()),
                other => bail!("unknown row `{other}`; there are P1 to P7, P9, P11 and P12"),
            }
        }
        ensure!(!wanted.write || wanted.runs.count() >= 10, "a table worth keeping has at least 10 runs");
        Ok(wanted)
    }
}
