//! The mount interface by descriptor: trees are made detached, given their attributes, and then put on a descriptor
//! that was resolved before. No path is resolved twice.

use crate::namespace::check;
use rustix::fd::BorrowedFd;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use rustix::path::Arg;
use std::io;
use std::ops::{BitOr, BitOrAssign};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Attributes of a mount (not of the file system on it).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes(u64);

impl Attributes {
    /// Nothing can be written.
    pub const READ_ONLY: Self = Self(0x01);
    /// Set-user-id bits and file capabilities have no effect.
    pub const NO_SUID: Self = Self(0x02);
    /// Device nodes cannot be opened.
    pub const NO_DEV: Self = Self(0x04);
    /// No program can be executed.
    pub const NO_EXEC: Self = Self(0x08);
    /// All bits of the access time mode; name them when clearing.
    pub const ATIME: Self = Self(0x70);
    /// No access times.
    pub const NO_ATIME: Self = Self(0x10);
    /// Every access time.
    pub const STRICT_ATIME: Self = Self(0x20);
    /// No access times on directories.
    pub const NO_DIR_ATIME: Self = Self(0x80);
    /// Symbolic links are not followed.
    pub const NO_SYMFOLLOW: Self = Self(0x0020_0000);

    /// Whether nothing is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether every attribute of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The attributes without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Attributes {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Attributes {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// How mounts and unmounts spread between namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Both ways.
    Shared,
    /// From the source only.
    Slave,
    /// Not at all.
    Private,
    /// Not at all, and it cannot be bound elsewhere.
    Unbindable,
}

impl Propagation {
    const fn bits(self) -> u64 {
        match self {
            Self::Unbindable => libc::MS_UNBINDABLE,
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
        }
    }
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Clones the mount tree at a path into one that is attached nowhere. An empty path names `dir` itself.
pub fn clone_tree<P: Arg>(dir: impl AsFd, path: P, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(dir, path, flags)?)
}

/// Clones one mount as another process sees it, which that process's mount namespace alone allows. No link is followed:
/// the other side may be hostile. The calling thread must be its process's only one; it is back in its own namespace
/// and directory unless this fails with an error it should end for.
pub fn clone_tree_of(process: impl AsFd, path: &std::path::Path) -> io::Result<OwnedFd> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
    let open = |dir: BorrowedFd<'_>, path: &str, flags: OFlags| {
        openat(dir, path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(io::Error::from)
    };
    let ours = open(CWD, "/proc/thread-self/ns/mnt", OFlags::RDONLY)?;
    let theirs = open(process.as_fd(), "ns/mnt", OFlags::RDONLY)?;
    let root = open(CWD, "/", OFlags::PATH | OFlags::DIRECTORY)?;
    let place = open(CWD, ".", OFlags::PATH | OFlags::DIRECTORY)?;
    crate::namespace::join(&theirs, crate::namespace::Namespaces::MOUNT)?;
    let links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), links);
    let tree = found.map_err(io::Error::from).and_then(|found| clone_tree(found, c"", false));
    crate::namespace::join(&ours, crate::namespace::Namespaces::MOUNT)?;
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(c".")?;
    rustix::process::fchdir(&place)?;
    tree
}

/// Sets and clears attributes of a mount, and of all below it if `recursive`.
pub fn set_attributes(
    tree: impl AsFd,
    set: Attributes,
    clear: Attributes,
    recursive: bool,
) -> io::Result<()> {
    change(tree.as_fd(), &MountAttr { set: set.0, clear: clear.0, propagation: 0, userns_fd: 0 }, recursive)
}

/// Sets the propagation of a mount, and of all below it if `recursive`.
pub fn set_propagation(tree: impl AsFd, propagation: Propagation, recursive: bool) -> io::Result<()> {
    let attr = MountAttr { set: 0, clear: 0, propagation: propagation.bits(), userns_fd: 0 };
    change(tree.as_fd(), &attr, recursive)
}

/// Maps the owners of a detached tree through a user namespace.
pub fn set_id_map(tree: impl AsFd, userns: impl AsFd, recursive: bool) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let userns_fd = userns.as_fd().as_raw_fd() as u64;
    change(tree.as_fd(), &MountAttr { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns_fd }, recursive)
}

fn change(tree: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> io::Result<()> {
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is NUL-terminated, the struct has the size that is passed and outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })
}

/// Puts a tree on what `target` is open as.
pub fn attach(tree: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, c"", target, c"", flags)?)
}

/// A file system that is being configured.
#[derive(Debug)]
pub struct Filesystem {
    context: OwnedFd,
}

impl Filesystem {
    /// Starts a new file system of a type.
    pub fn new<P: Arg>(kind: P) -> io::Result<Self> {
        Ok(Self { context: rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)? })
    }

    /// Sets `key=value`.
    pub fn set<K: Arg, V: Arg>(&self, key: K, value: V) -> io::Result<()> {
        Ok(rustix::mount::fsconfig_set_string(&self.context, key, value)?)
    }

    /// Sets a flag.
    pub fn flag<K: Arg>(&self, key: K) -> io::Result<()> {
        Ok(rustix::mount::fsconfig_set_flag(&self.context, key)?)
    }

    /// Makes the file system and a mount of it that is attached nowhere.
    pub fn mount(&self, attributes: Attributes) -> io::Result<OwnedFd> {
        rustix::mount::fsconfig_create(&self.context)?;
        let attributes = MountAttrFlags::from_bits_retain(attributes.0 as u32);
        Ok(rustix::mount::fsmount(&self.context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    }

    /// The same for an overlay that is to be written to: one whose working directory finds no room is quietly made read-only
    /// by the kernel, and here an error.
    ///
    /// # Errors
    /// `ENOSPC` in that case.
    pub fn mount_writable(&self, attributes: Attributes) -> io::Result<OwnedFd> {
        let tree = self.mount(attributes)?;
        let read_only = rustix::fs::StatVfsMountFlags::RDONLY;
        let asked = attributes.0 & Attributes::READ_ONLY.0 != 0;
        if !asked && rustix::fs::fstatvfs(&tree)?.f_flag.contains(read_only) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(tree)
    }

    /// What the kernel has said about this file system: the reason of the last failure in words, if it gave one.
    pub fn complaint(&self) -> Option<String> {
        let mut message = [0; 512];
        let length = rustix::io::read(&self.context, &mut message).ok()?;
        let text = String::from_utf8_lossy(message.get(..length)?).trim().to_owned();
        // The kernel prefixes a level: "e " for errors, "w " for warnings.
        Some(text.get(2..).unwrap_or_default().to_owned()).filter(|t| !t.is_empty())
    }
}

/// Makes `new_root`, which must be a mount and the working directory, the root, and lets go of the old one.
pub fn pivot_here() -> io::Result<()> {
    // With both names ".", the old root ends up mounted over the new one and is taken off again at once.
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", rustix::mount::UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir(c"/")?)
}
