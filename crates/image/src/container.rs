//! `commit`: what a container changed becomes a layer, and with its image an image.
//!
//! One pass: the changes are packed and compressed on one thread while this one hashes and stores the blob, and a third
//! unpacks it, by the same path as a layer from anywhere else. So the layer is what every engine would make of the
//! blob, and the blob is compressed once for every push to come.

use std::io::BufReader;
use std::thread;

use flate2::{Compression as Level, GzBuilder};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use wharf_model::{Digest, Reference};

use crate::changes::RunConfig;
use crate::commit::{LayerSource, NewImage};
use crate::compress::Compression;
use crate::diff::{PipeWriter, write_layer};
use crate::import::host_architecture;
use crate::limits::Limits;
use crate::pipe::pipe;
use crate::stage::{self, StagedLayer, read_chunk};
use crate::{Error, Images, Result, SnapshotMounts, records};

/// Level of gzip: see docs/benchmarks.md, commit.
const LEVEL: u32 = 4;

/// How [`Images::commit_snapshot`] describes the image.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Its name, if any.
    pub reference: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// The commit message.
    pub comment: String,
    /// Dockerfile instructions to apply.
    pub changes: Vec<String>,
    /// The configuration it is to have instead of the container's; what it does not say is the container's.
    pub config: Option<RunConfig>,
    /// The container's configuration.
    pub container: RunConfig,
    /// The container, for those who look where the image comes from.
    pub container_id: String,
}

impl Images {
    /// Makes an image of a snapshot and the image it stands on, which must have been `image`. The snapshot should not
    /// change meanwhile; if it does, the layer has some of the changes.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a change is no instruction, [`Error::NoSnapshot`], [`Error::NotFound`] when the image is
    /// gone, [`Error::Store`] when something cannot be read.
    pub fn commit_snapshot(&self, key: &str, image: &Digest, options: CommitOptions) -> Result<Digest> {
        let mut config = options.config.clone().unwrap_or_else(|| options.container.clone());
        if config.shell.is_empty() {
            config.shell.clone_from(&options.container.shell);
        }
        for change in &options.changes {
            config.change(change)?;
        }
        config.inherit(&options.container);
        let _lease = self.inner.lease();
        // First, because it knows an image that was removed from one that is damaged.
        let mut layers = self.parent_layers(image)?;
        let parent: Map<String, Value> = wharf_content::spec::parse(&self.inner.store.document(image)?)
            .map_err(|error| Error::Damaged(format!("the config of image {image}: {error}")))?;
        let (staged, changed) = self.stage_changes(&self.snapshot(key)?)?;
        if changed {
            layers.push(LayerSource::Staged(0));
        }
        let diff_id = changed.then_some(staged.diff_id);
        let document = document(parent, &config, &options, diff_id)?;
        let new = NewImage {
            config: wharf_content::spec::to_json(&document),
            manifest: None,
            indexes: Vec::new(),
            layers,
            names: options.reference.into_iter().map(Reference::or_latest).collect(),
            what: "committed image".to_owned(),
        };
        let id = wharf_content::digest_of(&new.config);
        self.inner.commit(vec![staged], vec![new])?;
        Ok(id)
    }

    /// The blobs of an image's layers, base first.
    fn parent_layers(&self, image: &Digest) -> Result<Vec<LayerSource>> {
        let row = self.inner.db.read(|conn| records::image(conn, image))?;
        let row = row.ok_or_else(|| Error::NotFound(image.to_string()))?;
        let manifest: wharf_content::spec::Manifest =
            wharf_content::spec::parse(&self.inner.store.document(&row.manifest)?)
                .map_err(|error| Error::Damaged(format!("the manifest of image {image}: {error}")))?;
        let blob = |digest: Digest| {
            let row = self.inner.db.read(|conn| records::layer_blob(conn, &digest))?;
            row.map(LayerSource::Stored)
                .ok_or_else(|| Error::Damaged(format!("layer {digest} of image {image} is not known")))
        };
        manifest.layers.iter().map(|layer| blob(layer.digest)).collect()
    }

    fn stage_changes(&self, mounts: &SnapshotMounts) -> Result<(StagedLayer, bool)> {
        let inner = &self.inner;
        let (directory, ingest) = (inner.stage_directory()?, inner.store.ingest()?);
        // Ours: an empty disk image of a terabyte is no bomb here.
        let limits = Limits { ratio: u64::MAX, layer_bytes: u64::MAX, ..inner.limits.clone() };
        let (sink, source) = pipe();
        thread::scope(|scope| {
            let packer = scope.spawn(move || {
                let gzip = GzBuilder::new().write(PipeWriter::new(sink), Level::new(LEVEL));
                let (gzip, changed) = write_layer(mounts, gzip)?;
                gzip.finish().and_then(PipeWriter::end).map_err(Error::Output)?;
                Ok(changed)
            });
            let mut input = BufReader::new(source);
            let staged = read_chunk(&mut input).and_then(|first| {
                stage::take_layer(
                    ingest,
                    directory,
                    first,
                    &mut input,
                    Compression::Gzip,
                    &limits,
                    &mut |_| {},
                )
            });
            drop(input);
            let packed = packer.join().unwrap_or_else(|_| Err(Error::Damaged("packing panicked".to_owned())));
            match (staged, packed) {
                (Ok(staged), Ok(changed)) => Ok((staged, changed)),
                // The packer's output failed because the other side did.
                (Err(error), Err(Error::Output(_)) | Ok(_)) => Err(error),
                (_, Err(error)) => Err(error),
            }
        })
    }
}

/// The parent's config document with another configuration, one more step and perhaps one more layer.
fn document(
    parent: Map<String, Value>,
    config: &RunConfig,
    options: &CommitOptions,
    diff_id: Option<Digest>,
) -> Result<Value> {
    let created = Timestamp::now().to_string();
    let text = |key: &str, default: &str| {
        parent.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).unwrap_or(default).to_owned()
    };
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let mut step = json!({ "created": created });
    let created_by = options.container.cmd.iter().flatten().cloned().collect::<Vec<_>>().join(" ");
    for (key, value) in
        [("created_by", &created_by), ("author", &options.author), ("comment", &options.comment)]
    {
        if !value.is_empty() {
            step[key] = json!(value);
        }
    }
    if diff_id.is_none() {
        step["empty_layer"] = json!(true);
    }
    let mut history = list(parent.get("history"));
    let mut diff_ids = list(parent.get("rootfs").and_then(|rootfs| rootfs.get("diff_ids")));
    if history.is_empty() {
        // Steps are counted against layers: an image that tells no history gets one of as many steps.
        history.extend(diff_ids.iter().map(|_| json!({ "created": text("created", &created) })));
    }
    history.push(step);
    diff_ids.extend(diff_id.map(|id| json!(id)));
    let config = serde_json::to_value(config)
        .map_err(|error| Error::Damaged(format!("cannot encode a configuration: {error}")))?;
    let mut document = json!({
        "architecture": text("architecture", host_architecture()),
        "config": config,
        "container": options.container_id,
        "created": created,
        "docker_version": env!("CARGO_PKG_VERSION"),
        "history": history,
        "os": text("os", "linux"),
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    for (key, value) in [
        ("author", options.author.clone()),
        ("comment", options.comment.clone()),
        ("variant", text("variant", "")),
        ("os.version", text("os.version", "")),
    ] {
        if !value.is_empty() {
            document[key] = json!(value);
        }
    }
    Ok(document)
}
