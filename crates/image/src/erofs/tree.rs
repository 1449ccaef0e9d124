//! A layer's files in memory: what a kernel would make of the entries of a tar stream, without their data.
//!
//! [`Tree::add`] does to this tree what [`crate::unpack`] does to a directory, links included: they are followed within
//! the root, and where the kernel would fail, the same error comes back. What the format or this tree cannot hold is
//! [`Stop::Unsupported`], and the layer becomes a directory instead.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use wharf_linux::hostfs;

use super::format::MAX_NAME;
use crate::limits::Spent;
use crate::tar::{Entry, Kind};
use crate::unpack::{Name, clean, is_kept};
use crate::{Error, Result};

/// Files, directories and links of one tree at most; with [`MAX_TEXT`] this bounds memory to some 100 MB.
const MAX_NODES: usize = 400_000;
/// Bytes of names, link targets and attributes of one tree at most.
const MAX_TEXT: usize = 32 << 20;
/// Names of files at most: hard links are names without a node.
const MAX_NAMES: usize = 2 * MAX_NODES;
/// The kernel takes no longer path, with its NUL.
const PATH_MAX: usize = 4096;
/// The kernel follows no more links on one path.
const MAX_LINKS: usize = 40;

/// A place among the nodes.
pub(super) type Index = u32;
/// The root directory's.
pub(super) const ROOT: Index = 0;

pub(super) const DIRECTORY: u16 = 0o040_000;
const REGULAR: u16 = 0o100_000;
const LINK: u16 = 0o120_000;
const FIFO: u16 = 0o010_000;
const CHARACTER: u16 = 0o020_000;
const BLOCK_DEVICE: u16 = 0o060_000;

/// Why an entry was not added.
#[derive(Debug)]
pub(super) enum Stop {
    /// It is fine, but not here.
    Unsupported(&'static str),
    /// It is not fine.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// One file, by whatever names.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    /// Names it has; none once it was replaced.
    pub(super) links: u32,
    pub(super) xattrs: Vec<(CString, Vec<u8>)>,
    pub(super) what: What,
}

/// What a file is.
#[derive(Debug)]
pub(super) enum What {
    Directory(Box<Directory>),
    /// The place of its data in the stream, and its size.
    File {
        at: u64,
        size: u64,
    },
    Link(Box<[u8]>),
    /// The number as the kernel encodes it; zero for a FIFO.
    Device(u32),
}

#[derive(Debug)]
pub(super) struct Directory {
    pub(super) entries: BTreeMap<Box<[u8]>, Index>,
    pub(super) parent: Index,
    /// It hides the one below.
    pub(super) opaque: bool,
    /// Entries needed it, and none described it.
    pub(super) implied: bool,
}

impl Node {
    fn new(mode: u16, what: What) -> Self {
        Self { mode, uid: 0, gid: 0, mtime: (0, 0), links: 1, xattrs: Vec::new(), what }
    }

