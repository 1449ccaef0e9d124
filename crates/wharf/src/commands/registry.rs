//! `registry serve`: becomes the program `wharf-registry`, whose flags it takes.

use std::{ffi::OsString, os::unix::process::CommandExt, path::PathBuf, process::Command};

use crate::{
    cli::Cli,
    failure::{Failure, Result},
    verb::{Arity, Verb},
};

const PROGRAM: &str = "wharf-registry";

/// The raw arguments of `registry serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    #[arg(hide = true, num_args = 0.., trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Verb for Serve {
    const ABOUT: &'static str = "Serve a registry (its options: `wharf-registry serve --help`)";
    const USAGE: &'static str = "--address HOST:PORT --data DIR [OPTIONS]";
    const ARITY: Arity = Arity::AtLeast(0);

    async fn run(self, _: &Cli) -> Result {
        // Beside this program, else in `PATH`.
        let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(PROGRAM)));
        let program = beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(PROGRAM));
        let error = Command::new(&program).arg("serve").args(self.arguments).exec();
        Err(Failure::message(format!("cannot run {}: {error}", program.display())))
    }
}
