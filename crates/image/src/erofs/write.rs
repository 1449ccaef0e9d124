//! A [`Tree`] becomes the part of an image that follows the tar stream: directories and long links in blocks of their
//! own, then the table of inodes with what is small enough to lie behind its inode.

use std::io::{self, Write};
use std::ops::Bound;
use std::path::PathBuf;

use super::format::{
    BLOCK, Data, DirectorySize, Dirent, INODE, Inode, Nid, SLOT, Superblock, file_type, write_directory,
    xattrs,
};
use super::tree::{Directory, Index, Node, ROOT, Tree, What};

/// The first inode: a slot number of zero would give the root directory the number zero, which means none to programs.
const FIRST: u64 = INODE as u64;
const OPAQUE: (&[u8], &[u8]) = (b"trusted.overlay.opaque", b"y");

/// An image whose places are all decided.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    tree: &'a Tree,
    /// In the order they are written: a directory's entries lie together.
    inodes: Vec<Placed>,
    /// By node; zero for those without a name.
    nids: Vec<Nid>,
    /// Where the stream's first byte lies in the image.
    stream_at: u64,
    table: u64,
    end: u64,
    /// Bytes of all files and links, each counted once.
    pub(super) size: u64,
}

#[derive(Debug)]
struct Placed {
    index: Index,
    /// Counted from the table.
    at: u64,
    data: Data,
    xattrs: usize,
    size: u64,
}

impl<'a> Plan<'a> {
    /// Decides all places of an image whose stream lies from `stream_at` to `blocks_at`, both at blocks. `None` if it
    /// is more than the format can address.
    pub(super) fn new(tree: &'a Tree, stream_at: u64, blocks_at: u64) -> Option<Self> {
        let mut plan = Self {
            tree,
            inodes: Vec::new(),
            nids: vec![0; tree.len()],
            stream_at,
            table: blocks_at,
            end: FIRST,
            size: 0,
        };
        plan.place(ROOT)?;
        let mut next = 0;
        while let Some(index) = plan.inodes.get(next).map(|placed| placed.index) {
            next += 1;
            for child in tree.directory(index).into_iter().flat_map(|directory| directory.entries.values()) {
                if plan.nids[*child as usize] == 0 {
                    plan.place(*child)?;
                }
            }
        }
        plan.end = (plan.table + plan.end).next_multiple_of(4096);
        block_of(plan.end)?;
        Some(plan)
    }

    fn place(&mut self, index: Index) -> Option<()> {
        let node = self.tree.node(index);
        let xattrs = xattrs_of(node)?.len();
        let size = match &node.what {
            What::Directory(directory) => directory_size(directory),
            What::File { size, .. } => *size,
            What::Link(target) => target.len() as u64,
            What::Device(_) => 0,
        };
        let mut at = self.end.next_multiple_of(INODE as u64);
        let data = match &node.what {
            What::Device(number) => Data::Device(*number),
            What::File { at, .. } => Data::At(block_of(self.stream_at + at)?),
            What::Directory(_) | What::Link(_) => {
                let fixed = INODE + xattrs;
                if let Some(fitting) = inline_at(at, fixed as u64, size) {
                    at = fitting;
                    Data::Inline
                } else {
                    let block = block_of(self.table)?;
                    self.table += size.next_multiple_of(BLOCK as u64);
                    Data::At(block)
                }
            }
        };
        let inline = if data == Data::Inline { size } else { 0 };
        self.end = at + (INODE + xattrs) as u64 + inline;
        self.nids[index as usize] = Nid::try_from(at / SLOT).ok()?;
        if !matches!(node.what, What::Directory(_)) {
            self.size += size;
        }
        self.inodes.push(Placed { index, at, data, xattrs, size });
        Some(())
    }

