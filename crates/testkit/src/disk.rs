//! A disk of a test's own: an ext4 file system in a file, which can be small, and whose power can be cut.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mount::UnmountFlags;
use wharf_linux::powercut::{self, Journal};

use crate::{PATIENCE, retry_until};

/// A mounted scratch disk; gone when dropped, with everything that is mounted on it.
#[derive(Debug)]
pub struct Disk {
    dir: tempfile::TempDir,
    /// Which copy of the file is the disk.
    generation: AtomicU32,
}

impl Disk {
    /// A disk of so many bytes; `None` with a note where this machine has no loop devices or no `mkfs.ext4`.
    ///
    /// # Panics
    /// When the machine has them and they do not work.
    pub fn new(bytes: u64) -> Option<Self> {
        if !Path::new("/dev/loop-control").exists() {
            println!("skipped: this machine has no loop devices");
            return None;
        }
        // In memory, if that is possible: the real disk is busy with others.
        let memory = Path::new("/dev/shm");
        let room = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
        let mut builder = tempfile::Builder::new();
        builder.prefix("wd-");
        let dir = if room > 2 * bytes { builder.tempdir_in(memory) } else { builder.tempdir() };
        let disk = Self { dir: dir.expect("a temporary directory"), generation: AtomicU32::new(0) };
        File::create(disk.file()).and_then(|file| file.set_len(bytes)).expect("a file in our directory");
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0"])
            .arg(disk.file())
            .stdin(Stdio::null())
            .status();
        match made {
            Ok(status) => assert!(status.success(), "mkfs.ext4: {status}"),
            Err(error) => {
                println!("skipped: mkfs.ext4: {error}");
                return None;
            }
        }
        std::fs::create_dir(disk.path()).expect("a directory in our directory");
        disk.mount();
        Some(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join(format!("disk-{}", self.generation.load(Ordering::Relaxed)))
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).expect("it is mounted");
        stat.f_bavail * stat.f_frsize
    }

    /// Cuts the power: everything on it fails from now on, and what was not durable is lost.
    ///
    /// # Panics
    /// When the file system has no such switch.
    pub fn cut(&self, journal: Journal) {
        let root = File::open(self.path()).expect("it is mounted");
        powercut::cut(root.as_fd(), journal).expect("ext4 can be shut down");
    }

    /// Power is back. Nobody uses it any more.
    ///
    /// # Panics
    /// When the disk cannot be mounted again.
    pub fn restore(&self) {
        self.unmount();
        let file = self.file();
        if is_attached(&file) {
            // A process that was given a mount namespace meanwhile has a copy of the mount, and with it the dead file
            // system is alive. What is on the disk goes on in a copy.
            self.generation.fetch_add(1, Ordering::Relaxed);
            let copied = Command::new("cp").arg("--sparse=always").arg(&file).arg(self.file()).status();
            assert!(copied.is_ok_and(|status| status.success()), "the disk cannot be copied");
            std::fs::remove_file(&file).expect("a file in our directory");
        }
        self.mount();
    }

    /// The loop device goes away with the mount.
    fn mount(&self) {
        let status = Command::new("mount")
            .args(["-t", "ext4", "-o", "loop"])
            .arg(self.file())
            .arg(self.path())
            .status();
        assert!(status.is_ok_and(|status| status.success()), "the disk cannot be mounted");
    }

    /// Takes down what is mounted on it, then the disk.
    fn unmount(&self) {
        let root = self.path();
        retry_until("the disk to be free", PATIENCE, || {
            let mut mounts = mounts_beneath(&root);
            mounts.sort_by_key(|mount| std::cmp::Reverse(mount.as_os_str().len()));
            for mount in &mounts {
                let _ = rustix::mount::unmount(mount, UnmountFlags::NOFOLLOW);
            }
            mounts_beneath(&root).is_empty().then_some(())
        });
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Whatever still uses it: nothing may be left.
            for mount in mounts_beneath(&self.path()) {
                let _ = rustix::mount::unmount(&mount, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
            }
        } else if self.path().exists() {
            self.unmount();
        }
    }
}

/// Whether some loop device still stands on this file.
fn is_attached(file: &Path) -> bool {
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut backing =
        devices.filter_map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")).ok());
    backing.any(|path| Path::new(path.trim_end()) == file)
}

/// Every mount at or beneath a directory.
fn mounts_beneath(root: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(root)).collect()
}
