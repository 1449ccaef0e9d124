//! A real terminal: raw while a session lasts, and as it was before on every way out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod support;

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt, unix::process::ExitStatusExt},
    process::{Child, Command},
    thread,
};

use rustix::{
    fs::OFlags,
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize},
};
use support::fake::{FakeEngine, Reply};

/// A terminal with a program on it.
struct Session {
    keyboard: File,
    screen: OwnedFd,
    before: Termios,
    child: Child,
}

impl Session {
    fn start(command: &Command) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
        let flags = i32::try_from(OFlags::NOCTTY.bits()).unwrap();
        let screen = OpenOptions::new().read(true).write(true).custom_flags(flags).open(name).unwrap();
        tcsetwinsize(&screen, Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let before = tcgetattr(&screen).unwrap();
        // The program must own the terminal, which takes a session of its own.
        let mut on_terminal = Command::new("setsid");
        on_terminal.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => on_terminal.env(name, value),
                None => on_terminal.env_remove(name),
            };
        }
        let end = || screen.try_clone().unwrap();
        let child = on_terminal.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        // What is written to the screen is of no interest, but somebody must read it.
        let mut reader = File::from(controller.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        Self { keyboard: controller.into(), screen: screen.into(), before, child }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.screen).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    fn wait_until_raw(&mut self) {
        while !self.is_raw() {
            assert_eq!(self.child.try_wait().unwrap(), None, "it ended before the terminal was raw");
            thread::yield_now();
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// Waits for the end; the exit status, once the terminal is checked to be as it was.
    fn end(mut self) -> i32 {
        let status = self.child.wait().unwrap();
        let after = tcgetattr(&self.screen).unwrap();
        assert_eq!(after.local_modes, self.before.local_modes);
        assert_eq!(after.input_modes, self.before.input_modes);
        assert_eq!(after.output_modes, self.before.output_modes);
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }
}

/// An engine with a container that has a terminal. It ends when its input does.
fn engine(name: &str) -> FakeEngine {
    FakeEngine::start(name, |request| match request.path.as_str() {
        "/containers/create" => Reply::Json(201, r#"{"Id":"abc"}"#.into()),
        "/containers/abc/attach" => Reply::Hijack(Vec::new(), true),
        "/containers/abc/wait" => Reply::After("/containers/abc/never", r#"{"StatusCode":0}"#.into()),
        _ => Reply::Json(200, "{}".into()),
    })
}

#[test]
fn detach_keys_leave_and_are_not_passed_on() {
    let engine = engine("detach");
    let mut session = Session::start(engine.wharf().args(["run", "-it", "image"]));
    session.wait_until_raw();
    session.press(b"a\x10b\x10\x11");
    assert_eq!(session.end(), 0);
    // The engine has read everything once the connection is closed on both sides.
    engine.wait_for_answer("/containers/abc/attach");
    assert_eq!(engine.input(), b"a\x10b");
    assert!(engine.requests().contains(&"POST /containers/abc/resize?h=30&w=100".to_owned()));
}

#[test]
fn other_detach_keys_are_obeyed() {
    let engine = engine("keys");
    let mut session =
        Session::start(engine.wharf().args(["run", "-it", "--detach-keys", "ctrl-a,x", "image"]));
    session.wait_until_raw();
    session.press(b"\x10\x11\x01x");
    assert_eq!(session.end(), 0);
    engine.wait_for_answer("/containers/abc/attach");
    assert_eq!(engine.input(), b"\x10\x11");
}

#[test]
fn a_signal_puts_the_terminal_back() {
    let engine = engine("signal");
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut session = Session::start(engine.wharf().args(["run", "-it", "image"]));
        session.wait_until_raw();
        let pid = Pid::from_raw(i32::try_from(session.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        assert_eq!(session.end(), code);
    }
}

#[test]
fn input_that_is_no_terminal_is_refused() {
    let run = support::run(engine("refused").wharf().args(["run", "-it", "image"]));
    assert_eq!((run.code, run.stderr.as_str()), (1, "the input device is not a TTY\n"));
}
