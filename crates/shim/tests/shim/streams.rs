//! Output, input and terminals, with readers that are slow, stuck or gone.
#![expect(clippy::unwrap_used, reason = "what goes wrong in a helper is the test's failure")]

use std::os::fd::AsFd;
use std::time::Duration;

use crate::support::{Case, PATIENCE, Plan, children, exec_request, process_document, wait_gone};
use rustix::io::{read, write};
use wharf_linux::seqpacket;
use wharf_shim::client::Client;
use wharf_shim::protocol::{
    Envelope, Event, FailureKind, Purpose, Reply, Request, SOCKET_FILE, VERSION, encode,
};
use wharf_shim::spool::{Limits, Lines, Origin, Piece, Position, Reader, Stream, Writer, tail};

fn subscribe(case: &mut Case, acknowledge: bool) {
    assert_eq!(case.ask(Request::Subscribe { acknowledge }), Reply::Ok);
}

#[test]
fn no_byte_of_much_output_is_lost() {
    let mut case = Plan::new(&["seq", "300000"]).log(1 << 20, 64).start();
    assert_eq!(case.exited().code, 0);
    let mut lines = Lines::new(Reader::open_at(&case.log_dir(), Origin::Start).unwrap());
    for number in 1..=300_000 {
        let Some(Piece::Line(line)) = lines.next().unwrap() else { panic!("no line {number}") };
        assert_eq!(line.bytes, format!("{number}\n").as_bytes());
    }
    assert_eq!(lines.next().unwrap(), None);
    let mut last = tail(&case.log_dir(), 2).unwrap();
    assert!(matches!(last.next().unwrap(), Some(Piece::Line(line)) if line.bytes == b"299999\n"));
}

#[test]
fn output_is_followed_by_another_process_while_it_is_written() {
    let mut case =
        Plan::shell("i=0; while [ $i -lt 3000 ]; do echo $i; echo e$i >&2; i=$((i+1)); done").start();
    subscribe(&mut case, false);
    let mut lines = Lines::new(Reader::open_at(&case.log_dir(), Origin::Start).unwrap());
    let mut next = [0, 0];
    let mut take = |lines: &mut Lines| {
        while let Some(Piece::Line(line)) = lines.next().unwrap() {
            let number = &mut next[line.stream as usize];
            let prefix = if line.stream == Stream::Stderr { "e" } else { "" };
            assert_eq!(line.bytes, format!("{prefix}{number}\n").as_bytes());
            *number += 1;
        }
    };
    while matches!(case.event().0, Event::Output { .. } | Event::Rotated { .. }) {
        take(&mut lines);
    }
    take(&mut lines);
    assert_eq!(next, [3000, 3000]);
}

#[test]
fn what_a_killed_shim_wrote_is_whole_and_can_be_continued() {
    for round in 0..5 {
        let limits = Limits { segment_bytes: 1 << 16, segments: 10_000 };
        let plan = Plan::new(&["seq", "100000000"]).log(limits.segment_bytes, limits.segments);
        let mut case = plan.start();
        subscribe(&mut case, false);
        let mut end = Position::default();
        for _ in 0..=round * 7 {
            end = case.output_beyond(end);
        }
        case.shim.kill().unwrap();
        case.shim.wait().unwrap();
        wait_gone(case.pid);
        let mut writer = Writer::open(&case.log_dir(), limits).unwrap();
        assert!(writer.end() >= end, "what was told of is there");
        writer.append(Stream::Stdout, 0, b"after\n").unwrap();
        let mut lines = Lines::new(Reader::open_at(&case.log_dir(), Origin::Start).unwrap());
        let mut number = 0;
        let unfinished = loop {
            let Some(Piece::Line(line)) = lines.next().unwrap() else { panic!("a gap after {number}") };
            number += 1;
            if line.bytes != format!("{number}\n").as_bytes() {
                break String::from_utf8(line.bytes.to_vec()).unwrap();
            }
        };
        assert!(
            unfinished == "after\n" || number.to_string().starts_with(&unfinished),
            "{unfinished:?} for {number}"
        );
    }
}

