//! Finding the programs under test.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

/// Uses the optimised binaries (`cargo build --release`) from now on, in demonstrations and benchmarks.
///
/// # Panics
/// When a binary was asked for before.
pub fn use_release_binaries() {
    let dir = profile_dir().with_file_name("release");
    assert!(CHOSEN.set(dir).is_ok(), "the kind of binaries is chosen first");
}

/// A binary of this workspace: in `WHARF_TEST_BIN_DIR`, else beside the running test in the target directory.
///
/// # Panics
/// When it has not been built; the message says how.
pub fn binary(name: &str) -> PathBuf {
    let dir =
        CHOSEN.get_or_init(|| std::env::var_os("WHARF_TEST_BIN_DIR").map_or_else(profile_dir, PathBuf::from));
    let path = dir.join(name);
    assert!(path.is_file(), "{} is not built; run `cargo build --workspace` first", path.display());
    path
}

/// The directory of the build profile the running test belongs to: `target/<triple>/debug` for `.../debug/deps/test-1234`.
fn profile_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("the test's own path is readable");
    let dir = exe.parent().expect("an executable has a directory");
    if dir.ends_with("deps") {
        dir.parent().expect("deps has a parent").to_path_buf()
    } else {
        dir.to_path_buf()
    }
}

/// The root of the source tree.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("crates/testkit lies two levels down").to_path_buf()
}

/// The real `docker` command line, where it is installed.
pub fn docker_cli() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("docker")).find(|file| file.is_file())
}
