//! A file system that never answers: its root is there and can be mounted, and every look into it waits for ever.
//!
//! Who waits cannot even be killed, because the request has been read: as on a dead network disk. The end of the value ends
//! the waiting, with an error for everybody.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// `FUSE_LOOKUP` and so on.
const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
/// The root's number.
const ROOT: u64 = 1;
/// Bytes of the header of a request.
const HEADER: usize = 40;

/// The mount.
#[derive(Debug)]
pub struct SilentMount {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl SilentMount {
    /// Mounts one at `path`.
    ///
    /// # Panics
    /// When this machine has no FUSE.
    pub fn new(path: &Path) -> Self {
        std::fs::create_dir_all(path).expect("a directory of the test");
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("FUSE");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let options = std::ffi::CString::new(options).expect("no zero byte");
        mount("silent", path, "fuse", MountFlags::empty(), options.as_c_str()).expect("root may mount");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let server = std::thread::spawn(move || serve(device, &stopped));
        Self { path: path.to_owned(), stop, server: Some(server) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SilentMount {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            // The device is closed with it, and that ends the file system wherever it is mounted.
            let _ended = server.join();
        }
        let _gone = unmount(&self.path, UnmountFlags::DETACH);
    }
}

fn serve(mut device: File, stop: &AtomicBool) {
    let mut buffer = vec![0; 1 << 17];
    while !stop.load(Ordering::Relaxed) {
        let pause = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let mut ready = [PollFd::new(&device, PollFlags::IN)];
        if !matches!(poll(&mut ready, Some(&pause)), Ok(1..)) {
            continue;
        }
        let Ok(length) = device.read(&mut buffer) else { continue };
        if length < HEADER {
            continue;
        }
        let number = |at: usize| u32::from_ne_bytes(buffer[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_ne_bytes(buffer[at..at + 8].try_into().expect("eight bytes"));
        let (error, answer) = match (number(4), long(16)) {
            (INIT, _) => (0, init()),
            (GETATTR, ROOT) => (0, attributes()),
            (LOOKUP | OPEN | OPENDIR, _) => continue,
            // Whatever else the kernel wants to know it can do without.
            _ => (-38_i32, Vec::new()),
        };
        let mut bytes = Vec::from(((16 + answer.len()) as u32).to_ne_bytes());
        bytes.extend(error.to_ne_bytes());
        bytes.extend(long(8).to_ne_bytes());
        bytes.extend(answer);
        let _refused = device.write_all(&bytes);
    }
}

/// `struct fuse_init_out`: version 7.31 and nothing more.
fn init() -> Vec<u8> {
    let mut answer = Vec::new();
    for word in [7_u32, 31, 1 << 16, 0, 0, 1 << 16, 1] {
        answer.extend(word.to_ne_bytes());
    }
    answer.resize(64, 0);
    answer
}

/// `struct fuse_attr_out` of a directory.
fn attributes() -> Vec<u8> {
    let mut answer = Vec::new();
    // Valid for an hour; the number of the root, its size and times.
    for word in [3600_u64, 0, ROOT, 0, 0, 0, 0, 0] {
        answer.extend(word.to_ne_bytes());
    }
    for word in [0_u32, 0, 0, 0o40_755, 2, 0, 0, 0, 4096, 0] {
        answer.extend(word.to_ne_bytes());
    }
    answer
}
