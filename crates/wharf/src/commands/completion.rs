//! `completion`: writes the completion script of a shell.

use clap::Command;
use clap_complete::Shell;

use super::{GROUPS, VERBS};
use crate::{
    cli::{Cli, Globals},
    failure::{Failure, Result},
    verb::{Arity, Verb},
};

/// The raw arguments of `completion`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completion {
    #[arg(hide = true)]
    shell: Vec<String>,
}

impl Verb for Completion {
    const ABOUT: &'static str = "Write the completion script of a shell";
    const USAGE: &'static str = "bash|elvish|fish|powershell|zsh";
    const ARITY: Arity = Arity::Exactly(1);

    async fn run(self, cli: &Cli) -> Result {
        let name = &self.shell[0];
        let shell: Shell = name.parse().map_err(|_| {
            Failure::message(format!("unknown shell \"{name}\": use bash, elvish, fish, powershell or zsh"))
        })?;
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut tree(), "wharf", &mut script);
        cli.print(&String::from_utf8_lossy(&script))
    }
}

/// All verbs as one command, which the program itself never needs.
fn tree() -> Command {
    let verbs = |prefix: &str| {
        VERBS
            .iter()
            .filter(|entry| !entry.hidden)
            .flat_map(|entry| {
                let of_group = entry.names.iter().filter_map(|name| {
                    let rest = if prefix.is_empty() {
                        name
                    } else {
                        name.strip_prefix(prefix)?.strip_prefix(' ')?
                    };
                    (!rest.contains(' ')).then_some(rest)
                });
                of_group.map(|name| entry.command(name)).collect::<Vec<_>>()
            })
            .collect::<Vec<_>>()
    };
    let groups =
        GROUPS.iter().map(|(name, about)| Command::new(*name).about(*about).subcommands(verbs(name)));
    Globals::command()
        .mut_args(|arg| if arg.is_positional() { arg.trailing_var_arg(false) } else { arg })
        .subcommands(verbs(""))
        .subcommands(groups)
}
