//! `wharf-registry`: serves a registry.

fn main() -> std::process::ExitCode {
    wharf_registry_server::program::main()
}
