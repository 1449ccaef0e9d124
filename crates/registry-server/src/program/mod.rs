//! The program `wharf-registry`: the parts put together. It knows flags, files, sockets and signals, and nothing of
//! repositories.
//!
//! Start: settings, files of users, rules and keys, the storage, then the sockets and `listening on …`. End: on SIGTERM
//! or SIGINT no new connections, open requests are served for the time of `--drain`; a second signal ends at once.
//! SIGHUP opens the access log's file anew (the files of users, rules and certificates are followed by themselves).
//! As the first process of a container it needs nothing else in the image.

mod hash_password;
mod serve;
mod settings;
mod signals;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// A registry for container images: the OCI distribution specification 1.1, in one program.
#[derive(Debug, Parser)]
#[command(name = "wharf-registry", version, max_term_width = 100)]
struct Program {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve a registry
    Serve(Box<settings::ServeFlags>),
    /// Remove what is needed no more from a registry that is not being served (one that is does so by itself)
    GarbageCollect {
        /// The registry's directory
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
    /// Ask for a password and print the user's line for --htpasswd
    HashPassword {
        /// The user's name
        user: String,
    },
}

/// Runs the program.
pub fn main() -> ExitCode {
    match run(Program::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a program's last words")]
fn report(error: &anyhow::Error) {
    eprintln!("wharf-registry: {error:#}");
}

fn run(program: Program) -> Result<()> {
    match program.verb {
        Verb::Serve(flags) => {
            let settings = settings::Settings::load(*flags)?;
            serve::log(settings.log_level);
            runtime()?.block_on(serve::serve(settings))
        }
        Verb::GarbageCollect { data } => {
            serve::log(tracing::Level::WARN);
            runtime()?.block_on(serve::garbage_collect(&data))
        }
        Verb::HashPassword { user } => hash_password::run(&user),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .thread_name("registry")
        .enable_all()
        .build()
        .context("starting the runtime")
}
