//! One engine to a data root and to an exec root.
//!
//! The lock is the kernel's on an open file, so it ends with the process however that ends; the file itself stays and
//! names the last owner.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

const NAME: &str = "wharfd.lock";

/// Held while the engine lives.
pub(crate) struct Locks {
    _files: Vec<File>,
}

/// Makes both roots if they are missing, and takes them.
pub(crate) fn both(data_root: &Path, exec_root: &Path) -> Result<Locks> {
    // Nobody walks into layers; but the way to the socket in the exec root is open to its group.
    make(data_root, 0o710)?;
    make(exec_root, 0o711)?;
    let mut files = vec![take(data_root, "--data-root")?];
    if fs::canonicalize(data_root).ok() != fs::canonicalize(exec_root).ok() {
        files.push(take(exec_root, "--exec-root")?);
    }
    Ok(Locks { _files: files })
}

fn make(dir: &Path, mode: u32) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    match DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.with_context(|| format!("making {}", dir.display())),
    }
}

fn take(dir: &Path, flag: &str) -> Result<File> {
    let path = dir.join(NAME);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut owner = String::new();
            let _unknown = (&mut file).take(32).read_to_string(&mut owner);
            bail!(
                "{} is in use by another engine (process {}): stop that one or give another {flag}",
                dir.display(),
                owner.trim()
            );
        }
        Err(error) => return Err(error).with_context(|| format!("locking {}", path.display())),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let (data, exec) = (dir.path().join("a/data"), dir.path().join("exec"));
        let first = both(&data, &exec).unwrap();
        let refusal = |data: &Path, exec: &Path| both(data, exec).err().unwrap().to_string();
        assert!(refusal(&data, &dir.path().join("other")).contains("give another --data-root"));
        let message = refusal(&dir.path().join("other-data"), &exec);
        assert!(message.contains("give another --exec-root"), "{message}");
        assert!(message.contains(&std::process::id().to_string()), "{message}");
        drop(first);
        both(&data, &exec).unwrap();
    }

    #[test]
    fn one_directory_may_be_both() {
        let dir = tempfile::tempdir().unwrap();
        both(dir.path(), dir.path()).unwrap();
    }
}
