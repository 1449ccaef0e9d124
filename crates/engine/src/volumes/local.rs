//! The local driver: a directory of ours, or what `mount` would put on it.
//!
//! With the options `type`, `device` and `o` a volume is a file system that is mounted on `_data` as long as somebody
//! holds the volume (see [`super::hold`]). Everything here blocks, some of it for as long as a server is away.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use wharf_linux::hostfs;

use crate::{Error, Result};

/// The most of the mount table that is read.
const MOUNT_TABLE: u64 = 64 << 20;
/// A volume's data beneath its directory.
pub(super) const DATA: &str = "_data";

type Options = BTreeMap<String, String>;

/// Refuses options that the driver does not have, in Docker's words.
pub(super) fn check(options: &Options) -> std::result::Result<(), String> {
    if let Some(unknown) =
        options.keys().find(|key| !matches!(key.as_str(), "type" | "o" | "device" | "size"))
    {
        return Err(format!("invalid option: \"{unknown}\""));
    }
    if options.contains_key("size") {
        return Err("quota size requested but no quota support".to_owned());
    }
    let needed: [(&str, &[&str]); 3] =
        [("o", &["device", "type"]), ("device", &["type"]), ("type", &["device"])];
    for (given, needs) in needed {
        if !options.contains_key(given) {
            continue;
        }
        if let Some(missing) = needs.iter().find(|key| options.get(**key).is_none_or(String::is_empty)) {
            return Err(format!("missing required option: \"{missing}\""));
        }
    }
    if options.values().any(|value| value.contains('\0')) {
        return Err("invalid option: a value has a NUL in it".to_owned());
    }
    Ok(())
}

/// Whether a volume with these options is mounted while it is in use.
pub(super) fn is_mounted_on_use(options: &Options) -> bool {
    options.contains_key("device")
}

/// Mounts a volume on its directory. Blocks for as long as the file system likes.
pub(super) fn mount(data: &Path, options: &Options) -> Result<()> {
    let failed =
        |why: String| Error::System(format!("error while mounting volume '{}': {why}", data.display()));
    hostfs::create_dir_all(data, 0o755)?;
    let option = |key: &str| options.get(key).map_or("", String::as_str);
    let (device, kind) = (option("device"), option("type"));
    let words = with_address(option("o"), kind, device)
        .map_err(|error| failed(format!("error resolving passed in network volume address: {error}")))?;
    let request = Request::parse(&words);
    request.carry_out(device, data, kind).map_err(|error| {
        let mut text = format!("failed to mount local volume: mount {device}:{}", data.display());
        if !request.flags.is_empty() {
            text.push_str(&format!(", flags: {:#x}", request.flags.bits()));
        }
        if !request.data.is_empty() {
            text.push_str(&format!(", data: {}", without_password(&request.data)));
        }
        failed(format!("{text}: {}", in_words(&error)))
    })
}

/// Takes the mount off a volume's directory; one that is not there is no error.
pub(super) fn unmount(data: &Path) -> Result<()> {
    match rustix::mount::unmount(data, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(Error::System(format!("unmount {}: {}", data.display(), in_words(&error.into())))),
    }
}

/// The volumes beneath `directory` on which something is mounted, by name. Asks the mount table and no file system:
/// one that hangs must not be touched to learn that it is there.
pub(super) fn mounted(directory: &Path) -> Result<Vec<String>> {
    // As the table has it: without links.
    let handle = hostfs::open_dir(directory)?;
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
    let real = rustix::fs::readlink(link, Vec::new()).map_err(std::io::Error::from)?;
    let directory =
        PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(real.as_bytes()));
    let table = hostfs::read_bounded(Path::new("/proc/self/mountinfo"), MOUNT_TABLE)?;
    let table = String::from_utf8_lossy(&table);
    let mut names: Vec<String> = table
        .lines()
        .filter_map(|line| {
            let place = unescape(line.split(' ').nth(4)?);
            let name = place.strip_prefix(&directory).ok()?.parent()?.to_str()?.to_owned();
            (place.ends_with(DATA) && !name.is_empty() && !name.contains('/')).then_some(name)
        })
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// A path as the mount table writes it, with `\040` for a space.
pub(crate) fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&bytes))
}

/// The kernel's reason as Go words it, which is what Docker shows.
pub(crate) fn in_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// The options of a network file system with the address of its server as a number: the kernel knows no names.
fn with_address(words: &str, kind: &str, device: &str) -> std::io::Result<String> {
    if !matches!(kind, "nfs" | "nfs4" | "cifs" | "smb3") {
        return Ok(words.to_owned());
    }
    let given = words.split(',').find_map(|word| word.strip_prefix("addr="));
    let host = match given {
        Some(host) => host,
        None if matches!(kind, "cifs" | "smb3") => {
            device.trim_start_matches('/').split('/').next().unwrap_or_default()
        }
        None => return Ok(words.to_owned()),
    };
    if host.is_empty() || (given.is_some() && host.parse::<IpAddr>().is_ok()) {
        return Ok(words.to_owned());
    }
    let found = (host, 0_u16).to_socket_addrs().ok().and_then(|mut found| found.next());
    let Some(found) = found else {
        return Err(std::io::Error::other(format!("lookup {host}: no such host")));
    };
    let address = format!("addr={}", found.ip());
    Ok(match given {
        Some(_) => words.replacen(&format!("addr={host}"), &address, 1),
        None if words.is_empty() => address,
        None => format!("{words},{address}"),
    })
}

