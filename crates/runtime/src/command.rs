//! Finding the command in the container.

use crate::error::{Error, Result};
use crate::root::Root;
use rustix::fs::FileType;
use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

/// The file to execute for `command`, looked up in the `PATH` of `env` unless it has a slash.
pub(crate) fn find(root: &Root, command: &str, env: &[String], cwd: &Path) -> Result<CString> {
    let file = if command.contains('/') {
        let path = cwd.join(command);
        check(root, &path).map_err(|e| refusal(command, &e))?;
        PathBuf::from(command)
    } else {
        search(root, command, env, cwd)?
    };
    CString::new(file.into_os_string().into_encoded_bytes())
        .map_err(|_| Error::invalid("the command has a NUL character in it"))
}

fn search(root: &Root, command: &str, env: &[String], cwd: &Path) -> Result<PathBuf> {
    let not_found = || Error::CommandNotFound {
        command: command.to_owned(),
        reason: "executable file not found in $PATH".into(),
    };
    if command.is_empty() || command == "." || command == ".." {
        return Err(not_found());
    }
    let path = env.iter().rev().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or_default();
    let mut refused = None;
    for dir in path.split(':') {
        let file = cwd.join(dir).join(command);
        match check(root, &file) {
            Ok(()) => return Ok(file),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => refused = Some(e),
            Err(_) => {}
        }
    }
    Err(refused.map_or_else(not_found, |e| refusal(command, &e)))
}

/// Whether a file can be executed at all; by whom the kernel decides.
fn check(root: &Root, path: &Path) -> io::Result<()> {
    let stat = rustix::fs::fstat(root.find(path)?)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Err(io::Error::from(io::ErrorKind::IsADirectory)),
        FileType::RegularFile if stat.st_mode & 0o111 != 0 => Ok(()),
        _ => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
    }
}

/// What a failed lookup or `execve` means for the user, in the words Docker's command line knows.
pub(crate) fn refusal(command: &str, error: &io::Error) -> Error {
    let command = command.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => {
            let reason = format!("stat {command}: no such file or directory");
            Error::CommandNotFound { command, reason }
        }
        io::ErrorKind::NotADirectory => Error::CommandNotFound { command, reason: "not a directory".into() },
        io::ErrorKind::IsADirectory => {
            Error::CommandNotExecutable { command, reason: "is a directory: permission denied".into() }
        }
        io::ErrorKind::PermissionDenied => {
            Error::CommandNotExecutable { command, reason: "permission denied".into() }
        }
        _ if error.raw_os_error() == Some(libc::ENOEXEC) => {
            Error::CommandNotExecutable { command, reason: "exec format error".into() }
        }
        _ => Error::CommandNotExecutable { command, reason: error.to_string().to_lowercase() },
    }
}
