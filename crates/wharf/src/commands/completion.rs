//! `completion`: writes the completion script of a shell.

use clap::Command;
use clap_complete::Shell;

use super::{GROUPS, VERBS};
use crate::{
    cli::{Cli, Globals},
    failure::Result,
    verb::{Arity, Verb},
};

macro_rules! shells {
    ($($name:ident: $about:literal),*) => {
        $(
            /// The raw arguments of the verb of this shell.
            #[derive(Debug, clap::Args)]
            pub(crate) struct $name {
                /// Leave descriptions out
                #[arg(long)]
                no_descriptions: bool,
            }

            impl Verb for $name {
                const ABOUT: &'static str = $about;
                const USAGE: &'static str = "[OPTIONS]";
                const ARITY: Arity = Arity::None;

                async fn run(self, cli: &Cli) -> Result {
                    write(cli, Shell::$name, self.no_descriptions)
                }
            }
        )*
    };
}

shells! {
    Bash: "Write the completion script of bash",
    Elvish: "Write the completion script of elvish",
    Fish: "Write the completion script of fish",
    PowerShell: "Write the completion script of powershell",
    Zsh: "Write the completion script of zsh"
}

fn write(cli: &Cli, shell: Shell, plain: bool) -> Result {
    let mut tree = tree();
    if plain {
        tree = bare(tree);
    }
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut tree, "wharf", &mut script);
    cli.print(&String::from_utf8_lossy(&script))
}

/// The same without a word about anything.
fn bare(command: Command) -> Command {
    command.about("").mut_args(|arg| arg.help("")).mut_subcommands(bare)
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
