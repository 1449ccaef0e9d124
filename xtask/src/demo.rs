//! The demonstration: real containers from nothing, on a scratch engine that is gone afterwards.
//!
//! Every line that starts with `$` is really run, by the program it names, and what follows is what it printed.
//! `WHARF_DEMO_DEBIAN=1` adds a Debian root made with debootstrap, in which apt installs a package.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use wharf_testkit::{Cli, Engine, PATIENCE, Registry, image, use_release_binaries, wait_until};

/// Prints a number every few milliseconds, so that a missing or doubled line would show.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo line $i; usleep 2000; done";

/// Runs it.
pub(crate) fn run() -> Result<()> {
    // WHARF_TEST_BIN_DIR shows other binaries than `make demo` has just built.
    if std::env::var_os("WHARF_TEST_BIN_DIR").is_none() {
        use_release_binaries();
    }
    let start = Instant::now();
    let engine = Engine::scratch();
    let wharf = engine.wharf();
    let files = tempfile::Builder::new()
        .prefix("wharf-demo-")
        .tempdir()
        .context("making a directory for the image's root")?;
    say(&format!(
        "A scratch engine, process {}, everything of it in {}",
        pid(&engine),
        engine.dir().display()
    ));
    first_containers(&wharf, files.path())?;
    let port = web_server(&engine, &wharf)?;
    engine_death(&engine, &wharf, port)?;
    own_registry(&wharf)?;
    if std::env::var_os("WHARF_DEMO_DEBIAN").is_some() {
        debian(&wharf, files.path())?;
    }
    say("Cleaning up");
    show(&wharf, &["rm", "-f", "web", "counter"])?;
    show(&wharf, &["ps", "-a"])?;
    // Stops the engine and fails when a process, mount, link, cgroup, address or rule of it is left.
    drop(engine);
    say(&format!("Nothing is left on this machine. It took {:.1} s.", start.elapsed().as_secs_f32()));
    Ok(())
}

fn first_containers(wharf: &Cli, files: &Path) -> Result<()> {
    say("The built-in image needs no registry");
    show(wharf, &["run", "--rm", "hello-world"])?;
    say("An image from a root filesystem (this machine's static busybox and a web page)");
    let rootfs = files.join("rootfs.tar");
    std::fs::write(&rootfs, image::rootfs()).with_context(|| format!("writing {}", rootfs.display()))?;
    show(wharf, &["import", "--change", "CMD sh", &rootfs.to_string_lossy(), "box"])?;
    show(wharf, &["images"])?;
    show(
        wharf,
        &["run", "--rm", "--hostname", "inside", "-m", "64m", "box", "sh", "-c", "hostname; id; ps"],
    )?;
    Ok(())
}

fn web_server(engine: &Engine, wharf: &Cli) -> Result<u16> {
    let port = engine.port(0);
    say("A web server on a published port, and a container that counts");
    let publish = format!("{port}:80");
    show(wharf, &["run", "-d", "--name", "web", "-p", &publish, "box", "httpd", "-f", "-v", "-h", "/www"])?;
    quietly(wharf, &["run", "-d", "--name", "counter", "box", "sh", "-c", COUNTER])?;
    wait_until("the web server to answer", PATIENCE, || fetch(port).is_ok());
    println!("# GET http://127.0.0.1:{port}/index.html from the host\n{}", fetch(port)?.trim_end());
    show(wharf, &["logs", "--tail", "1", "web"])?;
    show(wharf, &["exec", "web", "cat", "/etc/hosts"])?;
    show(wharf, &["ps"])?;
    show(wharf, &["stats", "--no-stream"])?;
    Ok(port)
}