    /// Writes everything that follows the stream.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for placed in self.inodes.iter().filter(|placed| matches!(placed.data, Data::At(_))) {
            let node = self.tree.node(placed.index);
            if matches!(node.what, What::Directory(_) | What::Link(_)) {
                self.write_content(placed, out)?;
                let used = usize::try_from(placed.size).unwrap_or(0);
                zeros(out, used.next_multiple_of(BLOCK) - used)?;
            }
        }
        let mut written = 0;
        for (serial, placed) in self.inodes.iter().enumerate() {
            let node = self.tree.node(placed.index);
            zeros(out, usize::try_from(placed.at - written).unwrap_or(0))?;
            let inode = Inode {
                mode: node.mode,
                uid: node.uid,
                gid: node.gid,
                mtime: node.mtime,
                links: self.links(node),
                size: placed.size,
                data: placed.data,
                xattrs: placed.xattrs,
                serial: serial as u32 + 1,
            };
            out.write_all(&inode.to_bytes())?;
            out.write_all(&xattrs_of(node).unwrap_or_default())?;
            written = placed.at + (INODE + placed.xattrs) as u64;
            if placed.data == Data::Inline {
                self.write_content(placed, out)?;
                written += placed.size;
            }
        }
        zeros(out, usize::try_from(self.end - self.table - written).unwrap_or(0))
    }

    pub(super) fn superblock(&self, uuid: [u8; 16]) -> Superblock {
        Superblock {
            // The first of all inodes: within the first blocks.
            root: self.nids[ROOT as usize] as u16,
            inodes: self.inodes.len() as u64,
            blocks: block_of(self.end).unwrap_or(u32::MAX),
            table: block_of(self.table).unwrap_or(u32::MAX),
            uuid,
        }
    }

    /// The directories that no entry described, and where in the image their inodes are.
    pub(super) fn implied(&self) -> Option<Vec<(PathBuf, u64)>> {
        let place = |index: Index| self.table + u64::from(self.nids[index as usize]) * SLOT;
        Some(self.tree.implied()?.into_iter().map(|(path, index)| (path, place(index))).collect())
    }

    fn write_content(&self, placed: &Placed, out: &mut dyn Write) -> io::Result<()> {
        match &self.tree.node(placed.index).what {
            What::Link(target) => out.write_all(target),
            What::Directory(directory) => {
                let entries = names(directory).map(|(name, own)| {
                    let index = match own {
                        Some(index) => index,
                        None if name == b"." => placed.index,
                        None => directory.parent,
                    };
                    let file_type = file_type(self.tree.node(index).mode);
                    Dirent { name, nid: self.nids[index as usize], file_type }
                });
                write_directory(entries, out)
            }
            _ => Ok(()),
        }
    }

    fn links(&self, node: &Node) -> u32 {
        match &node.what {
            What::Directory(directory) => {
                let below = directory.entries.values().filter(|child| self.tree.directory(**child).is_some());
                2 + below.count() as u32
            }
            _ => node.links,
        }
    }
}

/// The names of a directory in order, its own and its parent's among them.
fn names(directory: &Directory) -> impl Iterator<Item = (&[u8], Option<Index>)> {
    const SELF: &[u8] = b".";
    const PARENT: &[u8] = b"..";
    let between = |from: Bound<&'static [u8]>, to: Bound<&'static [u8]>| {
        directory.entries.range::<[u8], _>((from, to)).map(|(name, index)| (&**name, Some(*index)))
    };
    between(Bound::Unbounded, Bound::Excluded(SELF))
        .chain([(SELF, None)])
        .chain(between(Bound::Excluded(SELF), Bound::Excluded(PARENT)))
        .chain([(PARENT, None)])
        .chain(between(Bound::Excluded(PARENT), Bound::Unbounded))
}

fn directory_size(directory: &Directory) -> u64 {
    let mut size = DirectorySize::default();
    names(directory).for_each(|(name, _)| size.add(name));
    size.bytes()
}

/// Where an inode of `fixed` bytes can lie from `at` on, so that `size` bytes behind it are all in one block.
fn inline_at(at: u64, fixed: u64, size: u64) -> Option<u64> {
    let block = BLOCK as u64;
    let fits = |at: u64| (at + fixed) % block + size <= block;
    [at, at.next_multiple_of(block)].into_iter().find(|at| fits(*at))
}

fn xattrs_of(node: &Node) -> Option<Vec<u8>> {
    let opaque = matches!(&node.what, What::Directory(directory) if directory.opaque);
    let own = node.xattrs.iter().map(|(name, value)| (name.to_bytes(), value.as_slice()));
    xattrs(own.chain(opaque.then_some(OPAQUE)))
}

fn block_of(at: u64) -> Option<u32> {
    // The highest number means a hole.
    u32::try_from(at / BLOCK as u64).ok().filter(|block| *block != u32::MAX)
}

fn zeros(out: &mut dyn Write, mut count: usize) -> io::Result<()> {
    while count > 0 {
        let part = count.min(BLOCK);
        out.write_all(&[0; BLOCK][..part])?;
        count -= part;
    }
    Ok(())
}
