//! Showing an image's files, and finding out whether this machine can.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::mount::UnmountFlags;
use wharf_linux::hostfs;
use wharf_linux::mount::{self, Attributes, Filesystem, Propagation};

use super::format::MAGIC;
use super::{STREAM_AT, Tree, index_at, write_image};
use crate::limits::{Limits, Spent};
use crate::tar::{Entry, Kind};
use crate::{Error, Result};

use super::write::Plan;

/// Mounting is rare; two at once must not mount the same image twice.
static MOUNTING: Mutex<()> = Mutex::new(());

/// Mounts `image` on the directory `files`, unless something is there already.
pub(super) fn attach(image: &Path, files: &Path) -> Result<()> {
    if is_attached(files)? {
        return Ok(());
    }
    let _one = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    if is_attached(files)? {
        return Ok(());
    }
    let attach = || {
        let tree = detached(image)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        mount::attach(&tree, rustix::fs::open(files, flags, Mode::empty())?)
    };
    Ok(attach().map_err(|error| hostfs::Error::new("mount", image, error))?)
}

/// Takes the mount off `files` again. Who uses it keeps it.
pub(super) fn detach(files: &Path) -> Result<()> {
    let _one = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    while is_attached(files)? {
        rustix::mount::unmount(files, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|error| hostfs::Error::new("unmount", files, error))?;
    }
    Ok(())
}

/// Asked each time rather than remembered: the mount may be from an engine before this one, or gone by another's hand.
fn is_attached(files: &Path) -> Result<bool> {
    match rustix::fs::statfs(files) {
        Ok(stat) => Ok(stat.f_type as u32 == MAGIC),
        // Not a directory: a file that a crash left among the layers.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(false),
        Err(error) => Err(hostfs::Error::new("look at", files, error).into()),
    }
}

/// A mount of an image that is attached nowhere. Overlayfs on top of it heeds its own flags: these guard the files from
/// those who come upon them here.
fn detached(image: &Path) -> io::Result<OwnedFd> {
    let filesystem = Filesystem::new("erofs")?;
    let mount = || {
        filesystem.set("source", image)?;
        let attributes =
            Attributes::READ_ONLY | Attributes::NO_SUID | Attributes::NO_DEV | Attributes::NO_EXEC;
        let tree = filesystem.mount(attributes)?;
        mount::set_propagation(&tree, Propagation::Private, false)?;
        Ok(tree)
    };
    mount().map_err(|error: io::Error| match filesystem.complaint() {
        Some(words) => io::Error::new(error.kind(), format!("{words} ({error})")),
        None => error,
    })
}

/// Whether images in `directory` can be mounted and show what overlayfs and containers need: the only sure way is to
/// try. (Kernel 6.12 or later, the right to mount, a file system that can back a mount, attributes configured in.)
pub(crate) fn is_supported(directory: &Path) -> bool {
    let path = directory.join(".probe");
    let tried = try_out(&path);
    if let Err(error) = hostfs::remove_file(&path) {
        tracing::debug!("cannot remove the probe, the next start will: {error}");
    }
    match tried {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(
                "layers are kept as directories: no EROFS images in {}: {error}",
                directory.display()
            );
            false
        }
    }
}

fn try_out(path: &Path) -> Result<(), Error> {
    let capability = (CString::from(c"security.capability"), {
        let mut value = vec![0; 20];
        value[3] = 2;
        value
    });
    let tree = probe_tree(capability.clone())?;
    hostfs::remove_file(path).or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })?;
    let look = || -> io::Result<()> {
        let file: File = hostfs::create_new(path, 0o600).map_err(|error| error.source)?;
        let plan = Plan::new(&tree, STREAM_AT, index_at(0)).ok_or(io::ErrorKind::FileTooLarge)?;
        write_image(&file, &plan, 0, [1; 16])?;
        let root = detached(path)?;
        expect(&root, "d", OFlags::DIRECTORY, c"trusted.overlay.opaque", b"y")?;
        expect(&root, "f", OFlags::empty(), &capability.0, &capability.1)?;
        let whiteout = rustix::fs::statat(root.as_fd(), "w", AtFlags::SYMLINK_NOFOLLOW)?;
        if whiteout.st_rdev != 0 {
            return Err(io::Error::other("device nodes are not what they should be"));
        }
        Ok(())
    };
    Ok(look().map_err(|error| hostfs::Error::new("try", path, error))?)
}

/// An opaque directory `d`, a file `f` with an attribute, a whiteout `w`.
fn probe_tree(xattr: (CString, Vec<u8>)) -> Result<Tree> {
    let limits = Limits::default();
    let mut spent = Spent::new(&limits);
    let mut tree = Tree::new();
    let file = |path: &[u8], xattrs| Entry {
        path: path.to_vec(),
        kind: Kind::File { size: 0, pieces: None },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        xattrs,
    };
    for entry in [file(b"d/.wh..wh..opq", Vec::new()), file(b"f", vec![xattr]), file(b".wh.w", Vec::new())] {
        tree.add(&entry, 0, &mut spent).map_err(|_| Error::Damaged("the probe is no layer".to_owned()))?;
    }
    Ok(tree)
}

fn expect(root: &OwnedFd, name: &str, kind: OFlags, xattr: &std::ffi::CStr, value: &[u8]) -> io::Result<()> {
    let file = rustix::fs::openat(root, name, kind | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut found = [0; 64];
    let length = rustix::fs::fgetxattr(&file, xattr, &mut found)?;
    if found.get(..length) == Some(value) {
        Ok(())
    } else {
        Err(io::Error::other(format!("the attribute {xattr:?} is not kept")))
    }
}
