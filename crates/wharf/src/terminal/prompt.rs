//! Questions to the person at the keyboard.

use std::io::{self, Write as _};

use rustix::termios::LocalModes;

use super::{
    RawMode,
    input::Input,
    signals::{self, Signals},
};

/// How long an answer may be.
const LIMIT: usize = 64 << 10;

/// Asks, and returns what is typed until the line ends, without the line's end.
pub(crate) async fn line(question: &str) -> io::Result<String> {
    ask(question, Signals::deadly()?).await
}

/// The same, without showing it: not even what somebody types before they are asked.
pub(crate) async fn secret(question: &str) -> io::Result<String> {
    // From here on a signal that ends this process puts the terminal back first.
    let deadly = Signals::deadly()?;
    let _hidden = RawMode::hide_typing()?;
    let answer = ask(question, deadly).await;
    // The line's end was not shown either.
    writeln!(io::stdout())?;
    answer
}

async fn ask(question: &str, mut deadly: Signals) -> io::Result<String> {
    let mut out = io::stdout();
    out.write_all(question.as_bytes())?;
    out.flush()?;
    tokio::select! {
        line = read() => line,
        (_, number) = deadly.next() => signals::die_of(number),
    }
}

async fn read() -> io::Result<String> {
    let mut input = Input::open()?;
    let mut bytes = Vec::new();
    let mut byte = [0];
    // One byte at a time: what follows the line is for whoever reads next.
    while bytes.len() < LIMIT && input.read(&mut byte).await? > 0 && byte[0] != b'\n' {
        bytes.push(byte[0]);
    }
    let text = String::from_utf8(bytes).map_err(|_| io::Error::other("what was typed is not UTF-8"))?;
    Ok(text.strip_suffix('\r').unwrap_or(&text).to_owned())
}

impl RawMode {
    /// Stops the terminal from showing what is typed; `None` if standard input is no terminal.
    fn hide_typing() -> io::Result<Option<Self>> {
        Self::change(|mode| mode.local_modes.remove(LocalModes::ECHO))
    }
}
