//! `import`: a root filesystem becomes an image of one layer. `builtin`: so does a program of ours.

use std::io::{BufReader, Cursor, Read};
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;
use wharf_linux::hostfs;
use wharf_model::{Digest, Reference};

use crate::changes::RunConfig;
use crate::commit::{LayerSource, NewImage};
use crate::compress::Compression;
use crate::pipe::CHUNK;
use crate::stage::{self, StagedLayer, read_chunk};
use crate::tar::{Kind, Writer};
use crate::types::ImportOptions;
use crate::{Error, Images, Result};

/// A config document as we write it: fixed order, so that the same input has the same id.
#[derive(Serialize)]
struct ConfigDocument<'a> {
    architecture: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    comment: &'a str,
    config: &'a RunConfig,
    created: &'a str,
    history: [HistoryItem<'a>; 1],
    os: &'a str,
    rootfs: RootFs,
    #[serde(skip_serializing_if = "str::is_empty")]
    variant: &'a str,
}

#[derive(Serialize)]
struct HistoryItem<'a> {
    created: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    created_by: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    comment: &'a str,
}

#[derive(Serialize)]
struct RootFs {
    r#type: &'static str,
    diff_ids: [Digest; 1],
}

impl Images {
    /// Makes an image of one layer from a root filesystem tar, plain or compressed.
    ///
    /// # Errors
    /// [`Error::Archive`] when the tar is damaged or hostile, [`Error::Invalid`] when a change is no instruction.
    pub fn import(&self, input: &mut dyn Read, options: ImportOptions) -> Result<Digest> {
        let mut config = RunConfig::default();
        for change in &options.changes {
            config.change(change)?;
        }
        let platform = parse_platform(options.platform.as_deref())?;
        let _lease = self.inner.lease();
        let layer = self.stage_rootfs(input)?;
        if layer.compression == Compression::None && !layer.unpacked.has_end_mark {
            return Err(Error::archive("invalid tar", "it has no end mark: it was cut off"));
        }
        let created = Timestamp::now().to_string();
        let document = ConfigDocument {
            architecture: &platform.architecture,
            comment: &options.message,
            config: &config,
            created: &created,
            history: [HistoryItem { created: &created, created_by: "", comment: &options.message }],
            os: &platform.os,
            rootfs: RootFs { r#type: "layers", diff_ids: [layer.diff_id] },
            variant: &platform.variant,
        };
        let names = options.reference.into_iter().map(Reference::or_latest).collect();
        self.commit_one(layer, &document, names)
    }

    /// Makes (or finds) an image whose only file is a static binary, and gives it `name`.
    ///
    /// # Errors
    /// [`Error::Store`] when the binary cannot be read.
    pub fn builtin(&self, name: &Reference, binary: &Path) -> Result<Digest> {
        const LARGEST: u64 = 64 << 20;
        const CREATED: &str = "1970-01-01T00:00:00Z";
        let bytes = hostfs::read_bounded(binary, LARGEST)?;
        let file = binary.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let file = file.strip_prefix("wharf-").unwrap_or(&file);
        let mut writer = Writer::new(Vec::new());
        writer.file(file, 0o755, 0, &bytes).map_err(Error::Output)?;
        let tar = writer.finish().map_err(Error::Output)?;

        let config = RunConfig {
            cmd: Some(vec![format!("/{file}")]),
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            ..RunConfig::default()
        };
        let platform = parse_platform(None)?;
        let _lease = self.inner.lease();
        let layer = self.stage_rootfs(&mut Cursor::new(tar))?;
        let created_by = format!("COPY {file} / # from the engine");
        let document = ConfigDocument {
            architecture: &platform.architecture,
            comment: "",
            config: &config,
            created: CREATED,
            history: [HistoryItem { created: CREATED, created_by: &created_by, comment: "" }],
            os: &platform.os,
            rootfs: RootFs { r#type: "layers", diff_ids: [layer.diff_id] },
            variant: &platform.variant,
        };
        self.commit_one(layer, &document, vec![name.clone().or_latest()])
    }

    fn stage_rootfs(&self, input: &mut dyn Read) -> Result<StagedLayer> {
        let mut input = BufReader::with_capacity(CHUNK, input);
        let first = read_chunk(&mut input)?;
        if first.is_empty() {
            return Err(Error::archive("invalid tar", "it is empty"));
        }
        let compression = Compression::detect(&first, "root filesystem")?;
        let inner = &self.inner;
        stage::take_layer(
            inner.store.ingest()?,
            inner.stage_directory()?,
            first,
            &mut input,
            compression,
            &inner.limits,
            &mut |_| {},
        )
    }

    fn commit_one(
        &self,
        layer: StagedLayer,
        document: &ConfigDocument<'_>,
        names: Vec<Reference>,
    ) -> Result<Digest> {
        let image = NewImage {
            config: wharf_content::spec::to_json(document),
            manifest: None,
            indexes: Vec::new(),
            layers: vec![LayerSource::Staged(0)],
            names,
            what: "imported image".to_owned(),
        };
        let id = wharf_content::digest_of(&image.config);
        self.inner.commit(vec![layer], vec![image])?;
        Ok(id)
    }
}

pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) variant: String,
}

/// `os[/architecture[/variant]]`, or the host's.
pub(crate) fn parse_platform(text: Option<&str>) -> Result<Platform> {
    let host = host_architecture();
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(Platform {
            os: "linux".to_owned(),
            architecture: host.to_owned(),
            variant: String::new(),
        });
    };
    let parts: Vec<&str> = text.split('/').collect();
    let valid = |part: &&str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    if parts.len() > 3 || !parts.iter().all(valid) {
        return Err(Error::Invalid(format!("{text:?} is an invalid OS component of a platform")));
    }
    if parts[0] != "linux" {
        return Err(Error::Invalid(format!("operating system {:?} is not supported", parts[0])));
    }
    let part = |index: usize, default: &str| parts.get(index).unwrap_or(&default).to_string();
    Ok(Platform { os: part(0, "linux"), architecture: part(1, host), variant: part(2, "") })
}

/// The host's architecture by Go's name for it, which image configs use.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// A file of the given size, for archives we write.
pub(crate) fn file_of(size: u64) -> Kind {
    Kind::File { size, pieces: None }
}
