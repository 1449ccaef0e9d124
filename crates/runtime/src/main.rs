//! `wharf-runtime`: the OCI runtime with runc's command line, for containerd, Podman, Docker and people.
// This program's terminal is its own to write to.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cli;

fn main() {
    std::process::exit(cli::main());
}
