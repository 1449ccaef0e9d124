//! Names: what a name or id means, tags, lists and history.

use std::collections::HashMap;

use wharf_model::{Digest, Reference};
use wharf_state::rusqlite::Connection;

use crate::records::{self, ImageRow, NameRow};
use crate::transfer::Wanted as WantedPlatform;
use crate::{Error, HistoryEntry, Image, Images, Inner, Result};

impl Images {
    /// Gives an image another name; returns the image that had the name before, if it was another one.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Invalid`] when the new name has a digest.
    pub fn tag(&self, source: &str, target: &Reference) -> Result<Option<Digest>> {
        if target.digest().is_some() {
            return Err(Error::Invalid("refusing to create a tag with a digest reference".to_owned()));
        }
        let target = target.clone().or_latest();
        let _commit = self.inner.commit_lock();
        let before = self.inner.db.write(|tx| {
            let image = find(tx, source)?;
            // A copy of a name means the same manifest.
            let named = Reference::parse_normalized(source).ok().map(Reference::or_latest);
            let named = named.map(|name| records::name(tx, &name)).transpose()?.flatten();
            let manifest = named.filter(|row| row.image == image.id).and_then(|row| row.manifest);
            records::set_name(tx, &target, &image.id, manifest.as_ref())
        })?;
        // What is answered is there after a power cut too.
        self.inner.db.sync()?;
        self.inner.write_index()?;
        Ok(before)
    }

    /// The image that a name, an id or an unambiguous start of an id means.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Reference`] when `name` can be no image's.
    pub fn resolve(&self, name: &str) -> Result<Image> {
        let (row, names) = self.inner.db.read(|conn| {
            let row = find(conn, name)?;
            let names = records::names_of(conn, &row.id)?;
            Ok::<_, Error>((row, names))
        })?;
        self.inner.image(row, names)
    }

    /// The image that a name means, if it is of a platform.
    ///
    /// # Errors
    /// As [`Images::resolve`], and [`Error::OtherPlatform`].
    pub fn resolve_on(&self, name: &str, platform: Option<&str>) -> Result<Image> {
        let image = self.resolve(name)?;
        let Some(text) = platform.filter(|text| !text.is_empty()) else { return Ok(image) };
        let wanted = WantedPlatform::parse(Some(text))?;
        let documents = self.inner.documents(&image.id)?;
        if wanted.is(&documents.os, &documents.architecture, &documents.variant) {
            return Ok(image);
        }
        let name = Reference::parse_normalized(name)
            .map_or_else(|_| name.to_owned(), |name| name.or_latest().familiar());
        Err(Error::OtherPlatform { name, found: documents.platform(), wanted: text.to_owned() })
    }

    /// Every image, newest first, those without a name too. One whose config cannot be read is left out, so that the
    /// others can still be seen.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn list(&self) -> Result<Vec<Image>> {
        let (rows, names) =
            self.inner.db.read(|conn| Ok::<_, Error>((records::images(conn)?, records::names(conn)?)))?;
        let mut by_image: HashMap<Digest, Vec<NameRow>> = HashMap::new();
        for name in names {
            by_image.entry(name.image).or_default().push(name);
        }
        let mut images = Vec::with_capacity(rows.len());
        for row in rows {
            let names = by_image.remove(&row.id).unwrap_or_default();
            let id = row.id;
            match self.inner.image(row, names) {
                Ok(image) => images.push(image),
                Err(error) => tracing::error!("image {id} cannot be read: {error}"),
            }
        }
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(images)
    }

    /// The steps that made an image, newest first.
    ///
    /// # Errors
    /// As [`Images::resolve`].
    pub fn history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        let image = self.resolve(name)?;
        let mut sizes =
            self.inner.db.read(|conn| match records::image(conn, &image.id)?.and_then(|row| row.top) {
                Some(top) => {
                    Ok::<_, Error>(records::chain_of(conn, &top)?.iter().map(|layer| layer.size).collect())
                }
                None => Ok(Vec::new()),
            })?;
        // Topmost first there, base first here.
        let mut entries = Vec::new();
        for step in image.config.history().iter().flatten() {
            let adds_layer = !step.empty_layer().unwrap_or(false);
            entries.push(HistoryEntry {
                id: None,
                created: step.created().as_deref().and_then(|text| text.parse().ok()),
                created_by: step.created_by().clone().unwrap_or_default(),
                comment: step.comment().clone().unwrap_or_default(),
                size: if adds_layer { sizes.pop().unwrap_or(0) } else { 0 },
                tags: Vec::new(),
            });
        }
        entries.reverse();
        if let Some(newest) = entries.first_mut() {
            newest.id = Some(image.id);
            newest.tags = image.references;
        }
        Ok(entries)
    }
}

impl Inner {
    pub(crate) fn image(&self, row: ImageRow, names: Vec<NameRow>) -> Result<Image> {
        let documents = self.documents(&row.id)?;
        let tagged = names.iter().filter_map(|name| name.tagged).max();
        let (repo_digests, references) =
            names.into_iter().map(|name| name.name).partition(|name| name.digest().is_some());
        Ok(Image {
            id: row.id,
            references,
            repo_digests,
            config: documents.config.clone(),
            docker: documents.docker.clone(),
            created: documents.created,
            tagged,
            size: row.size,
            manifest: row.manifest,
            diff_ids: documents.diff_ids.clone(),
        })
    }
}

/// What a user typed to mean an image.
enum Wanted {
    Id(Digest),
    Named(Reference),
}

fn parse_wanted(name: &str) -> Result<Wanted> {
    if let Ok(id) = name.parse().or_else(|_| Digest::from_hex(name)) {
        return Ok(Wanted::Id(id));
    }
    Ok(Wanted::Named(Reference::parse_normalized(name)?.or_latest()))
}

/// The image `name` means: a full id, else a name, else the start of an id.
pub(crate) fn find(conn: &Connection, name: &str) -> Result<ImageRow> {
    let named = match parse_wanted(name)? {
        Wanted::Id(id) => {
            return records::image(conn, &id)?.ok_or_else(|| Error::NotFound(id.to_string()));
        }
        Wanted::Named(named) => named,
    };
    let exact = match named.digest() {
        // With both, the digest decides.
        Some(digest) => named.with_digest(*digest),
        None => named.clone(),
    };
    if let Some(id) = records::target(conn, &exact)? {
        let missing = || Error::Damaged(format!("{} names an image that is not there", named.familiar()));
        return records::image(conn, &id)?.ok_or_else(missing);
    }
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    if !hex.is_empty() && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        let mut found = records::images_by_prefix(conn, hex)?;
        if found.len() == 1
            && let Some(row) = found.pop()
        {
            return Ok(row);
        }
    }
    Err(Error::NotFound(named.familiar()))
}

/// Whether `name` means this image by its id rather than by a name of it.
pub(crate) fn is_id(id: &Digest, name: &str) -> bool {
    id.to_string().starts_with(name) || id.hex().starts_with(name)
}
