//! The user's terminal: raw mode, size, signals, detach keys, and input and output that never block the event loop.
//!
//! Contract: the terminal is in raw mode, or hides what is typed, only while a [`RawMode`] lives, and it is put back on every way out: when the
//! guard is dropped, when a panic unwinds or aborts ([`restore_on_panic`]), and before the process ends by a signal
//! ([`signals::die_of`]).

pub(crate) mod detach;
pub(crate) mod input;
pub(crate) mod note;
pub(crate) mod output;
pub(crate) mod prompt;
pub(crate) mod signals;

use std::{
    io::{self, IsTerminal},
    sync::{Mutex, PoisonError},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// How standard input's terminal was before it was changed.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Keeps the terminal of standard input in another mode.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Enters raw mode; `None` if standard input is no terminal.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        Self::change(Termios::make_raw)
    }

    /// Changes the terminal until the guard is dropped.
    fn change(change: impl FnOnce(&mut Termios)) -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut changed = before.clone();
        change(&mut changed);
        SAVED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(before);
        tcsetattr(&stdin, OptionalActions::Now, &changed)?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was; does nothing if it was never changed.
pub(crate) fn restore() {
    // A panic while the lock is held must not keep the terminal raw, so `try_lock` and poison are both fine.
    let saved = match SAVED.try_lock() {
        Ok(mut saved) => saved.take(),
        Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner().take(),
        Err(std::sync::TryLockError::WouldBlock) => None,
    };
    if let Some(before) = saved {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// Makes a panic put the terminal back before its message is printed.
pub(crate) fn restore_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        print(info);
    }));
}

/// Rows and columns of the terminal on standard output, `None` if it is none or tells no size.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0 || size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Whether standard input is a terminal.
pub(crate) fn input_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whether standard output is a terminal.
pub(crate) fn output_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether standard error is a terminal.
pub(crate) fn error_is_terminal() -> bool {
    io::stderr().is_terminal()
}