fn engine_death(engine: &Engine, wharf: &Cli, port: u16) -> Result<()> {
    say(&format!("kill -9 of the engine (process {})", pid(engine)));
    engine.kill();
    ensure!(wharf.run(&["ps"]).code != 0 || engine.pid().is_none(), "the engine should be gone");
    println!("# the engine is dead; GET http://127.0.0.1:{port}/index.html\n{}", fetch(port)?.trim_end());
    std::thread::sleep(Duration::from_millis(300));
    engine.start();
    println!("# a new engine, process {}, finds everything as it was", pid(engine));
    show(wharf, &["ps"])?;
    println!("$ wharf logs counter    # is a line missing or doubled?");
    println!("{} lines, numbered without a gap", gapless(&quietly(wharf, &["logs", "counter"])?)?);
    Ok(())
}

/// An image changes, goes to a registry of our own, is gone here, and comes back because it is run.
fn own_registry(wharf: &Cli) -> Result<()> {
    let registry = Registry::scratch();
    let name = registry.name("team/box:2");
    say("A registry of one's own");
    println!("$ wharf registry serve --address {} --data …", registry.address());
    show(wharf, &["exec", "counter", "sh", "-c", "echo made in a container > /www/news"])?;
    show(wharf, &["commit", "counter", &name])?;
    show(wharf, &["push", &name])?;
    show(wharf, &["rmi", &name])?;
    show(wharf, &["run", "--rm", &name, "cat", "/www/news"])
}

/// The number of lines, when they are `line 1`, `line 2` … in order.
fn gapless(log: &str) -> Result<usize> {
    for (index, line) in log.lines().enumerate() {
        ensure!(line == format!("line {}", index + 1), "after line {index} comes `{line}`");
    }
    Ok(log.lines().count())
}

fn debian(wharf: &Cli, files: &Path) -> Result<()> {
    say("A Debian root made with debootstrap, and apt inside it");
    let root = files.join("debian");
    let script = format!(
        "set -e; command -v debootstrap >/dev/null || apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
         . /etc/os-release
         mirror=$(cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null |
             sed -n 's/^URIs: *//p; s/^deb  *\\(\\[[^]]*\\] *\\)\\?\\([^ ]*\\).*/\\2/p' | head -n 1)
         debootstrap --variant=minbase \"$VERSION_CODENAME\" {root} \"$mirror\" >/dev/null
         tar -C {root} -cf {root}.tar .",
        root = root.display()
    );
    let made = Command::new("bash").args(["-c", &script]).status().context("running debootstrap")?;
    ensure!(made.success(), "debootstrap failed; it needs a Debian mirror");
    show(wharf, &["import", "-c", "CMD bash", &format!("{}.tar", root.display()), "debian"])?;
    let install = "apt-get update -qq && apt-get install -y -qq hello >/dev/null 2>&1 && hello";
    show(wharf, &["run", "--rm", "debian", "sh", "-c", install])
}

fn say(text: &str) {
    println!("\n\x1b[1m== {text}\x1b[0m");
}

fn pid(engine: &Engine) -> String {
    engine.pid().map(|pid| pid.to_string()).unwrap_or_default()
}

/// Prints a command and what it prints.
fn show(wharf: &Cli, arguments: &[&str]) -> Result<()> {
    let quoted: Vec<String> = arguments.iter().map(|word| quote(word)).collect();
    println!("$ wharf {}", quoted.join(" "));
    let output = wharf.run(arguments);
    print!("{}{}", output.stderr, output.stdout);
    ensure!(output.code == 0, "it ended with {}", output.code);
    Ok(())
}

fn quietly(wharf: &Cli, arguments: &[&str]) -> Result<String> {
    let output = wharf.run(arguments);
    if output.code != 0 {
        bail!("`wharf {}` ended with {}: {}", arguments.join(" "), output.code, output.stderr);
    }
    Ok(output.stdout)
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

/// The page that a container serves, fetched over the host's loopback.
fn fetch(port: u16) -> Result<String> {
    let mut stream =
        TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("connecting to port {port}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading the page")?;
    let (_, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    Ok(body.to_owned())
}