    fn is_whiteout(&self) -> bool {
        self.mode & 0o170_000 == CHARACTER && matches!(self.what, What::Device(0))
    }
}

#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    text: usize,
    names: usize,
    /// Entries of one directory mostly follow each other.
    parent: Option<(PathBuf, Index)>,
    /// It hides everything below.
    pub(super) opaque_root: bool,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node::new(DIRECTORY | 0o755, new_directory(ROOT));
        Self { nodes: vec![root], text: 0, names: 0, parent: None, opaque_root: false }
    }

    pub(super) fn node(&self, index: Index) -> &Node {
        &self.nodes[index as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn directory(&self, index: Index) -> Option<&Directory> {
        match &self.node(index).what {
            What::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Takes an entry whose data begins at `at` of the stream.
    pub(super) fn add(&mut self, entry: &Entry, at: u64, spent: &mut Spent<'_>) -> Result<(), Stop> {
        spent.entry()?;
        match Name::parse(&entry.path).map_err(Error::entry)? {
            Name::Aufs => Ok(()),
            Name::Root => self.describe_root(entry),
            Name::Opaque(directory) => self.opaque(&directory),
            Name::Whiteout(path) => self.whiteout(&path),
            Name::Plain(path) => self.plain(&path, entry, at, spent),
        }
    }

    fn plain(&mut self, path: &Path, entry: &Entry, at: u64, spent: &mut Spent<'_>) -> Result<(), Stop> {
        let (mode, what) = match &entry.kind {
            Kind::Directory => return self.make_directory(path, entry),
            Kind::HardLink(target) => return self.hard_link(path, target),
            Kind::File { pieces: Some(_), .. } => return Err(Stop::Unsupported("a file with holes")),
            Kind::File { size, pieces: None } => {
                spent.file(*size)?;
                (REGULAR, What::File { at, size: *size })
            }
            Kind::Symlink(target) if target.is_empty() => {
                return Err(Error::entry("a link to nothing").into());
            }
            Kind::Symlink(target) if target.len() >= PATH_MAX => {
                return Err(refused("create link", path, Errno::NAMETOOLONG));
            }
            Kind::Symlink(target) => {
                self.text += target.len();
                (LINK | 0o777, What::Link(target.as_slice().into()))
            }
            Kind::Fifo => (FIFO, What::Device(0)),
            Kind::Character { major, minor } => (CHARACTER, What::Device(device(*major, *minor)?)),
            Kind::Block { major, minor } => (BLOCK_DEVICE, What::Device(device(*major, *minor)?)),
        };
        let index = self.place(path, Node::new(mode, what))?;
        self.describe(index, entry)
    }

    fn make_directory(&mut self, path: &Path, entry: &Entry) -> Result<(), Stop> {
        let (parent, name) = self.parent_of(path)?;
        let index = match self.child(parent, name) {
            Some(existing) if self.directory(existing).is_some() => existing,
            other => {
                // A whiteout is about the layers below: a directory that replaces theirs.
                let opaque = other.is_some_and(|existing| self.node(existing).is_whiteout());
                let index = self.place(path, Node::new(DIRECTORY, new_directory(parent)))?;
                self.mark(index, |directory| directory.opaque = opaque);
                index
            }
        };
        self.mark(index, |directory| directory.implied = false);
        self.describe(index, entry)
    }

    fn describe_root(&mut self, entry: &Entry) -> Result<(), Stop> {
        if entry.kind != Kind::Directory {
            return Err(Error::entry("the root of a layer can only be a directory").into());
        }
        self.mark(ROOT, |directory| directory.implied = false);
        self.describe(ROOT, entry)
    }

    fn hard_link(&mut self, path: &Path, target: &[u8]) -> Result<(), Stop> {
        let target = clean(target).map_err(Error::entry)?;
        let Some(old) = target.file_name() else {
            return Err(Error::entry("a hard link to the root").into());
        };
        if target == path {
            return Err(Error::entry("a hard link to itself").into());
        }
        let above = target.parent().unwrap_or(Path::new(""));
        let from = self.resolve(above).map_err(|errno| refused("open directory", above, errno))?;
        let Some(existing) = self.child(from, old.as_bytes()) else {
            return Err(Error::entry("a hard link to what is not in the archive before it").into());
        };
        if self.directory(existing).is_some() {
            return Err(Error::entry("a hard link to a directory").into());
        }
        if self.node(existing).is_whiteout() {
            return Err(Error::entry("a hard link to a whiteout").into());
        }
        let (parent, name) = self.parent_of(path)?;
        if let Some(replaced) = self.child(parent, name) {
            self.nodes[existing as usize].links += 1;
            self.unlink(replaced);
            self.nodes[existing as usize].links -= 1;
            if self.node(existing).links == 0 {
                // The target was what made room, or in it.
                return Err(refused("create hard link", path, Errno::NOENT));
            }
        }
        self.nodes[existing as usize].links += 1;
        self.enter(parent, name, existing)
    }

    /// Hides `path` of the layers below. Something of that name in this very layer stays and hides it anyway.
    fn whiteout(&mut self, path: &Path) -> Result<(), Stop> {
        let (parent, name) = self.parent_of(path)?;
        match self.child(parent, name) {
            None => {
                let whiteout = self.made_in(parent, Node::new(CHARACTER | 0o600, What::Device(0)));
                let index = self.push(whiteout)?;
                self.enter(parent, name, index)?;
            }
            Some(existing) => self.mark(existing, |directory| directory.opaque = true),
        }
        Ok(())
    }

    fn opaque(&mut self, path: &Path) -> Result<(), Stop> {
        if path.as_os_str().is_empty() {
            // Overlayfs does not look for the mark on a layer's root: the snapshot leaves the lower layers out.
            self.opaque_root = true;
            return Ok(());
        }
        let (parent, name) = self.parent_of(path)?;
        let index = match self.child(parent, name) {
            None => self.imply(parent, name)?,
            Some(existing) if self.directory(existing).is_some() => existing,
            Some(_) => return Err(refused("open directory", path, Errno::NOTDIR)),
        };
        self.mark(index, |directory| directory.opaque = true);
        Ok(())
    }

    /// Puts a node at `path`; what was there goes.
    fn place(&mut self, path: &Path, node: Node) -> Result<Index, Stop> {
        let (parent, name) = self.parent_of(path)?;
        if let Some(replaced) = self.child(parent, name) {
            self.unlink(replaced);
        }
        let index = self.push(node)?;
        self.enter(parent, name, index)?;
        Ok(index)
    }

    fn push(&mut self, node: Node) -> Result<Index, Stop> {
        if self.nodes.len() >= MAX_NODES || self.text > MAX_TEXT {
            return Err(Stop::Unsupported("the number of files or the length of their names"));
        }
        self.nodes.push(node);
        Ok((self.nodes.len() - 1) as Index)
    }

    fn enter(&mut self, parent: Index, name: &[u8], index: Index) -> Result<(), Stop> {
        if name.len() > MAX_NAME {
            return Err(refused("create", Path::new(OsStr::from_bytes(name)), Errno::NAMETOOLONG));
        }
        self.text += name.len();
        self.names += 1;
        if self.names > MAX_NAMES || self.text > MAX_TEXT {
            return Err(Stop::Unsupported("the number of files or the length of their names"));
        }
        self.mark(parent, |directory| {
            directory.entries.insert(name.into(), index);
        });
        Ok(())
    }

    /// Takes a name away from a node, and all names beneath it if that was its last.
    fn unlink(&mut self, index: Index) {
        let mut gone = vec![index];
        while let Some(index) = gone.pop() {
            let node = &mut self.nodes[index as usize];
            node.links = node.links.saturating_sub(1);
            if let What::Directory(directory) = &mut node.what {
                gone.extend(std::mem::take(&mut directory.entries).into_values());
            }
        }
    }

    /// Gives a node the metadata of its entry. Attributes it had before stay, as they do for a directory on disk.
    fn describe(&mut self, index: Index, entry: &Entry) -> Result<(), Stop> {
        let node = &mut self.nodes[index as usize];
        let kind = node.mode & 0o170_000;
        let opened = kind == DIRECTORY || kind == REGULAR;
        let permissions = if kind == LINK { 0o777 } else { (entry.mode & 0o7777) as u16 };
        node.mode = kind | permissions;
        node.uid = entry.uid;
        node.gid = entry.gid;
        node.mtime = entry.mtime;
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_kept(name, opened)) {
            if !is_plain_xattr(name.to_bytes(), value) {
                return Err(Stop::Unsupported("an attribute that only the kernel can judge"));
            }
            self.text += name.count_bytes() + value.len();
            node.xattrs.retain(|(other, _)| other != name);
            node.xattrs.push((name.clone(), value.clone()));
        }
        if self.text > MAX_TEXT {
            return Err(Stop::Unsupported("the size of the attributes"));
        }
        Ok(())
    }

    fn mark(&mut self, index: Index, change: impl FnOnce(&mut Directory)) {
        if let What::Directory(directory) = &mut self.nodes[index as usize].what {
            change(directory);
        }
    }

    pub(super) fn child(&self, parent: Index, name: &[u8]) -> Option<Index> {
        self.directory(parent)?.entries.get(name).copied()
    }

    /// The directory that `path` goes into, made as far as it is missing, and the last name.
    fn parent_of<'a>(&mut self, path: &'a Path) -> Result<(Index, &'a [u8]), Stop> {
        let wanted = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().unwrap_or_default().as_bytes();
        if let Some((known, index)) = &self.parent
            && known == wanted
        {
            return Ok((*index, name));
        }
        let index = match self.resolve(wanted) {
            Err(Errno::NOENT) => self.make_directories(wanted)?,
            other => other.map_err(|errno| refused("open directory", wanted, errno))?,
        };
        self.parent = Some((wanted.to_owned(), index));
        Ok((index, name))
    }

    fn make_directories(&mut self, path: &Path) -> Result<Index, Stop> {
        let mut at = ROOT;
        let mut so_far = PathBuf::new();
        let mut made = false;
        let mut links = 0;
        for name in path.iter() {
            so_far.push(name);
            // In a directory that was just made there is nothing to find. One step at a time: paths have thousands.
            let found = if made { Err(Errno::NOENT) } else { self.walk(at, name.as_bytes(), &mut links) };
            at = match found {
                // A link that leads nowhere is in the way.
                Err(Errno::NOENT) if self.child(at, name.as_bytes()).is_some() => {
                    return Err(refused("open directory", &so_far, Errno::NOENT));
                }
                Err(Errno::NOENT) => {
                    made = true;
                    self.imply(at, name.as_bytes())?
                }
                other => other.map_err(|errno| refused("open directory", &so_far, errno))?,
            };
        }
        Ok(at)
    }

    fn imply(&mut self, parent: Index, name: &[u8]) -> Result<Index, Stop> {
        let directory = self.made_in(parent, Node::new(DIRECTORY | 0o755, new_directory(parent)));
        let index = self.push(directory)?;
        self.enter(parent, name, index)?;
        Ok(index)
    }

    /// What nobody describes belongs to the group of a set-group-id directory, and hands that on.
    fn made_in(&self, parent: Index, mut node: Node) -> Node {
        const SET_GROUP_ID: u16 = 0o2000;
        let parent = self.node(parent);
        if parent.mode & SET_GROUP_ID != 0 {
            node.gid = parent.gid;
            if node.mode & 0o170_000 == DIRECTORY {
                node.mode |= SET_GROUP_ID;
            }
        }
        node
    }

    /// The directory that a path leads to, as for a process whose root this is.
    fn resolve(&self, path: &Path) -> Result<Index, Errno> {
        let path = path.as_os_str().as_bytes();
        if path.len() >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.walk(ROOT, path, &mut 0)
    }

    /// The directory that a path leads to from `at`; `links` counts those that were followed.
    fn walk(&self, mut at: Index, path: &[u8], links: &mut usize) -> Result<Index, Errno> {
        let mut rest = vec![path];
        while let Some(path) = rest.pop() {
            let slash = path.iter().position(|byte| *byte == b'/');
            let name = slash.map_or(path, |slash| &path[..slash]);
            if let Some(slash) = slash {
                rest.push(&path[slash + 1..]);
            }
            let directory = self.directory(at).ok_or(Errno::NOTDIR)?;
            match name {
                b"" | b"." => {}
                b".." => at = directory.parent,
                name if name.len() > MAX_NAME => return Err(Errno::NAMETOOLONG),
                name => {
                    let next = *directory.entries.get(name).ok_or(Errno::NOENT)?;
                    let What::Link(target) = &self.node(next).what else {
                        at = next;
                        continue;
                    };
                    *links += 1;
                    if *links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    rest.push(target);
                }
            }
        }
        self.directory(at).map(|_| at).ok_or(Errno::NOTDIR)
    }

    /// The directories that no entry described, with their paths. What is too deep for any path is left out. `None` if
    /// all these paths are too much to hold.
    pub(super) fn implied(&self) -> Option<Vec<(PathBuf, Index)>> {
        let mut found = Vec::new();
        let mut text = 0;
        let mut path = PathBuf::new();
        let mut stack = Vec::new();
        let mut enter = |index: Index, path: &Path| {
            let directory = self.directory(index)?;
            // Nothing is kept once it is too much.
            if directory.implied {
                text += path.as_os_str().len();
                if text <= MAX_TEXT {
                    found.push((path.to_owned(), index));
                }
            }
            Some(directory.entries.iter())
        };
        stack.extend(enter(ROOT, &path));
        while let Some(entries) = stack.last_mut() {
            let Some((name, index)) = entries.next() else {
                stack.pop();
                path.pop();
                continue;
            };
            if self.directory(*index).is_none() || path.as_os_str().len() + name.len() >= PATH_MAX {
                continue;
            }
            path.push(OsStr::from_bytes(name));
            stack.extend(enter(*index, &path));
        }
        (text <= MAX_TEXT).then_some(found)
    }
}

fn new_directory(parent: Index) -> What {
    What::Directory(Box::new(Directory { entries: BTreeMap::new(), parent, opaque: false, implied: true }))
}

/// The error the kernel would give.
fn refused(op: &'static str, path: &Path, errno: Errno) -> Stop {
    Stop::Failed(hostfs::Error::new(op, path, errno).into())
}

/// A device number as the kernel encodes it in 32 bits.
fn device(major: u32, minor: u32) -> Result<u32, Stop> {
    if major > 0xfff || minor > 0xf_ffff {
        return Err(Stop::Unsupported("a device number that the kernel would cut"));
    }
    Ok((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// Whether the kernel would keep an attribute exactly as it is. It refuses or rewrites some.
fn is_plain_xattr(name: &[u8], value: &[u8]) -> bool {
    /// The highest byte of the first word; others are refused, rewritten or of another size.
    const REVISION_2: u8 = 2;
    let fits = name.len() <= 255 && value.len() <= usize::from(u16::MAX);
    let free = |prefix: &[u8]| name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty());
    let capability = name == b"security.capability" && value.len() == 20 && value[3] == REVISION_2;
    fits && (free(b"user.") || free(b"trusted.") || capability)
}
