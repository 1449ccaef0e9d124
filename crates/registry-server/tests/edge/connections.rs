//! Bad connections and the end of good ones.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};
use wharf_testkit::wait_until;

use crate::world::{PATIENCE, Server, certificate, scratch};

#[test]
fn rs_07_conflicting_lengths_get_one_answer_and_the_connection_ends() {
    let dir = scratch();
    let server = Server::start(dir.path(), &[]);
    let smuggled = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    for head in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 0\r\nContent-Length: 44",
        "Content-Length: 0\r\nContent-Length: 0",
        "Content-Length: +0",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "X: a\r\n Content-Length: 44",
        "X: a\rContent-Length: 44",
        "X: a\nContent-Length: 44",
        "Host: b",
    ] {
        let bytes = format!("POST /healthz HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n0\r\n\r\n{smuggled}");
        let answer = server.raw(bytes.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head:?}: {answer:?}");
    }
    // Two clear requests on one connection are two.
    let close = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = server.raw(format!("{smuggled}{close}").as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer:?}");
}

#[test]
fn rs_08_silent_connections_keep_nobody_out() {
    let dir = scratch();
    let server = Server::start(dir.path(), &["--connections", "16"]);
    let silent: Vec<TcpStream> = (0..200).map(|_| server.connect()).collect();
    let mut half: Vec<TcpStream> = (0..20).map(|_| server.connect()).collect();
    for stream in &mut half {
        let _it_may_be_gone = stream.write_all(b"GET /healthz HTTP/1.1\r\nHo");
    }
    assert_eq!(server.get("/healthz").status, 200);
    for (number, mut stream) in silent.into_iter().chain(half).enumerate() {
        // Each of them is closed: to make room, or after its ten seconds.
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        let timed_out = read.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out && rest.is_empty(), "{number}: {read:?}");
    }
}

#[test]
fn rs_08_half_handshakes_keep_nobody_out() {
    let dir = scratch();
    let (pem, key) = (certificate("first.pem"), certificate("first.key"));
    let args = ["--tls-certificate", pem.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let server = Server::start(dir.path(), &[&args[..], &["--connections", "16"]].concat());
    let mut half: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
    for stream in &mut half {
        let _it_may_be_gone = stream.write_all(&[0x16, 3, 1, 2, 0, 1]);
    }
    let mut client = crate::tls::Client::new(None).connect(&server);
    assert_eq!(crate::world::exchange(&mut client, "GET", "/healthz", &[], b"").status, 200);
}

#[test]
fn rs_08_accepting_goes_on_after_the_descriptors_ran_out() {
    let dir = scratch();
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.get("/healthz").status, 200);
    let used =
        std::fs::read_dir(format!("/proc/{}/fd", server.pid().as_raw_nonzero())).unwrap().count() as u64;
    let before = getrlimit(Resource::Nofile);
    let few = Rlimit { current: Some(used + 4), maximum: before.maximum };
    prlimit(Some(server.pid()), Resource::Nofile, few).unwrap();
    let crowd: Vec<TcpStream> = (0..40).map(|_| server.connect()).collect();
    server.wait_for_log("accepting a connection");
    drop(crowd);
    // With as few descriptors as before, and all of them free again.
    wait_until("service to resume", PATIENCE, || server.get("/healthz").status == 200);
}

#[test]
fn a_request_in_flight_is_served_to_its_end_and_no_other() {
    let dir = scratch();
    let users = dir.path().join("users");
    let mut server = Server::start(dir.path(), &["--tokens", "--htpasswd", users.to_str().unwrap()]);
    let mut idle = server.connect();
    let mut busy = half_a_form(&server);
    server.signal(Signal::TERM);
    server.wait_for_log("SIGTERM");
    let mut nothing = Vec::new();
    idle.read_to_end(&mut nothing).unwrap();
    wait_until("new connections to be refused", PATIENCE, || TcpStream::connect(server.address).is_err());
    busy.write_all(b"grant_type=password&username=alice&password=wonder").unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"access_token\""), "{answer}");
    assert!(server.wait().success());
}

#[test]
fn a_second_signal_and_the_drain_end_it_at_once() {
    let dir = scratch();
    let users = dir.path().join("users");
    let args = ["--tokens", "--htpasswd", users.to_str().unwrap()];
    let mut server = Server::start(dir.path(), &[&args[..], &["--drain", "1h"]].concat());
    let _busy = half_a_form(&server);
    server.signal(Signal::TERM);
    server.wait_for_log("SIGTERM");
    server.signal(Signal::INT);
    assert!(server.wait().success());

    let mut server = Server::start(dir.path(), &[&args[..], &["--drain", "100ms"]].concat());
    let _busy = half_a_form(&server);
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    assert!(server.log().contains("1 connections are cut"), "{}", server.log());
}

/// A connection whose request is being served, because its body is not there yet.
fn half_a_form(server: &Server) -> TcpStream {
    let mut stream = server.connect();
    let head = "POST /token HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

#[test]
fn rs_06_http_2_is_not_spoken() {
    let dir = scratch();
    let server = Server::start(dir.path(), &[]);
    // The preface, settings and a hundred streams that are reset at once.
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream in (1_u32..200).step_by(2) {
        bytes.extend_from_slice(b"\0\0\x01\x01\x05");
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(b"\x82\0\0\x04\x03\0");
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(b"\0\0\0\x08");
    }
    let answer = server.raw(&bytes);
    assert!(answer.starts_with("HTTP/1.1 ") && !answer.starts_with("HTTP/1.1 2"), "{answer:?}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer:?}");
    // Nor is an upgrade to it.
    let upgrade = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    let answer = server.raw(upgrade.as_bytes());
    assert!(!answer.starts_with("HTTP/1.1 101"), "{answer:?}");
    assert_eq!(server.get("/healthz").status, 200);
}
