//! Developer commands, run as `cargo xtask COMMAND`. The Makefile is a thin layer over these.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod bench;
mod demo;
mod layers;
mod tail;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  layers [--write]     dependencies between crates point downwards (layers.toml); --write renews docs/crate-graph.txt
  tail                 no file has outgrown its limit
  demo                 the demonstration of the README, on a scratch engine
  bench [P1..P5] [-n RUNS] [--write]
                       the budgets, side by side with Docker, crun and runc where ../shared/peers has them
  leftovers [--record FILE | --since FILE]
                       what engines have left on this machine: processes, mounts, links, cgroups, firewall tables; --record
                       writes what is there before a run, --since reports only what has come since";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["layers"] => layers::check(),
        ["layers", "--write"] => layers::write(),
        ["tail"] => tail::check(),
        ["demo"] => demo::run(),
        ["bench", rest @ ..] => bench::run(rest),
        ["leftovers"] => leftovers(""),
        ["leftovers", "--record", file] => {
            let there = wharf_testkit::leftovers::of_any_engine().join("\n");
            std::fs::write(file, there).with_context(|| format!("writing {file}"))
        }
        ["leftovers", "--since", file] => {
            leftovers(&std::fs::read_to_string(file).with_context(|| format!("reading {file}"))?)
        }
        [] | ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(())
        }
        other => bail!("unknown command `{}`\n\n{HELP}", other.join(" ")),
    }
}

/// The sweep after everything: whatever looks like ours, was not there before and is on the machine is a leak.
fn leftovers(before: &str) -> Result<()> {
    let mut found = wharf_testkit::leftovers::of_any_engine();
    found.retain(|line| !before.lines().any(|known| known == line));
    if found.is_empty() {
        println!("leftovers: none");
        return Ok(());
    }
    bail!("engines left on this machine:\n  {}", found.join("\n  "))
}
