//! What it costs to fetch one blob over loopback: `cargo run --example throughput [BYTES]`. The other side runs in a
//! process of its own and sends zeroes, so that the time shown is the client's alone.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement by hand")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Instant;

use wharf_content::spec::{Descriptor, LAYER_GZIP};
use wharf_model::{Digest, Reference};
use wharf_registry::{Access, Client, Config};

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("serve") => serve(arguments.next().unwrap().parse().unwrap()),
        size => fetch(size.map_or(335 << 20, |size| size.parse().unwrap())),
    }
}

fn serve(size: u64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut request = [0; 4096];
        let read = stream.read(&mut request).unwrap();
        if read == 0 || request[0] == 0x16 {
            let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
            continue;
        }
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").as_bytes()).unwrap();
        std::io::copy(
            &mut std::io::repeat(0).take(size),
            &mut std::io::BufWriter::with_capacity(1 << 20, stream),
        )
        .unwrap();
    }
}

/// Seconds of processor time of this process.
fn processor_time() -> f64 {
    let stat = wharf_linux::hostfs::read_to_string("/proc/self/stat".as_ref()).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

fn fetch(size: u64) {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["serve", &size.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut address).unwrap();
    let name = Reference::parse_normalized(&format!("{}/a/b", address.trim())).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let repository =
            Client::new(Config::default()).unwrap().repository(&name, Access::Pull, None).unwrap();
        let blob = Descriptor::new(LAYER_GZIP, Digest::from_sha256([0; 32]), size);
        let (began, used) = (Instant::now(), processor_time());
        let mut download = repository.blob(&blob, 0).await.unwrap();
        let mut chunks = 0_u64;
        while download.chunk().await.unwrap().is_some() {
            chunks += 1;
        }
        println!(
            "{} MiB in {chunks} chunks: {:.2} s, of which {:.2} s of processor time",
            size >> 20,
            began.elapsed().as_secs_f64(),
            processor_time() - used
        );
    });
    server.kill().unwrap();
    server.wait().unwrap();
}