#[test]
fn a_subscriber_that_acknowledges_slows_the_container_down() {
    let mut case = Plan::new(&["yes"]).log(1 << 20, 8).start();
    let limits = Limits { segment_bytes: 1 << 20, segments: 8 };
    subscribe(&mut case, true);
    // Without an acknowledgement it stops soon after half of the spool.
    let mut reader = Reader::open_at(&case.log_dir(), Origin::Start).unwrap();
    let mut end = Position::default();
    while limits.distance(Position::default(), end) <= limits.capacity() / 2 {
        end = case.output_beyond(end);
    }
    while let Ok((event, _)) = case.client().event(Duration::from_millis(200)) {
        match event {
            Event::Output { end: now } => {
                assert!(limits.distance(Position::default(), now) < limits.capacity());
            }
            other => assert!(matches!(other, Event::Rotated { .. }), "{other:?}"),
        }
    }
    while let Some(entry) = reader.next().unwrap() {
        assert!(matches!(entry, wharf_shim::spool::Entry::Record(_)), "nothing was lost");
    }
    // An acknowledgement sets it going again.
    let position = reader.position();
    assert_eq!(case.ask(Request::Ack { position }), Reply::Ok);
    case.output_beyond(end);
    // Its death too.
    case.client = None;
    case.reconnect();
    subscribe(&mut case, false);
    let mut end = Position::default();
    for _ in 0..200 {
        end = case.output_beyond(end);
    }
    case.ask(Request::KillAll);
    case.exited();
}

#[test]
fn a_stuck_subscriber_stops_nothing() {
    let mut case = Plan::new(&["seq", "400000"]).create();
    // An answer shows that the shim listens.
    case.ask(Request::Hello { version: VERSION });
    let path = case.run_dir().join(SOCKET_FILE);
    let stuck = seqpacket::connect(&path).unwrap();
    let ask = |body| encode(&Envelope { seq: 1, body }).unwrap();
    seqpacket::send(stuck.as_fd(), &ask(Request::Subscribe { acknowledge: false }), &[]).unwrap();
    // It asks and asks, and never reads an answer.
    while seqpacket::send(stuck.as_fd(), &ask(Request::Hello { version: VERSION }), &[]).is_ok() {}
    assert!(matches!(case.ask(Request::Start), Reply::Started { .. }));
    while seqpacket::send(stuck.as_fd(), &ask(Request::Hello { version: VERSION }), &[]).is_ok() {}
    assert_eq!(case.exited().code, 0);
    drop(stuck);
}

#[test]
fn standard_input_ends_when_everybody_has_let_go() {
    let mut case = Plan::new(&["cat"]).stdin().start();
    let (reply, mut fds) = case.ask_with(Request::OpenStdin { once: true }, &[]);
    assert_eq!(reply, Reply::Ok);
    let input = fds.pop().unwrap();
    write(&input, b"line\n").unwrap();
    subscribe(&mut case, false);
    case.wait_for("line");
    assert_eq!(case.ask(Request::CloseStdin), Reply::Ok);
    assert_eq!(case.refused(Request::OpenStdin { once: false }).0, FailureKind::InvalidArgument);
    drop(input);
    assert_eq!(case.exited().code, 0);

    // With `once`, the end of the connection does it.
    let mut case = Plan::new(&["cat"]).stdin().start();
    let mut other = Client::connect(&case.run_dir()).unwrap();
    drop(other.ask(Request::OpenStdin { once: true }, &[], PATIENCE).unwrap());
    drop(other);
    assert_eq!(case.exited().code, 0);

    // Without, it does not.
    let mut case = Plan::shell("cat; echo end").stdin().start();
    let mut other = Client::connect(&case.run_dir()).unwrap();
    drop(other.ask(Request::OpenStdin { once: false }, &[], PATIENCE).unwrap());
    drop(other);
    assert_eq!(case.ask(Request::CloseStdin), Reply::Ok);
    assert_eq!(case.exited().code, 0);
    assert_eq!(case.output(Stream::Stdout), "end\n");
}

