//! A container from its making to its end, and what is left when something dies on the way.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Plan, children, exec_request, process_document, wait_gone};
use serde_json::json;
use wharf_linux::seqpacket;
use wharf_shim::protocol::{
    EXIT_FILE, Event, FailureKind, Purpose, Reply, Request, SOCKET_FILE, ShimState, VERSION,
};
use wharf_shim::spool::Stream;

#[test]
fn a_container_runs_and_its_end_is_told_truthfully() {
    let mut case = Plan::shell("echo out; echo err >&2; exit 7").start();
    let status = case.exited();
    assert_eq!((status.code, status.signal, status.oom_killed), (7, None, false));
    assert!(status.finished_at_ns >= case.record().unwrap().started_at_ns);
    assert_eq!(case.output(Stream::Stdout), "out\n");
    assert_eq!(case.output(Stream::Stderr), "err\n");
    assert_eq!(case.shim_log(), "");
}

#[test]
fn the_first_hello_tells_everything() {
    let mut case = Plan::new(&["sleep", "1000"]).create();
    let hello = |case: &mut crate::support::Case| match case.ask(Request::Hello { version: VERSION }) {
        Reply::Hello { version, id, pid, state, started_at_ns, .. } => {
            assert_eq!((version, pid), (VERSION, case.pid));
            assert!(id.starts_with("shimtest-"));
            (state, started_at_ns)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(hello(&mut case), (ShimState::Created, 0));
    let Reply::Started { at_ns } = case.ask(Request::Start) else { panic!("not started") };
    assert_eq!(hello(&mut case), (ShimState::Running, at_ns));
    assert_eq!(case.refused(Request::Start).0, FailureKind::NotRunning);
    assert_eq!(case.refused(Request::Shutdown).0, FailureKind::InvalidArgument);
    assert_eq!(case.ask(Request::Signal { exec: None, signal: 9, purpose: Purpose::Kill }), Reply::Ok);
    let status = case.exited();
    assert_eq!((status.code, status.signal), (137, Some(9)));
}

#[test]
fn a_signal_reaches_the_program_and_bad_ones_are_refused() {
    let mut case =
        Plan::shell("trap 'echo got it; exit 3' USR1; echo ready; while true; do sleep 0.05; done").start();
    case.ask(Request::Subscribe { acknowledge: false });
    case.wait_for("ready");
    assert_eq!(
        case.refused(Request::Signal { exec: None, signal: 4711, purpose: Purpose::Kill }).0,
        FailureKind::InvalidArgument
    );
    let unknown = Request::Signal { exec: Some("x".into()), signal: 9, purpose: Purpose::Kill };
    assert_eq!(case.refused(unknown).0, FailureKind::NoSuchExec);
    assert_eq!(case.ask(Request::Signal { exec: None, signal: 10, purpose: Purpose::Kill }), Reply::Ok);
    assert_eq!(case.exited().code, 3);
    assert!(case.output(Stream::Stdout).ends_with("got it\n"));
}

#[test]
fn a_command_that_cannot_run_fails_the_start_and_leaves_nothing() {
    for (command, kind) in [
        ("no-such-command", FailureKind::NotFound),
        ("/bin/nothing", FailureKind::NotFound),
        ("/etc/data", FailureKind::NotExecutable),
        ("/bin", FailureKind::NotExecutable),
    ] {
        let mut case = Plan::new(&[command]).create();
        let (found, message) = case.refused(Request::Start);
        assert_eq!(found, kind, "{message}");
        assert!(message.contains(command), "{message}");
        assert!(case.gone().success());
        assert!(case.record().is_none(), "what never ran has no exit");
        wait_gone(case.pid);
    }
}

#[test]
fn a_container_that_cannot_be_made_is_reported_at_once() {
    let mut plan = Plan::new(&["true"]);
    plan.config.user = Some("nobody-has-this-name".into());
    let mut case = plan.create();
    let (kind, message) = case.refused(Request::Start);
    assert_eq!(kind, FailureKind::InvalidArgument, "{message}");
    case.gone();

    let mut plan = Plan::new(&["true"]);
    plan.spec = json!({"ociVersion": 5});
    let mut case = plan.launch();
    match case.event().0 {
        Event::Failed { message, .. } => assert!(message.contains("config.json"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert!(!case.gone().success());
}

#[test]
fn output_that_cannot_be_kept_is_an_error_at_once() {
    let plan = Plan::new(&["true"]);
    std::fs::write(&plan.config.log_dir, "in the way").unwrap();
    let mut case = plan.launch();
    match case.event().0 {
        Event::Failed { message, .. } => assert!(message.contains("/log: Not a directory"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert!(!case.gone().success());
}

#[test]
fn an_engine_that_dies_before_the_start_leaves_nothing() {
    let mut case = Plan::new(&["sleep", "1000"]).create();
    case.client = None;
    assert!(case.gone().success());
    wait_gone(case.pid);
    assert!(case.record().is_none());

    let mut case = Plan::new(&["sleep", "1000"]).create();
    assert_eq!(case.ask(Request::Shutdown), Reply::Ok);
    assert!(case.gone().success());
}

#[test]
fn an_engine_that_dies_after_the_start_changes_nothing() {
    let mut case =
        Plan::shell("for i in $(seq 5); do echo $i; done; read word; echo $word; exit 4").stdin().start();
    let (_, mut input) = case.ask_with(Request::OpenStdin { once: false }, &[]);
    case.client = None;
    for _ in 0..20 {
        case.reconnect();
        let Reply::Hello { state, .. } = case.ask(Request::Hello { version: VERSION }) else {
            panic!("no hello")
        };
        assert_eq!(state, ShimState::Running);
    }
    rustix::io::write(input.pop().unwrap(), b"hello\n").unwrap();
    assert_eq!(case.exited().code, 4);
    assert_eq!(case.output(Stream::Stdout), "1\n2\n3\n4\n5\nhello\n");

    // With no engine at all, the record says it.
    let mut case = Plan::shell("echo alone; exit 5").start();
    case.client = None;
    case.gone();
    assert_eq!(case.record().unwrap().status.code, 5);
    assert_eq!(case.output(Stream::Stdout), "alone\n");
}

#[test]
fn a_shim_that_is_killed_takes_the_container_with_it() {
    let mut case = Plan::shell("sleep 1000 & sleep 1000").start();
    case.shim.kill().unwrap();
    case.shim.wait().unwrap();
    wait_gone(case.pid);
    assert!(case.client().event(crate::support::PATIENCE).is_err(), "the engine sees the end");
    assert!(!case.run_dir().join(EXIT_FILE).exists());
}

#[test]
fn running_out_of_memory_is_told() {
    let mut plan = Plan::new(&["tail", "/dev/zero"]);
    plan.spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    let status = plan.start().exited();
    assert_eq!((status.code, status.signal, status.oom_killed), (137, Some(9), true));
}

#[test]
fn survivors_in_the_host_pid_namespace_end_with_the_init() {
    let mut case = Plan::shell("setsid sleep 1000 & echo started; exit 6").host_pids().start();
    assert_eq!(case.exited().code, 6);
    assert_eq!(case.output(Stream::Stdout), "started\n");
}

#[test]
fn somebody_outside_who_holds_the_output_delays_the_end_only_for_a_moment() {
    let mut case = Plan::shell("echo x; read word").stdin().start();
    case.ask(Request::Subscribe { acknowledge: false });
    case.wait_for("x");
    let held = std::fs::OpenOptions::new().write(true).open(format!("/proc/{}/fd/1", case.pid)).unwrap();
    case.ask(Request::CloseStdin);
    assert_eq!(case.exited().code, 1);
    drop(held);
}

#[test]
fn held_sockets_are_let_go_before_the_end_is_told() {
    let mut case = Plan::new(&["sleep", "1000"]).create();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (reply, _) = case.ask_with(Request::Start, &[socket.as_fd()]);
    assert!(matches!(reply, Reply::Started { .. }));
    drop(socket);
    assert!(std::net::TcpListener::bind(address).is_err(), "the shim holds it");
    let (reply, copies) = case.ask_with(Request::Held { skip: 0 }, &[]);
    assert_eq!((reply, copies.len()), (Reply::Held { total: 1 }, 1));
    let copy = std::net::TcpListener::from(copies.into_iter().next().unwrap());
    assert_eq!(copy.local_addr().unwrap(), address);
    drop(copy);
    let (reply, none) = case.ask_with(Request::Held { skip: 1 }, &[]);
    assert_eq!((reply, none.len()), (Reply::Held { total: 1 }, 0));
    case.ask(Request::KillAll);
    assert!(matches!(case.news(), Event::Exited { .. }));
    std::net::TcpListener::bind(address).unwrap();
}

#[test]
fn the_socket_is_private_and_the_shim_closed_to_others() {
    let mut case = Plan::new(&["sleep", "1000"]).start();
    let socket = case.run_dir().join(SOCKET_FILE);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    // None of its sockets has a name outside of the file system.
    let shim = case.shim.id();
    let own: Vec<String> = std::fs::read_dir(format!("/proc/{shim}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()?.to_str().map(str::to_owned))
        .filter_map(|target| Some(format!(" {} ", target.strip_prefix("socket:[")?.strip_suffix("]")?)))
        .collect();
    assert!(own.len() >= 2, "{own:?}");
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let named_otherwise = |line: &&str| line.contains('@') && own.iter().any(|inode| line.contains(inode));
    assert_eq!(sockets.lines().find(named_otherwise), None);
    // What is not dumpable belongs to root in /proc, whoever runs it; its descriptors are the ones it needs.
    let status = std::fs::read_to_string(format!("/proc/{shim}/status")).unwrap();
    assert!(status.contains("\nThreads:\t1\n"), "{status}");
    // A process of the container sees nothing but itself and its streams.
    let (status, seen) = case.exec("look", &["sh", "-c", "ls -l /proc/self/fd /proc/1/fd; ps"]).unwrap();
    assert_eq!(status.code, 0, "{seen}");
    assert!(!seen.contains("socket:") && !seen.contains("spool") && !seen.contains("wharf-shim"), "{seen}");
}

#[test]
fn nonsense_is_refused_and_harms_nothing() {
    let mut case = Plan::new(&["sleep", "1000"]).start();
    let raw = seqpacket::connect(&case.run_dir().join(SOCKET_FILE)).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut messages: Vec<Vec<u8>> = vec![vec![0], vec![0xff; 60_000], b"{}".to_vec(), vec![b'['; 65_536]];
    messages.push(br#"{"seq":18446744073709551615,"body":{"resize":{"rows":-1,"cols":0}}}"#.to_vec());
    messages.push(vec![b' '; 70_000]);
    for message in &messages {
        seqpacket::send(raw.as_fd(), message, &[null.as_fd(); 200]).unwrap();
    }
    drop(raw);
    // More connections than are allowed, all silent.
    let crowd: Vec<_> =
        (0..100).filter_map(|_| seqpacket::connect(&case.run_dir().join(SOCKET_FILE)).ok()).collect();
    assert!(matches!(case.ask(Request::Hello { version: VERSION }), Reply::Hello { .. }));
    drop(crowd);
    let bad = [
        (Request::Resize { exec: None, rows: 1, cols: 1 }, FailureKind::InvalidArgument),
        (Request::OpenStdin { once: true }, FailureKind::InvalidArgument),
        (exec_request("e"), FailureKind::InvalidArgument),
    ];
    for (request, kind) in bad {
        assert_eq!(case.refused(request).0, kind);
    }
    let document = process_document(&["true"], false);
    let fds = [document.as_fd(), null.as_fd()];
    assert!(matches!(case.ask_with(exec_request("e"), &fds).0, Reply::Error { .. }));
    let fds = [crate::support::memfd(b"{\"args\": 5}")];
    let (reply, _) = case.ask_with(exec_request("e"), &[fds[0].as_fd()]);
    assert!(matches!(reply, Reply::Error { kind: FailureKind::InvalidArgument, .. }), "{reply:?}");
    let open = std::fs::read_dir(format!("/proc/{}/fd", case.shim.id())).unwrap().count();
    assert!(open < 80, "{open} descriptors are open");
    case.ask(Request::KillAll);
    assert_eq!(case.exited().code, 137);
}

#[test]
fn an_init_of_ours_reaps_and_passes_signals_on() {
    let mut plan = Plan::shell("trap 'exit 9' TERM; (sleep 0 &); echo up; while true; do sleep 0.05; done");
    plan.config.init = true;
    let mut case = plan.start();
    case.ask(Request::Subscribe { acknowledge: false });
    case.wait_for("up");
    assert_eq!(children(case.shim.id()).split_whitespace().count(), 1);
    case.ask(Request::Signal { exec: None, signal: 15, purpose: Purpose::Kill });
    assert_eq!(case.exited().code, 9);
}

#[test]
fn an_overlay_root_is_mounted_where_only_the_container_sees_it() {
    let mut plan = Plan::shell("echo new > /etc/new; cat /etc/passwd /etc/new; test -d /mnt || echo no mnt");
    let base = plan.config.bundle.clone();
    for name in ["upper", "work", "merged"] {
        std::fs::create_dir(base.join(name)).unwrap();
    }
    plan.spec["root"]["path"] = json!("merged");
    plan.config.rootfs = Some(wharf_shim::protocol::OverlayRoot {
        base: base.clone(),
        lower: vec!["rootfs".into()],
        upper: "upper".into(),
        work: "work".into(),
        mountpoint: base.join("merged"),
    });
    let mut case = plan.start();
    assert_eq!(case.exited().code, 0, "{}", case.output(Stream::Stderr));
    assert!(case.output(Stream::Stdout).ends_with("new\nno mnt\n"));
    assert!(!case.rootfs().join("etc/new").exists());
    assert!(base.join("upper/etc/new").exists());
}
