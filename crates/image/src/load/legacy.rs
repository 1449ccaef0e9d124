//! The docker-archive of before 2016: no manifest.json, one directory per layer with `json` and `layer.tar`, each
//! naming its parent, and `repositories` with the names.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use wharf_content::spec;
use wharf_model::{Digest, Reference};

use super::archive::Archive;
use super::archived_name;
use crate::commit::{LayerSource, NewImage};
use crate::{Error, Result};

/// One layer's `json`: at the same time a whole image config of the time.
#[derive(Deserialize)]
struct Step {
    #[serde(default)]
    parent: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    author: Option<String>,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    config: Option<serde_json::Value>,
    #[serde(default)]
    container_config: Option<ContainerConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerConfig {
    #[serde(default)]
    cmd: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Config<'a> {
    architecture: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<&'a serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<&'a str>,
    history: Vec<History<'a>>,
    os: &'a str,
    rootfs: RootFs,
}

#[derive(Serialize)]
struct History<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<&'a str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    created_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<&'a str>,
}

#[derive(Serialize)]
struct RootFs {
    r#type: &'static str,
    diff_ids: Vec<Digest>,
}

/// Repository, then tag, then the directory of the topmost layer.
type Repositories = BTreeMap<String, BTreeMap<String, String>>;

pub(super) fn images(archive: &mut Archive) -> Result<Vec<NewImage>> {
    let malformed = |error: spec::DocumentError| Error::archive("repositories", error.to_string());
    let repositories: Repositories = spec::parse(archive.document("repositories")?).map_err(malformed)?;
    let mut names: BTreeMap<String, Vec<Reference>> = BTreeMap::new();
    for (repository, tags) in repositories {
        for (tag, top) in tags {
            names.entry(top).or_default().push(archived_name(&format!("{repository}:{tag}"))?);
        }
    }
    if names.is_empty() {
        return Err(Error::archive("repositories", "it lists no image"));
    }
    names.into_iter().map(|(top, names)| image(archive, &top, names)).collect()
}

fn image(archive: &mut Archive, top: &str, names: Vec<Reference>) -> Result<NewImage> {
    let mut steps: Vec<(Step, LayerSource)> = Vec::new();
    let mut seen = HashSet::new();
    let mut next = Some(top.to_owned());
    while let Some(id) = next {
        // A name in this archive becomes part of another: hold it to what it can be.
        if Digest::from_hex(&id).is_err() || !seen.insert(id.clone()) {
            return Err(Error::archive("invalid archive", format!("a bad or repeated layer id {id:?}")));
        }
        let step: Step = spec::parse(archive.document(&format!("{id}/json"))?)
            .map_err(|error| Error::archive(format!("{id}/json"), error.to_string()))?;
        next = step.parent.clone().filter(|parent| !parent.is_empty());
        steps.push((step, archive.layer(&format!("{id}/layer.tar"))?));
    }
    steps.reverse();
    let Some((last, _)) = steps.last() else {
        return Err(Error::archive("repositories", "an image without layers"));
    };
    let history = steps.iter().map(|(step, _)| History {
        created: step.created.as_deref(),
        author: step.author.as_deref(),
        created_by: step
            .container_config
            .as_ref()
            .and_then(|c| c.cmd.as_ref())
            .map_or(String::new(), |c| c.join(" ")),
        comment: step.comment.as_deref(),
    });
    let config = Config {
        architecture: last.architecture.as_deref().unwrap_or("amd64"),
        author: last.author.as_deref(),
        config: last.config.as_ref(),
        created: last.created.as_deref(),
        history: history.collect(),
        os: last.os.as_deref().unwrap_or("linux"),
        rootfs: RootFs {
            r#type: "layers",
            diff_ids: steps.iter().map(|(_, layer)| archive.diff_id(layer)).collect(),
        },
    };
    let config = spec::to_json(&config);
    let layers = steps.into_iter().map(|(_, layer)| layer).collect();
    Ok(NewImage {
        config,
        manifest: None,
        indexes: Vec::new(),
        layers,
        names,
        what: format!("image {top:?}"),
    })
}