#[test]
fn input_that_nobody_reads_blocks_its_writer_only() {
    let mut case = Plan::new(&["sleep", "1000"]).stdin().start();
    let (_, fds) = case.ask_with(Request::OpenStdin { once: false }, &[]);
    while write(&fds[0], &[0; 4096]).is_ok() {}
    assert!(matches!(case.ask(Request::Hello { version: VERSION }), Reply::Hello { .. }));
    case.ask(Request::KillAll);
    case.exited();
}

#[test]
fn without_an_open_standard_input_it_is_empty() {
    let mut case = Plan::new(&["cat"]).start();
    assert_eq!(case.exited().code, 0);
}

#[test]
fn a_terminal_echoes_resizes_and_ends() {
    let script = "stty size; read empty; stty size; read word; echo got $word; exit 2";
    let mut case = Plan::shell(script).terminal(24, 80).create();
    // Input and size may be asked for before the start.
    let (reply, fds) = case.ask_with(Request::OpenStdin { once: true }, &[]);
    assert_eq!((reply, fds.len()), (Reply::Ok, 1));
    subscribe(&mut case, false);
    assert!(matches!(case.ask(Request::Start), Reply::Started { .. }));
    case.wait_for("24 80");
    assert_eq!(case.ask(Request::Resize { exec: None, rows: 50, cols: 132 }), Reply::Ok);
    write(&fds[0], b"\r").unwrap();
    case.wait_for("50 132");
    write(&fds[0], b"hello\r").unwrap();
    case.wait_for("got hello");
    assert_eq!(case.exited().code, 2);
    assert!(case.output(Stream::Stdout).contains("hello\r\ngot hello\r\n"), "the terminal echoes");
    assert_eq!(case.output(Stream::Stderr), "");
}

#[test]
fn the_last_words_on_a_terminal_are_kept() {
    let mut case = Plan::shell("seq 2000; printf end").terminal(24, 80).start();
    assert_eq!(case.exited().code, 0);
    let text = case.output(Stream::Stdout);
    assert!(text.ends_with("1999\r\n2000\r\nend"), "{}", &text[text.len().saturating_sub(40)..]);
}

#[test]
fn a_terminal_closed_and_opened_again_is_still_read() {
    let script = "exec </dev/null >/dev/null 2>&1; sleep 0.1; echo again >/dev/console; sleep 0.1; echo more >/dev/console";
    let mut case = Plan::shell(script).terminal(24, 80).start();
    assert_eq!(case.exited().code, 0);
    assert_eq!(case.output(Stream::Stdout), "again\r\nmore\r\n");
}

#[test]
fn execs_have_their_own_streams_and_ends() {
    let mut case = Plan::new(&["sleep", "1000"]).start();
    let (status, text) = case.exec("a", &["sh", "-c", "echo hi; echo err >&2; exit 9"]).unwrap();
    assert_eq!((status.code, text.as_str()), (9, "hi\nerr\n"));
    let (status, _) = case.exec("b", &["sh", "-c", "kill -15 $$"]).unwrap();
    assert_eq!((status.code, status.signal), (143, Some(15)));
    let (kind, message) = case.exec("c", &["no-such-command"]).unwrap_err();
    assert_eq!(kind, FailureKind::NotFound);
    assert_eq!(message, "exec: \"no-such-command\": executable file not found in $PATH");
    assert_eq!(case.exec("d", &["/etc/data"]).unwrap_err().0, FailureKind::NotExecutable);
    // All of them are reaped: the shim has one child, the init.
    assert_eq!(children(case.shim.id()).trim(), case.pid.to_string());
    assert_eq!(case.output(Stream::Stdout), "", "the container's own output is apart");
    case.ask(Request::KillAll);
    case.exited();
}

