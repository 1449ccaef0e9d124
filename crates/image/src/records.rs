//! The rows: images, names, layers, snapshots.
//!
//! Reachability is decided here and nowhere else: a layer is needed while an image or a snapshot stands on it or on a
//! layer above it, a blob while an image lists it. Rows go first, bytes later.
//!
//! One image may have come with several manifests (the same layers, compressed otherwise): `manifests` has all of
//! them, `images.manifest` the first, and `names.manifest` the one a name was given with, which is the one that is
//! pushed under that name.

use std::collections::HashSet;

use jiff::Timestamp;
use wharf_model::{Digest, Reference};
use wharf_state::Database;
use wharf_state::rusqlite::{Connection, OptionalExtension, Row, Transaction};

use crate::layer::Format;
use crate::{Error, Result};

const STEPS: &[&str] = &[
    "
    CREATE TABLE layers (
        chain TEXT PRIMARY KEY,
        diff TEXT NOT NULL,
        parent TEXT REFERENCES layers (chain),
        directory INTEGER NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        opaque INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX layers_parent ON layers (parent);
    CREATE TABLE images (
        id TEXT PRIMARY KEY,
        manifest TEXT NOT NULL,
        manifest_type TEXT NOT NULL,
        manifest_size INTEGER NOT NULL,
        top TEXT REFERENCES layers (chain),
        size INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX images_top ON images (top);
    CREATE TABLE image_blobs (
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        digest TEXT NOT NULL,
        PRIMARY KEY (image, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX image_blobs_digest ON image_blobs (digest);
    CREATE TABLE layer_blobs (
        digest TEXT PRIMARY KEY,
        diff TEXT NOT NULL,
        media_type TEXT NOT NULL,
        size INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE names (
        name TEXT PRIMARY KEY,
        image TEXT NOT NULL REFERENCES images (id),
        tagged INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX names_image ON names (image);
    CREATE TABLE snapshots (
        key TEXT PRIMARY KEY,
        directory INTEGER NOT NULL UNIQUE,
        top TEXT REFERENCES layers (chain)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX snapshots_top ON snapshots (top);
",
    "
    ALTER TABLE layers ADD COLUMN format TEXT NOT NULL DEFAULT 'directory';
",
    "
    CREATE TABLE manifests (
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        digest TEXT NOT NULL,
        media_type TEXT NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (image, digest)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO manifests SELECT id, manifest, manifest_type, manifest_size FROM images;
    ALTER TABLE names ADD COLUMN manifest TEXT;
",
    "
    CREATE TABLE retired (
        directory INTEGER PRIMARY KEY,
        chain TEXT NOT NULL
    ) STRICT;
    ALTER TABLE images ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
",
];

/// An image without its documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageRow {
    pub(crate) id: Digest,
    pub(crate) manifest: Digest,
    pub(crate) manifest_type: String,
    pub(crate) manifest_size: u64,
    pub(crate) top: Option<Digest>,
    pub(crate) size: u64,
}

/// A manifest that describes an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestRow {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) size: u64,
}

/// A layer whose files are in `snapshots/<directory>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerRow {
    pub(crate) chain: Digest,
    pub(crate) diff: Digest,
    pub(crate) parent: Option<Digest>,
    pub(crate) directory: i64,
    pub(crate) size: u64,
    /// It hides everything below.
    pub(crate) opaque: bool,
    pub(crate) format: Format,
}

/// A layer's blob and what it decompresses to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerBlobRow {
    pub(crate) digest: Digest,
    pub(crate) diff: Digest,
    pub(crate) media_type: String,
    pub(crate) size: u64,
}

/// A name that points at an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameRow {
    pub(crate) name: Reference,
    pub(crate) image: Digest,
    pub(crate) tagged: Option<Timestamp>,
    /// The manifest it was given with, if that is another than the image's first.
    pub(crate) manifest: Option<Digest>,
}

/// A container's writable directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotRow {
    pub(crate) directory: i64,
    pub(crate) top: Option<Digest>,
}

pub(crate) fn migrate(db: &Database) -> Result<()> {
    Ok(db.migrate("image", STEPS)?)
}

fn digest(text: &str) -> Result<Digest> {
    text.parse().map_err(|error| Error::Damaged(format!("the state database holds a bad digest: {error}")))
}

fn optional_digest(text: Option<String>) -> Result<Option<Digest>> {
    text.map(|text| digest(&text)).transpose()
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

const IMAGE: &str = "SELECT id, manifest, manifest_type, manifest_size, top, size FROM images";

fn image_row(row: &Row<'_>) -> Result<ImageRow> {
    Ok(ImageRow {
        id: digest(&row.get::<_, String>(0)?)?,
        manifest: digest(&row.get::<_, String>(1)?)?,
        manifest_type: row.get(2)?,
        manifest_size: unsigned(row.get(3)?),
        top: optional_digest(row.get(4)?)?,
        size: unsigned(row.get(5)?),
    })
}

fn layer_row(row: &Row<'_>) -> Result<LayerRow> {
    Ok(LayerRow {
        chain: digest(&row.get::<_, String>(0)?)?,
        diff: digest(&row.get::<_, String>(1)?)?,
        parent: optional_digest(row.get(2)?)?,
        directory: row.get(3)?,
        size: unsigned(row.get(4)?),
        opaque: row.get(5)?,
        format: Format::parse(&row.get::<_, String>(6)?)?,
    })
}

/// Runs a query and turns its rows into values.
fn collect<T>(
    conn: &Connection,
    sql: &str,
    params: impl wharf_state::rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut values = Vec::new();
    while let Some(row) = rows.next()? {
        values.push(read(row)?);
    }
    Ok(values)
}

pub(crate) fn images(conn: &Connection) -> Result<Vec<ImageRow>> {
    collect(conn, IMAGE, [], image_row)
}

pub(crate) fn image(conn: &Connection, id: &Digest) -> Result<Option<ImageRow>> {
    let found = collect(conn, &format!("{IMAGE} WHERE id = ?1"), [id.to_string()], image_row)?;
    Ok(found.into_iter().next())
}

/// Somebody uses an image now.
pub(crate) fn touch(conn: &Connection, image: &Digest) -> Result<()> {
    conn.prepare_cached("UPDATE images SET used = ?2 WHERE id = ?1")?.execute((image.to_string(), now()))?;
    Ok(())
}

fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// All images, the one that was used longest ago first. To be given a name is a use.
pub(crate) fn by_last_use(conn: &Connection) -> Result<Vec<Digest>> {
    let sql = "SELECT id FROM images i
               ORDER BY MAX(used, COALESCE((SELECT MAX(tagged) FROM names n WHERE n.image = i.id), 0)), id";
    collect(conn, sql, [], |row| digest(&row.get::<_, String>(0)?))
}

/// The images whose hexadecimal id begins with `hex`, two at most.
pub(crate) fn images_by_prefix(conn: &Connection, hex: &str) -> Result<Vec<ImageRow>> {
    // Every id has the same prefix; the upper end is the first text that no longer begins with `hex`.
    let from = format!("{}:{hex}", Digest::ALGORITHM);
    let to = format!("{from}g");
    collect(conn, &format!("{IMAGE} WHERE id >= ?1 AND id < ?2 LIMIT 2"), [from, to], image_row)
}

pub(crate) fn insert_image(tx: &Transaction<'_>, image: &ImageRow, blobs: &[Digest]) -> Result<()> {
    tx.execute(
        "INSERT INTO images (id, manifest, manifest_type, manifest_size, top, size)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (
            image.id.to_string(),
            image.manifest.to_string(),
            &image.manifest_type,
            signed(image.manifest_size),
            image.top.map(|top| top.to_string()),
            signed(image.size),
        ),
    )?;
    let manifest = ManifestRow {
        digest: image.manifest,
        media_type: image.manifest_type.clone(),
        size: image.manifest_size,
    };
    insert_manifest(tx, &image.id, &manifest, blobs)
}

/// Adds a manifest to an image, and the blobs it needs.
pub(crate) fn insert_manifest(
    tx: &Transaction<'_>,
    image: &Digest,
    manifest: &ManifestRow,
    blobs: &[Digest],
) -> Result<()> {
    tx.execute(
        "INSERT OR IGNORE INTO manifests (image, digest, media_type, size) VALUES (?1, ?2, ?3, ?4)",
        (image.to_string(), manifest.digest.to_string(), &manifest.media_type, signed(manifest.size)),
    )?;
    for blob in blobs {
        tx.execute(
            "INSERT OR IGNORE INTO image_blobs (image, digest) VALUES (?1, ?2)",
            (image.to_string(), blob.to_string()),
        )?;
    }
    Ok(())
}

/// One of an image's manifests.
pub(crate) fn manifest(conn: &Connection, image: &Digest, manifest: &Digest) -> Result<Option<ManifestRow>> {
    let sql = "SELECT digest, media_type, size FROM manifests WHERE image = ?1 AND digest = ?2";
    let found = collect(conn, sql, [image.to_string(), manifest.to_string()], |row| {
        Ok(ManifestRow {
            digest: digest(&row.get::<_, String>(0)?)?,
            media_type: row.get(1)?,
            size: unsigned(row.get(2)?),
        })
    })?;
    Ok(found.into_iter().next())
}

pub(crate) fn delete_image(tx: &Transaction<'_>, id: &Digest) -> Result<()> {
    tx.execute("DELETE FROM images WHERE id = ?1", [id.to_string()])?;
    tx.execute("DELETE FROM layer_blobs WHERE digest NOT IN (SELECT digest FROM image_blobs)", [])?;
    Ok(())
}

pub(crate) fn is_needed(conn: &Connection, blob: &Digest) -> Result<bool> {
    let mut statement = conn.prepare_cached("SELECT 1 FROM image_blobs WHERE digest = ?1")?;
    Ok(statement.exists([blob.to_string()])?)
}

pub(crate) fn layer(conn: &Connection, chain: &Digest) -> Result<Option<LayerRow>> {
    let sql = "SELECT chain, diff, parent, directory, size, opaque, format FROM layers WHERE chain = ?1";
    Ok(collect(conn, sql, [chain.to_string()], layer_row)?.into_iter().next())
}

/// Every layer.
pub(crate) fn layers(conn: &Connection) -> Result<Vec<LayerRow>> {
    collect(conn, "SELECT chain, diff, parent, directory, size, opaque, format FROM layers", [], layer_row)
}

/// The layer `top` and those below it, topmost first.
pub(crate) fn chain_of(conn: &Connection, top: &Digest) -> Result<Vec<LayerRow>> {
    let sql = "
        WITH RECURSIVE down (chain, diff, parent, directory, size, opaque, format, depth) AS (
            SELECT chain, diff, parent, directory, size, opaque, format, 0 FROM layers WHERE chain = ?1
            UNION ALL
            SELECT l.chain, l.diff, l.parent, l.directory, l.size, l.opaque, l.format, depth + 1
            FROM layers l JOIN down ON l.chain = down.parent
        )
        SELECT chain, diff, parent, directory, size, opaque, format FROM down ORDER BY depth";
    let layers = collect(conn, sql, [top.to_string()], layer_row)?;
    if layers.is_empty() {
        return Err(Error::Damaged(format!("layer {top} is missing")));
    }
    Ok(layers)
}

pub(crate) fn insert_layer(tx: &Transaction<'_>, layer: &LayerRow) -> Result<()> {
    tx.execute(
        "INSERT INTO layers (chain, diff, parent, directory, size, opaque, format)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        (
            layer.chain.to_string(),
            layer.diff.to_string(),
            layer.parent.map(|parent| parent.to_string()),
            layer.directory,
            signed(layer.size),
            layer.opaque,
            layer.format.name(),
        ),
    )?;
    Ok(())
}

/// Removes the rows of layers nothing stands on any more and returns them, the topmost of each chain first.
pub(crate) fn delete_unneeded_layers(tx: &Transaction<'_>) -> Result<Vec<LayerRow>> {
    let mut removed = Vec::new();
    loop {
        // Only ever the uppermost: those below become so in the next round.
        let leaves = collect(
            tx,
            "SELECT chain, diff, parent, directory, size, opaque, format FROM layers l
             WHERE NOT EXISTS (SELECT 1 FROM layers WHERE parent = l.chain)
               AND NOT EXISTS (SELECT 1 FROM images WHERE top = l.chain)
               AND NOT EXISTS (SELECT 1 FROM snapshots WHERE top = l.chain)",
            [],
            layer_row,
        )?;
        if leaves.is_empty() {
            return Ok(removed);
        }
        for leaf in leaves {
            tx.execute("DELETE FROM layers WHERE chain = ?1", [leaf.chain.to_string()])?;
            removed.push(leaf);
        }
    }
}

pub(crate) fn layer_blob(conn: &Connection, blob: &Digest) -> Result<Option<LayerBlobRow>> {
    let sql = "SELECT digest, diff, media_type, size FROM layer_blobs WHERE digest = ?1";
    let rows = collect(conn, sql, [blob.to_string()], |row| {
        Ok(LayerBlobRow {
            digest: digest(&row.get::<_, String>(0)?)?,
            diff: digest(&row.get::<_, String>(1)?)?,
            media_type: row.get(2)?,
            size: unsigned(row.get(3)?),
        })
    })?;
    Ok(rows.into_iter().next())
}

/// The blobs that decompress to a layer.
pub(crate) fn blobs_of_diff(conn: &Connection, diff: &Digest) -> Result<Vec<Digest>> {
    let sql = "SELECT digest FROM layer_blobs WHERE diff = ?1";
    collect(conn, sql, [diff.to_string()], |row| digest(&row.get::<_, String>(0)?))
}

/// Gives a layer other files. Those it had stay for the snapshots that stand on it; whether there are any.
pub(crate) fn replace_layer(tx: &Transaction<'_>, old: &LayerRow, new: &LayerRow) -> Result<bool> {
    tx.execute(
        "UPDATE layers SET directory = ?2, size = ?3, opaque = ?4, format = ?5 WHERE chain = ?1",
        (old.chain.to_string(), new.directory, signed(new.size), new.opaque, new.format.name()),
    )?;
    let used = chains_of_snapshots(tx)?.contains(&old.chain);
    if used {
        tx.execute(
            "INSERT INTO retired (directory, chain) VALUES (?1, ?2)",
            (old.directory, old.chain.to_string()),
        )?;
    }
    Ok(used)
}

/// Forgets the directories of replaced layers that no snapshot stands on any more, and returns them.
pub(crate) fn release_retired(tx: &Transaction<'_>) -> Result<Vec<i64>> {
    let retired = collect(tx, "SELECT directory, chain FROM retired", [], |row| {
        Ok((row.get::<_, i64>(0)?, digest(&row.get::<_, String>(1)?)?))
    })?;
    if retired.is_empty() {
        return Ok(Vec::new());
    }
    let used = chains_of_snapshots(tx)?;
    let free: Vec<i64> = retired
        .into_iter()
        .filter(|(_, chain)| !used.contains(chain))
        .map(|(directory, _)| directory)
        .collect();
    for directory in &free {
        tx.execute("DELETE FROM retired WHERE directory = ?1", [directory])?;
    }
    Ok(free)
}

/// Every layer that a snapshot stands on.
fn chains_of_snapshots(conn: &Connection) -> Result<HashSet<Digest>> {
    let sql = "
        WITH RECURSIVE below (chain) AS (
            SELECT top FROM snapshots WHERE top IS NOT NULL
            UNION
            SELECT l.parent FROM layers l JOIN below ON l.chain = below.chain WHERE l.parent IS NOT NULL
        )
        SELECT chain FROM below";
    Ok(collect(conn, sql, [], |row| digest(&row.get::<_, String>(0)?))?.into_iter().collect())
}

pub(crate) fn insert_layer_blob(tx: &Transaction<'_>, blob: &LayerBlobRow) -> Result<()> {
    tx.execute(
        "INSERT OR REPLACE INTO layer_blobs (digest, diff, media_type, size) VALUES (?1, ?2, ?3, ?4)",
        (blob.digest.to_string(), blob.diff.to_string(), &blob.media_type, signed(blob.size)),
    )?;
    Ok(())
}

fn name_row(row: &Row<'_>) -> Result<NameRow> {
    let text: String = row.get(0)?;
    let name = text
        .parse()
        .map_err(|error| Error::Damaged(format!("the state database holds a bad name {text:?}: {error}")))?;
    Ok(NameRow {
        name,
        image: digest(&row.get::<_, String>(1)?)?,
        tagged: Timestamp::from_nanosecond(row.get::<_, i64>(2)?.into()).ok(),
        manifest: optional_digest(row.get(3)?)?,
    })
}

pub(crate) fn names(conn: &Connection) -> Result<Vec<NameRow>> {
    collect(conn, "SELECT name, image, tagged, manifest FROM names ORDER BY name", [], name_row)
}

pub(crate) fn names_of(conn: &Connection, image: &Digest) -> Result<Vec<NameRow>> {
    let sql = "SELECT name, image, tagged, manifest FROM names WHERE image = ?1 ORDER BY name";
    collect(conn, sql, [image.to_string()], name_row)
}

/// The image a full name points at.
pub(crate) fn target(conn: &Connection, name: &Reference) -> Result<Option<Digest>> {
    let mut statement = conn.prepare_cached("SELECT image FROM names WHERE name = ?1")?;
    let found: Option<String> = statement.query_row([name.to_string()], |row| row.get(0)).optional()?;
    optional_digest(found)
}

/// The row of a full name.
pub(crate) fn name(conn: &Connection, name: &Reference) -> Result<Option<NameRow>> {
    let sql = "SELECT name, image, tagged, manifest FROM names WHERE name = ?1";
    Ok(collect(conn, sql, [name.to_string()], name_row)?.into_iter().next())
}

/// Points a name at an image and one of its manifests; returns the image it pointed at before, if that was another.
pub(crate) fn set_name(
    tx: &Transaction<'_>,
    name: &Reference,
    image: &Digest,
    manifest: Option<&Digest>,
) -> Result<Option<Digest>> {
    let manifest = manifest.map(Digest::to_string);
    let before = target(tx, name)?;
    if before == Some(*image) {
        tx.execute("UPDATE names SET manifest = ?2 WHERE name = ?1", (name.to_string(), manifest))?;
        return Ok(None);
    }
    tx.execute(
        "INSERT OR REPLACE INTO names (name, image, tagged, manifest) VALUES (?1, ?2, ?3, ?4)",
        (name.to_string(), image.to_string(), now(), manifest),
    )?;
    Ok(before)
}

/// A repository of the registry `domain` that is known to hold a blob, because an image with the blob was pulled from
/// it or pushed to it.
pub(crate) fn holder_of(conn: &Connection, blob: &Digest, domain: &str) -> Result<Option<Reference>> {
    Ok(holders_of(conn, blob)?.into_iter().find(|name| name.domain() == domain))
}

pub(crate) fn delete_name(tx: &Transaction<'_>, name: &Reference) -> Result<()> {
    tx.execute("DELETE FROM names WHERE name = ?1", [name.to_string()])?;
    Ok(())
}

pub(crate) fn snapshot(conn: &Connection, key: &str) -> Result<Option<SnapshotRow>> {
    let rows = collect(conn, "SELECT directory, top FROM snapshots WHERE key = ?1", [key], |row| {
        Ok(SnapshotRow { directory: row.get(0)?, top: optional_digest(row.get(1)?)? })
    })?;
    Ok(rows.into_iter().next())
}

/// Key and directory of every snapshot.
pub(crate) fn snapshots(conn: &Connection) -> Result<Vec<(String, i64)>> {
    collect(conn, "SELECT key, directory FROM snapshots ORDER BY key", [], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

pub(crate) fn insert_snapshot(
    tx: &Transaction<'_>,
    key: &str,
    directory: i64,
    top: Option<&Digest>,
) -> Result<()> {
    let mut statement =
        tx.prepare_cached("INSERT INTO snapshots (key, directory, top) VALUES (?1, ?2, ?3)")?;
    statement.execute((key, directory, top.map(|top| top.to_string())))?;
    Ok(())
}

pub(crate) fn delete_snapshot(tx: &Transaction<'_>, key: &str) -> Result<()> {
    tx.prepare_cached("DELETE FROM snapshots WHERE key = ?1")?.execute([key])?;
    Ok(())
}

/// Every directory number that has a row.
pub(crate) fn directories(conn: &Connection) -> Result<Vec<i64>> {
    let sql = "SELECT directory FROM layers UNION ALL SELECT directory FROM snapshots
               UNION ALL SELECT directory FROM retired";
    collect(conn, sql, [], |row| Ok(row.get(0)?))
}

/// Every blob some image needs.
pub(crate) fn needed_blobs(conn: &Connection) -> Result<Vec<Digest>> {
    collect(conn, "SELECT DISTINCT digest FROM image_blobs", [], |row| digest(&row.get::<_, String>(0)?))
}

/// Which image lists which blob.
pub(crate) fn image_blobs(conn: &Connection) -> Result<Vec<(Digest, Digest)>> {
    collect(conn, "SELECT image, digest FROM image_blobs", [], |row| {
        Ok((digest(&row.get::<_, String>(0)?)?, digest(&row.get::<_, String>(1)?)?))
    })
}

/// The repositories that are known to hold a blob, because an image with the blob was pulled from them or pushed to
/// them; the latest first.
pub(crate) fn holders_of(conn: &Connection, blob: &Digest) -> Result<Vec<Reference>> {
    let sql =
        "SELECT n.name, n.image, n.tagged, n.manifest FROM image_blobs b JOIN names n ON n.image = b.image
               WHERE b.digest = ?1 AND n.name LIKE '%@%' ORDER BY n.tagged DESC";
    Ok(collect(conn, sql, [blob.to_string()], name_row)?.into_iter().map(|row| row.name).collect())
}

/// What the database says about itself: damaged pages, rows that point nowhere.
pub(crate) fn faults(conn: &Connection) -> Result<Vec<String>> {
    let mut faults = collect(conn, "PRAGMA integrity_check(10)", [], |row| Ok(row.get::<_, String>(0)?))?;
    faults.retain(|fault| fault != "ok");
    faults.extend(collect(conn, "PRAGMA foreign_key_check", [], |row| {
        let (table, points_to): (String, String) = (row.get(0)?, row.get(2)?);
        Ok(format!("a row of {table} points to nothing in {points_to}"))
    })?);
    Ok(faults)
}

/// Whether an image ends in this layer.
pub(crate) fn is_top(conn: &Connection, chain: &Digest) -> Result<bool> {
    let mut statement = conn.prepare_cached("SELECT 1 FROM images WHERE top = ?1")?;
    Ok(statement.exists([chain.to_string()])?)
}

/// The blobs an image lists.
pub(crate) fn blobs_of(conn: &Connection, image: &Digest) -> Result<Vec<Digest>> {
    let sql = "SELECT digest FROM image_blobs WHERE image = ?1";
    collect(conn, sql, [image.to_string()], |row| digest(&row.get::<_, String>(0)?))
}
