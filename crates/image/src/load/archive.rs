//! What an archive holds, by entry name.

use std::collections::HashMap;
use std::io::{self, BufRead, Read};
use std::path::Path;

use wharf_content::spec::MAX_DOCUMENT;
use wharf_model::Digest;

use crate::commit::LayerSource;
use crate::compress::Compression;
use crate::records::{self, LayerBlobRow};
use crate::stage::{self, StagedLayer, read_chunk};
use crate::tar::{Kind, Reader, TarError, looks_like_tar};
use crate::unpack::{broken, clean};
use crate::{Error, Inner, LoadProgress, Result};

/// All small files of an archive together have at most this many bytes.
const MAX_DOCUMENTS: usize = 64 << 20;
/// Links that lead to links.
const MAX_HOPS: usize = 8;

/// One entry of an archive.
enum Item {
    /// A small file.
    Document(Vec<u8>),
    /// A layer, in the list of staged ones.
    Staged(usize),
    /// A layer whose blob was in the store before.
    Stored(LayerBlobRow),
    /// A link to another entry, as old archives have for layers that images share.
    Link(String),
    /// Something that cannot be used, and why. No error unless a manifest asks for it.
    Unusable(Error),
}

/// An archive that was read to its end.
pub(super) struct Archive {
    items: HashMap<String, Item>,
    staged: Vec<StagedLayer>,
}

