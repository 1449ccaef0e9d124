//! `wharf-registry hash-password`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result, bail};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::auth::htpasswd_line;

#[expect(clippy::print_stdout, reason = "the line is the answer")]
pub(super) fn run(user: &str) -> Result<()> {
    let password = if io::stdin().is_terminal() {
        let first = ask("Password: ")?;
        if ask("Again: ")? != first {
            bail!("the passwords differ: try again");
        }
        first
    } else {
        line()?
    };
    println!("{}", htpasswd_line(user, &password)?);
    Ok(())
}

/// Asks on the terminal, which does not show the answer.
fn ask(question: &str) -> Result<String> {
    let terminal = io::stdin();
    let mut out = io::stderr();
    write!(out, "{question}")?;
    let before = tcgetattr(&terminal).context("asking on the terminal")?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(&terminal, OptionalActions::Flush, &silent).context("silencing the terminal")?;
    let answer = line();
    tcsetattr(&terminal, OptionalActions::Now, &before).context("restoring the terminal")?;
    answer
}

fn line() -> Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("reading the password from standard input")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
