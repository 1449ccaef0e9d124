//! The pid file: for people and init systems that look for one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Removes the file when dropped.
pub(crate) struct PidFile(PathBuf);

/// Writes this process's id, unless the file names another process that lives.
pub(crate) fn write(path: &Path) -> Result<PidFile> {
    let own = std::process::id();
    if let Ok(text) = fs::read_to_string(path)
        && let Ok(pid) = text.trim().parse::<u32>()
        && pid != own
        && Path::new(&format!("/proc/{pid}")).exists()
    {
        bail!(
            "{} names process {pid}, which is still running: stop it or give another --pidfile",
            path.display()
        );
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    fs::write(path, format!("{own}\n")).with_context(|| format!("writing {}", path.display()))?;
    Ok(PidFile(path.to_path_buf()))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _already_gone = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_keeps_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/wharfd.pid");
        let file = write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());

        fs::write(&path, "1\n").unwrap();
        assert!(write(&path).err().unwrap().to_string().contains("process 1"));
        // Larger than any pid.
        fs::write(&path, "999999999\n").unwrap();
        write(&path).unwrap();
    }
}
