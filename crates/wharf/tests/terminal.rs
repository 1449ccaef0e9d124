//! A real terminal: raw while a session lasts, and as it was before on every way out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod support;

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt, unix::process::ExitStatusExt},
    process::{Child, Command},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
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
    /// What was written to the screen, told apart from silence by the condition.
    shown: Arc<(Mutex<String>, Condvar)>,
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
        let mut reader = File::from(controller.try_clone().unwrap());
        let shown = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let show = Arc::clone(&shown);
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Some(count) = reader.read(&mut piece).ok().filter(|count| *count > 0) {
                show.0.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..count]));
                show.1.notify_all();
            }
        });
        Self { keyboard: controller.into(), screen: screen.into(), before, child, shown }
    }

    /// Waits until the screen has shown something, and returns everything it has shown.
    fn wait_until_shown(&self, text: &str) -> String {
        let mut shown = self.shown.0.lock().unwrap();
        while !shown.contains(text) {
            let (more, waited) = self.shown.1.wait_timeout(shown, Duration::from_secs(60)).unwrap();
            assert!(!waited.timed_out(), "{text:?} is not in {more:?}");
            shown = more;
        }
        shown.clone()
    }

    fn hides_typing(&self) -> bool {
        !tcgetattr(&self.screen).unwrap().local_modes.contains(LocalModes::ECHO)
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

#[test]
fn layers_keep_their_lines() {
    let engine = FakeEngine::start("bars", |_| {
        let lines = [
            r#"{"status":"Pulling from x","id":"latest"}"#,
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"aaaa"}"#,
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"bbbb"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":1000,"total":2000},"id":"aaaa"}"#,
            r#"{"status":"Already exists","progressDetail":{},"id":"bbbb"}"#,
            r#"{"status":"Pull complete","progressDetail":{},"id":"aaaa"}"#,
            r#"{"status":"Digest: sha256:\u001b[31mab"}"#,
        ];
        Reply::Json(200, lines.join("\n"))
    });
    let session = Session::start(engine.wharf().args(["pull", "reg:1/x"]));
    let shown = session.wait_until_shown("reg:1/x:latest\r\n");
    // The terminal is 100 columns wide, which is too narrow for the bar itself.
    let expected = "Using default tag: latest\n\
        latest: Pulling from x\n\
        \n\x1b[1A\x1b[2K\raaaa: Pulling fs layer \r\x1b[1B\
        \n\x1b[1A\x1b[2K\rbbbb: Pulling fs layer \r\x1b[1B\
        \x1b[2A\x1b[2K\raaaa: Downloading      1kB/2kB\r\x1b[2B\
        \x1b[1A\x1b[2K\rbbbb: Already exists \r\x1b[1B\
        \x1b[2A\x1b[2K\raaaa: Pull complete \r\x1b[2B\
        Digest: sha256:[31mab\n\
        reg:1/x:latest\n";
    assert_eq!(shown.replace("\r\n", "\n"), expected);
    assert_eq!(session.end(), 0);
}

/// An engine that tells which password it was given.
fn gate(name: &str) -> FakeEngine {
    FakeEngine::start(name, |request| {
        Reply::Json(403, serde_json::json!({ "message": format!("told {}", request.body) }).to_string())
    })
}

#[test]
fn a_password_is_not_shown() {
    let engine = gate("password");
    let mut session = Session::start(engine.wharf().args(["login", "reg:1"]));
    session.wait_until_shown("Username: ");
    session.press(b"alice\n");
    session.wait_until_shown("Password: ");
    assert!(session.hides_typing());
    session.press(b"s3cret\n");
    let told = r#"told {"username":"alice","password":"s3cret","serveraddress":"reg:1"}"#;
    let shown = session.wait_until_shown(told);
    assert_eq!(
        shown.replace("\r\n", "\n").trim_end(),
        format!("Username: alice\nPassword: \nError response from daemon: {told}")
    );
    assert_eq!(session.end(), 1);
}

#[test]
fn a_signal_at_the_password_puts_the_terminal_back() {
    let engine = gate("interrupted");
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let session = Session::start(engine.wharf().args(["login", "-u", "alice", "reg:1"]));
        session.wait_until_shown("Password: ");
        assert!(session.hides_typing());
        let pid = Pid::from_raw(i32::try_from(session.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        assert_eq!(session.end(), code);
    }
    assert!(engine.requests().is_empty(), "nobody was asked");
}