#[test]
fn a_detached_exec_needs_nobody() {
    let mut case = Plan::shell("while [ ! -e /tmp/done ]; do sleep 0.02; done; exit 5").start();
    let mut request = exec_request("d");
    if let Request::Exec { detach, .. } = &mut request {
        *detach = true;
    }
    let document = process_document(&["sh", "-c", "echo nobody reads this; echo > /tmp/done"], false);
    let (reply, fds) = case.ask_with(request, &[document.as_fd()]);
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    assert!(fds.is_empty());
    assert_eq!(case.exec_exited("d").code, 0);
    assert_eq!(case.exited().code, 5);
}

#[test]
fn execs_that_outlive_the_init_are_ended_and_told_first() {
    let mut case = Plan::shell("read word").stdin().start();
    let document = process_document(&["sleep", "1000"], false);
    assert!(matches!(case.ask_with(exec_request("late"), &[document.as_fd()]).0, Reply::ExecStarted { .. }));
    case.ask(Request::CloseStdin);
    assert_eq!(case.exec_exited("late").code, 137);
    assert_eq!(case.exited().code, 1);
}

#[test]
fn a_container_that_stops_everything_that_joins_it_stops_only_that() {
    let mut case = Plan::shell("while true; do kill -STOP -1 2>/dev/null; done").start();
    let mut asker = Client::connect(&case.run_dir()).unwrap();
    for number in 0..30 {
        let document = process_document(&["true"], false);
        // Stopped on its way, or when it is there, or fast enough.
        let _any =
            asker.ask(exec_request(&number.to_string()), &[document.as_fd()], Duration::from_millis(20));
        assert!(matches!(case.ask(Request::Hello { version: VERSION }), Reply::Hello { .. }));
    }
    case.ask(Request::Signal { exec: None, signal: 9, purpose: Purpose::Kill });
    while !matches!(case.event().0, Event::Exited { .. }) {}
    case.gone();
}

#[test]
fn a_signal_can_be_sent_to_an_exec() {
    let mut case = Plan::new(&["sleep", "1000"]).start();
    let document = process_document(&["sleep", "1000"], false);
    assert!(matches!(case.ask_with(exec_request("s"), &[document.as_fd()]).0, Reply::ExecStarted { .. }));
    assert_eq!(
        case.ask(Request::Signal { exec: Some("s".into()), signal: 2, purpose: Purpose::Kill }),
        Reply::Ok
    );
    assert_eq!(case.exec_exited("s").signal, Some(2));
    case.ask(Request::KillAll);
    case.exited();
}

/// Reads a terminal's master (which does not block) until `text` has come.
fn read_until(master: &std::os::fd::OwnedFd, text: &str) {
    let mut seen = String::new();
    while !seen.contains(text) {
        let mut fds = [rustix::event::PollFd::new(master, rustix::event::PollFlags::IN)];
        let timeout = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)).unwrap(), 1, "only {seen:?} came");
        let mut buffer = [0; 1024];
        let count = read(master, &mut buffer).unwrap();
        seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
}

#[test]
fn an_exec_with_a_terminal_hangs_up_with_its_asker() {
    let mut case = Plan::new(&["sleep", "1000"]).start();
    let mut asker = Client::connect(&case.run_dir()).unwrap();
    let mut request = exec_request("t");
    if let Request::Exec { terminal, rows, cols, .. } = &mut request {
        (*terminal, *rows, *cols) = (true, 10, 20);
    }
    let document = process_document(&["sh", "-c", "stty size; read x; stty size; sleep 1000"], true);
    let (reply, fds) = asker.ask(request, &[document.as_fd()], PATIENCE).unwrap();
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    read_until(&fds[0], "10 20");
    assert_eq!(case.ask(Request::Resize { exec: Some("t".into()), rows: 30, cols: 40 }), Reply::Ok);
    write(&fds[0], b"\r").unwrap();
    read_until(&fds[0], "30 40");
    drop((asker, fds));
    assert_eq!(case.exec_exited("t").signal, Some(1));
    case.ask(Request::KillAll);
    case.exited();
}
