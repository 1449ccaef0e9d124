//! Kill points and fault points: what is true when a process dies, or a call fails, at any place of any operation.
//!
//! For every operation the calls are counted that change something (`K`). Then, for each number up to `K`, the operation
//! runs again and the engine (or the shim, the runtime inside the container, the command line) is killed before that
//! call. The engine starts again, within ten seconds nothing is left that no object explains, the same operation succeeds,
//! and after everything was removed the machine is as before. For faults, the call fails instead with `EIO`, `ENOSPC`,
//! `EMFILE`, `ENOMEM`, `EINTR` or `EAGAIN`, once and from there on: the answer is success or an error within thirty
//! seconds, the engine lives and has not panicked, what it says is true, and a retry works.
//!
//! `make test` takes a few points of a few operations, always the same; `make points` takes all (`WHARF_TEST_POINTS=all`), or
//! every `n`-th (`1/n`). `WHARF_TEST_OPERATION=run,rm` chooses operations.

#![expect(clippy::print_stdout, reason = "a run says its seed and how much it did")]

mod bench;
mod operations;

use rustix::io::Errno;
use wharf_testkit::faults::Role;
use wharf_testkit::random::Random;

use bench::{Bench, Points, Tally};
use operations::{OPERATIONS, Operation};

/// Operations that a short run takes for each process.
const SOME: usize = 1;

/// A short run is always the same one.
fn seed() -> Random {
    if std::env::var_os("WHARF_TEST_POINTS").is_none() && std::env::var_os("WHARF_TEST_SEED").is_none() {
        return Random::seeded(1);
    }
    Random::from_env("WHARF_TEST_SEED")
}

/// The operations in which a process takes part: those that were asked for, or a few by the seed, or all.
fn chosen(role: Role, points: Points, random: &mut Random) -> Vec<&'static Operation> {
    let wanted = std::env::var("WHARF_TEST_OPERATION").unwrap_or_default();
    let takes_part = |operation: &&Operation| role == Role::Program || operation.inside;
    let mut all: Vec<&Operation> = OPERATIONS.iter().filter(takes_part).collect();
    if !wanted.is_empty() {
        all.retain(|operation| wanted.split(',').any(|name| name == operation.name));
    } else if points.is_short() {
        while all.len() > SOME {
            all.swap_remove(random.between(0, all.len() as u64) as usize);
        }
    }
    all
}

/// One line per operation, with all that was done.
fn report(what: &str, tallies: &[Tally]) {
    let (k, points) =
        (tallies.iter().map(|t| t.k).sum::<u64>(), tallies.iter().map(|t| t.points).sum::<u64>());
    for tally in tallies {
        println!("{what} | {} | {} | {} | {}", tally.name, tally.k, tally.points, tally.failures.len());
    }
    println!("{what}: {} operations, K = {k}, {points} points", tallies.len());
    let failures: Vec<&String> = tallies.iter().flat_map(|tally| &tally.failures).collect();
    assert!(failures.is_empty(), "{} of {points} points failed:\n{failures:#?}", failures.len());
    assert!(points > 0 || k == 0, "nothing happened");
}

fn deaths(role: Role, few: u64) {
    let mut random = seed();
    let points = Points::from_env(few);
    let mut bench = Bench::new();
    let operations = chosen(role, points, &mut random);
    let deaths = |operation| bench.deaths(operation, role, points, &mut random);
    let tallies: Vec<Tally> = operations.into_iter().map(deaths).collect();
    report(&format!("{role:?} killed"), &tallies);
}

#[test]
fn an_engine_killed_at_any_change_recovers() {
    deaths(Role::Program, 1);
}

#[test]
fn a_shim_killed_at_any_change_is_missed() {
    deaths(Role::Shim, 1);
}

#[test]
fn a_container_killed_while_it_is_made_leaves_nothing() {
    deaths(Role::Init, 1);
}

#[test]
fn a_command_line_killed_at_any_change_leaves_nothing() {
    let mut random = seed();
    let points = Points::from_env(1);
    let mut bench = Bench::new();
    let operations = chosen(Role::Program, points, &mut random);
    let deaths = |operation| bench.client_deaths(operation, points, &mut random);
    let tallies: Vec<Tally> = operations.into_iter().map(deaths).collect();
    report("command line killed", &tallies);
}

fn faults(errno: Errno, name: &str) {
    let mut random = seed();
    let points = Points::from_env(1);
    let mut bench = Bench::new();
    for (role, who) in [(Role::Program, "engine"), (Role::Shim, "shim"), (Role::Init, "init")] {
        let operations = chosen(role, points, &mut random);
        let faults = |operation| bench.faults(operation, role, errno, points, &mut random);
        let tallies: Vec<Tally> = operations.into_iter().map(faults).collect();
        report(&format!("{name} in the {who}"), &tallies);
    }
}

#[test]
fn an_input_or_output_error_anywhere_is_told() {
    faults(Errno::IO, "EIO");
}

#[test]
fn a_full_disk_anywhere_is_told() {
    faults(Errno::NOSPC, "ENOSPC");
}

#[test]
fn a_lack_of_descriptors_anywhere_is_told() {
    faults(Errno::MFILE, "EMFILE");
}

#[test]
fn a_lack_of_kernel_memory_anywhere_is_told() {
    faults(Errno::NOMEM, "ENOMEM");
}

#[test]
fn an_interruption_anywhere_changes_nothing() {
    faults(Errno::INTR, "EINTR");
}

#[test]
fn a_lack_of_processes_anywhere_is_told() {
    faults(Errno::AGAIN, "EAGAIN");
}
