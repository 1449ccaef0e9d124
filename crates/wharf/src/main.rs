//! The command line: Docker's verbs over the Docker Engine API.

mod cli;
mod commands;
mod config;
mod connection;
mod contexts;
mod credentials;
mod engine;
mod failure;
mod format;
mod help;
mod plugins;
mod progress;
mod session;
mod syntax;
mod template;
mod terminal;
mod trusted;
mod upload;
mod verb;

use std::ffi::OsString;

fn main() {
    terminal::restore_on_panic();
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let complain = |failure: failure::Failure| {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{failure}\n").as_bytes());
        failure.code()
    };
    let status = if args.first().is_some_and(|word| word == engine::DETACH_WORD) {
        complain(engine::become_engine(&args.split_off(1)))
    } else if args.first().is_some_and(|word| word == engine::SESSION_WORD) {
        complain(engine::become_session(&args.split_off(1)))
    } else {
        cli::main(args)
    };
    std::process::exit(status.into());
}
