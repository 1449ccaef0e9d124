//! The command line: Docker's verbs over the Docker Engine API.

mod cli;
mod commands;
mod config;
mod credentials;
mod engine;
mod failure;
mod format;
mod help;
mod progress;
mod session;
mod syntax;
mod template;
mod terminal;
mod upload;
mod verb;

use std::ffi::OsString;

fn main() {
    terminal::restore_on_panic();
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let status = if args.first().is_some_and(|word| word == engine::DETACH_WORD) {
        let failure = engine::become_engine(&args.split_off(1));
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{failure}\n").as_bytes());
        failure.code()
    } else {
        cli::main(args)
    };
    std::process::exit(status.into());
}