impl Archive {
    /// Reads all entries.
    pub(super) fn read<R: BufRead>(
        inner: &Inner,
        input: R,
        on: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self> {
        let mut archive = Self { items: HashMap::new(), staged: Vec::new() };
        let mut reader = Reader::new(input);
        let mut document_bytes = 0;
        let mut entries = 0_u64;
        while let Some(entry) = reader.next_entry().map_err(broken)? {
            entries += 1;
            if entries > inner.limits.archive_entries {
                return Err(Error::limit(
                    "the number of entries in an archive",
                    inner.limits.archive_entries,
                ));
            }
            let name = name_of(&entry.path).map_err(|error| error.in_entry(&entry.path))?;
            let item = match &entry.kind {
                Kind::Directory => continue,
                Kind::File { size, pieces: None } => archive
                    .take_file(inner, &name, *size, &mut reader, on)
                    .map_err(|e| e.in_entry(&entry.path))?,
                Kind::Symlink(target) => {
                    let target = relative(&name, target);
                    target.map_or_else(Item::Unusable, Item::Link)
                }
                Kind::HardLink(target) => name_of(target).map_or_else(Item::Unusable, Item::Link),
                _ => Item::Unusable(Error::entry("neither a file nor a link")),
            };
            if let Item::Document(bytes) = &item {
                document_bytes += bytes.len();
            }
            if document_bytes > MAX_DOCUMENTS || archive.items.len() > inner.limits.documents {
                return Err(Error::limit(
                    "the number or size of the manifests in an archive",
                    MAX_DOCUMENTS as u64,
                ));
            }
            if archive.items.insert(name, item).is_some() {
                return Err(Error::entry("it is there twice").in_entry(&entry.path));
            }
        }
        drain(reader)?;
        Ok(archive)
    }

    fn take_file<R: BufRead>(
        &mut self,
        inner: &Inner,
        name: &str,
        size: u64,
        reader: &mut Reader<R>,
        on: &mut dyn FnMut(LoadProgress),
    ) -> Result<Item> {
        let stated = stated_digest(name);
        if let Some(row) = known_blob(inner, stated, size)? {
            return Ok(Item::Stored(row));
        }
        let mut input = EntryData { reader };
        let first = read_chunk(&mut input)?;
        let compression = match Compression::detect(&first, name) {
            Ok(compression) => compression,
            Err(error) => return Ok(Item::Unusable(error)),
        };
        if compression == Compression::None && !looks_like_tar(&first) {
            return take_document(first, &mut input, size, stated);
        }
        let layer = short_id(name);
        let taken = stage::take_layer(
            inner.store.ingest()?,
            inner.stage_directory()?,
            first,
            &mut input,
            compression,
            &inner.limits,
            &mut |current| on(LoadProgress { layer: layer.clone(), current, total: size }),
        );
        match taken {
            Ok(staged) => {
                check_digest(stated, *staged.blob.digest())?;
                self.staged.push(staged);
                Ok(Item::Staged(self.staged.len() - 1))
            }
            // Bad content is an error only if it is used; the rest of the archive may be read on.
            Err(error @ (Error::Archive { .. } | Error::Limit { .. })) if input.is_sound() => {
                Ok(Item::Unusable(error.in_layer(name)))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.items.contains_key(name)
    }

    pub(super) fn into_staged(self) -> Vec<StagedLayer> {
        self.staged
    }

    /// A small file.
    pub(super) fn document(&mut self, name: &str) -> Result<&[u8]> {
        let name = self.follow(name)?;
        if !matches!(self.items.get(&name), Some(Item::Document(_))) {
            return Err(self.unusable(&name, "a document"));
        }
        match self.items.get(&name) {
            Some(Item::Document(bytes)) => Ok(bytes),
            _ => Ok(&[]),
        }
    }

    /// The document whose digest this is.
    pub(super) fn blob(&mut self, digest: &Digest) -> Result<&[u8]> {
        self.document(&blob_name(digest))
    }

    /// Where the layer is that a manifest calls by this name.
    pub(super) fn layer(&mut self, name: &str) -> Result<LayerSource> {
        let name = self.follow(name)?;
        match self.items.get(&name) {
            Some(Item::Staged(index)) => Ok(LayerSource::Staged(*index)),
            Some(Item::Stored(row)) => Ok(LayerSource::Stored(row.clone())),
            _ => Err(self.unusable(&name, "a layer")),
        }
    }

    /// The uncompressed digest of a layer.
    pub(super) fn diff_id(&self, source: &LayerSource) -> Digest {
        match source {
            LayerSource::Staged(index) => self.staged[*index].diff_id,
            LayerSource::Stored(row) => row.diff,
        }
    }

    /// The media type a layer's bytes have, and how many they are.
    pub(super) fn layer_blob<'a>(&'a self, source: &'a LayerSource) -> (Digest, &'a str, u64) {
        match source {
            LayerSource::Staged(index) => {
                let layer = &self.staged[*index];
                (*layer.blob.digest(), layer.compression.layer_media_type(), layer.blob.size())
            }
            LayerSource::Stored(row) => (row.digest, &row.media_type, row.size),
        }
    }

    /// The entry that a name leads to.
    fn follow(&self, name: &str) -> Result<String> {
        let mut name = name_of(name.as_bytes()).map_err(|error| error.in_entry(name.as_bytes()))?;
        for _ in 0..MAX_HOPS {
            match self.items.get(&name) {
                Some(Item::Link(target)) => name.clone_from(target),
                _ => return Ok(name),
            }
        }
        Err(Error::archive("invalid archive", format!("{name:?} is a link in a circle")))
    }

    fn unusable(&mut self, name: &str, wanted: &str) -> Error {
        match self.items.remove(name) {
            Some(Item::Unusable(error)) => error.in_entry(name.as_bytes()),
            Some(_) => Error::archive("invalid archive", format!("{name:?} is not {wanted}")),
            None => {
                Error::archive("invalid archive", format!("{name:?} is missing; the archive is incomplete"))
            }
        }
    }
}

/// What follows the last entry is read too: a client that still sends must not see a broken pipe.
fn drain<R: BufRead>(reader: Reader<R>) -> Result<()> {
    let has_end_mark = reader.has_end_mark();
    io::copy(&mut reader.into_inner(), &mut io::sink()).map_err(Error::input)?;
    if has_end_mark {
        Ok(())
    } else {
        Err(Error::archive("invalid archive", "it has no end mark: it was cut off"))
    }
}

/// A file that is no layer: kept if it can be a manifest or config.
fn take_document(
    first: Vec<u8>,
    input: &mut EntryData<'_, impl BufRead>,
    size: u64,
    stated: Option<Digest>,
) -> Result<Item> {
    if size > MAX_DOCUMENT {
        let reason =
            format!("{size} bytes, more than the {MAX_DOCUMENT} a manifest may have, and it is no tar");
        return Ok(Item::Unusable(Error::entry(&reason)));
    }
    let mut bytes = first;
    input.read_to_end(&mut bytes).map_err(Error::input)?;
    check_digest(stated, wharf_content::digest_of(&bytes))?;
    Ok(Item::Document(bytes))
}

fn check_digest(stated: Option<Digest>, found: Digest) -> Result<()> {
    match stated {
        Some(expected) if expected != found => {
            Err(Error::Mismatch { what: "archived content".to_owned(), expected, found })
        }
        _ => Ok(()),
    }
}

/// A layer of this digest that need not be read again.
fn known_blob(inner: &Inner, stated: Option<Digest>, size: u64) -> Result<Option<LayerBlobRow>> {
    let Some(digest) = stated else { return Ok(None) };
    let Some(row) = inner.db.read(|conn| records::layer_blob(conn, &digest))? else { return Ok(None) };
    let whole = row.size == size && inner.store.size(&digest)? == Some(size);
    Ok(whole.then_some(row))
}

/// An entry's name as a key: no `..`, no empty parts, valid UTF-8.
fn name_of(written: &[u8]) -> Result<String> {
    let path = clean(written).map_err(Error::entry)?;
    path.into_os_string().into_string().map_err(|_| Error::entry("its name is not UTF-8"))
}

/// The entry a link in `from` leads to. Only as a key: `..` steps up within the archive and not out of it.
fn relative(from: &str, target: &[u8]) -> Result<String> {
    let outside = || Error::entry("a link out of the archive");
    let target = std::str::from_utf8(target).map_err(|_| outside())?;
    if target.starts_with('/') {
        return Err(outside());
    }
    let parent = Path::new(from).parent().and_then(Path::to_str).unwrap_or_default();
    let mut parts: Vec<&str> = parent.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(outside)?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// The digest that an image layout gives a file by its name.
fn stated_digest(name: &str) -> Option<Digest> {
    Digest::from_hex(name.strip_prefix("blobs/sha256/")?).ok()
}

/// The name of a blob in an image layout.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// What to call a layer while its digest is not known yet.
fn short_id(name: &str) -> String {
    let part = match name.strip_prefix("blobs/sha256/") {
        Some(hex) => hex,
        None => name.split('/').next().unwrap_or(name),
    };
    part.chars().take(12).collect()
}

/// The data of the current entry as a stream of its own.
struct EntryData<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<R: BufRead> EntryData<'_, R> {
    /// Whether the archive itself can still be read: then an error was about this entry's content only.
    fn is_sound(&mut self) -> bool {
        self.reader.chunk().is_ok()
    }
}

fn to_io(error: TarError) -> io::Error {
    match error {
        TarError::Read(error) => error,
        malformed @ TarError::Malformed { .. } => {
            io::Error::new(io::ErrorKind::InvalidData, malformed.to_string())
        }
    }
}

impl<R: BufRead> BufRead for EntryData<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.chunk().map_err(to_io)
    }

    fn consume(&mut self, taken: usize) {
        self.reader.advance(taken);
    }
}

impl<R: BufRead> Read for EntryData<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let chunk = self.fill_buf()?;
        let taken = chunk.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&chunk[..taken]);
        self.consume(taken);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_within_the_archive() {
        assert_eq!(relative("a/layer.tar", b"../b/layer.tar").unwrap(), "b/layer.tar");
        assert_eq!(relative("layer.tar", b"./b/layer.tar").unwrap(), "b/layer.tar");
        assert!(relative("a/layer.tar", b"../../etc/shadow").is_err());
        assert!(relative("a/layer.tar", b"/etc/shadow").is_err());
    }
}