/// A password is for the kernel alone.
fn without_password(data: &str) -> String {
    let mask = |word: &str| match word.split_once('=') {
        Some((key, _)) if key.starts_with("pass") => format!("{key}=********"),
        _ => word.to_owned(),
    };
    data.split(',').map(mask).collect::<Vec<_>>().join(",")
}

/// What `-o o=…` asks for, as mount(2) takes it.
struct Request {
    flags: MountFlags,
    propagation: MountPropagationFlags,
    data: String,
}

impl Request {
    fn parse(words: &str) -> Self {
        let mut request = Self {
            flags: MountFlags::empty(),
            propagation: MountPropagationFlags::empty(),
            data: String::new(),
        };
        let mut data = Vec::new();
        for word in words.split(',').filter(|word| !word.is_empty()) {
            if let Some((flags, on)) = flag(word) {
                request.flags.set(flags, on);
            } else if let Some(propagation) = propagation(word) {
                request.propagation |= propagation;
            } else if word != "defaults" {
                data.push(word);
            }
        }
        request.data = data.join(",");
        request
    }

    fn carry_out(&self, device: &str, data: &Path, kind: &str) -> std::io::Result<()> {
        let options = CString::new(self.data.as_str())?;
        let options = Some(options.as_c_str()).filter(|_| !self.data.is_empty());
        let kind = if matches!(kind, "none" | "bind" | "rbind") { "" } else { kind };
        rustix::mount::mount(device, data, kind, self.flags, options)?;
        let rest = || {
            if self.flags.contains(MountFlags::BIND | MountFlags::RDONLY) {
                // A bind takes its flags in a second call.
                rustix::mount::mount_remount(data, self.flags, c"")?;
            }
            if !self.propagation.is_empty() {
                rustix::mount::mount_change(data, self.propagation)?;
            }
            Ok(())
        };
        rest().inspect_err(|_| {
            let _undone = unmount(data);
        })
    }
}

/// A flag and whether the word sets it.
fn flag(word: &str) -> Option<(MountFlags, bool)> {
    Some(match word {
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "mand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, true),
        "nomand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, false),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "nostrictatime" => (MountFlags::STRICTATIME, false),
        "bind" => (MountFlags::BIND, true),
        "rbind" => (MountFlags::BIND | MountFlags::REC, true),
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<MountPropagationFlags> {
    let kind = match word.strip_prefix('r').unwrap_or(word) {
        "private" => MountPropagationFlags::PRIVATE,
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(if word.starts_with('r') { kind | MountPropagationFlags::REC } else { kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_are_checked_in_dockers_words() {
        check(&options(&[])).unwrap();
        check(&options(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")])).unwrap();
        for (given, words) in [
            (&[("type", "tmpfs")][..], "missing required option: \"device\""),
            (&[("device", "tmpfs")], "missing required option: \"type\""),
            (&[("o", "size=1m")], "missing required option: \"device\""),
            (&[("size", "1m")], "quota size requested but no quota support"),
            (&[("foo", "1")], "invalid option: \"foo\""),
        ] {
            assert_eq!(check(&options(given)).unwrap_err(), words);
        }
    }

    #[test]
    fn words_become_flags_and_data() {
        let request = Request::parse("ro,nosuid,suid,addr=1.2.3.4,rshared,vers=4,defaults");
        assert_eq!(request.flags, MountFlags::RDONLY);
        assert_eq!(request.data, "addr=1.2.3.4,vers=4");
        assert_eq!(request.propagation, MountPropagationFlags::SHARED | MountPropagationFlags::REC);
        assert_eq!(Request::parse("bind").flags.bits(), 0x1000);
        assert_eq!(
            without_password("user=a,password=secret,pass=x"),
            "user=a,password=********,pass=********"
        );
    }

    #[test]
    fn addresses_are_numbers_for_the_kernel() {
        assert_eq!(with_address("addr=127.0.0.1,rw", "nfs", ":/x").unwrap(), "addr=127.0.0.1,rw");
        assert_eq!(with_address("rw", "nfs", ":/x").unwrap(), "rw");
        assert_eq!(with_address("addr=a.b", "ext4", "/dev/x").unwrap(), "addr=a.b");
        assert_eq!(with_address("", "cifs", "//127.0.0.1/share").unwrap(), "addr=127.0.0.1");
    }

    #[test]
    fn the_tables_escapes_are_understood() {
        assert_eq!(unescape("/a\\040b\\134c\\9"), Path::new("/a b\\c\\9"));
        assert_eq!(in_words(&std::io::Error::from_raw_os_error(2)), "no such file or directory");
    }
}
