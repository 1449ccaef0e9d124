//! Images: the store's operations as the engine's, with containers as users and events.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use tokio::io::AsyncRead;
use wharf_image::{HistoryEntry, Image, ImportOptions, Loaded, Removed};
use wharf_model::{Digest, ErrorKind, Event, Filters, Reference};

use crate::blocking::blocking;
use crate::containers::until;
use crate::streams::{self, with_reader};
use crate::{Engine, Error, ImageView, Pruned, Result};

const KEYS: &[&str] = &["before", "dangling", "label", "reference", "since", "until"];

impl Engine {
    /// Of each image, the bytes of layers that other images have too.
    ///
    /// # Errors
    /// [`Error::Image`] when the store cannot be read.
    pub async fn shared_sizes(&self) -> Result<HashMap<Digest, u64>> {
        let engine = self.clone();
        blocking(move || Ok(engine.inner.images.shared_sizes()?)).await
    }

    /// Images, newest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown filter, [`Error::Image`] when the store cannot be read.
    pub async fn list_images(&self, all: bool, filters: Filters) -> Result<Vec<ImageView>> {
        // Every image of this store is shown: intermediate ones are not kept.
        let _ = all;
        filters.check_keys(KEYS)?;
        let dangling = filters.boolean("dangling")?;
        let until = until(&filters)?;
        let engine = self.clone();
        blocking(move || {
            let images = &engine.inner.images;
            let created = |key: &str| -> Result<Option<Timestamp>> {
                filters
                    .values(key)
                    .next()
                    .map(|name| Ok(images.resolve(name)?.created))
                    .transpose()
                    .map(Option::flatten)
            };
            let (before, since) = (created("before")?, created("since")?);
            let mut views = Vec::new();
            for image in images.list()? {
                let labels: BTreeMap<String, String> = image
                    .config
                    .config()
                    .as_ref()
                    .and_then(|config| config.labels().clone())
                    .map(|labels| labels.into_iter().collect())
                    .unwrap_or_default();
                let chosen = dangling.is_none_or(|dangling| dangling == image.references.is_empty())
                    && before.is_none_or(|before| image.created < Some(before))
                    && since.is_none_or(|since| image.created > Some(since))
                    && until.is_none_or(|until| image.created < Some(until))
                    && filters.matches_all_labels("label", &labels)
                    && filters.matches_any("reference", |pattern| {
                        image.references.iter().any(|reference| reference_matches(reference, pattern))
                    });
                if chosen {
                    let containers = engine.image_users(&image.id).len();
                    let mut image = image;
                    // Of an image with several names, those that were asked for.
                    image.references.retain(|reference| {
                        filters.matches_any("reference", |pattern| reference_matches(reference, pattern))
                    });
                    views.push(ImageView { image, containers });
                }
            }
            Ok(views)
        })
        .await
    }

    /// One image.
    ///
    /// # Errors
    /// [`Error::Image`] when there is none of that name.
    pub async fn inspect_image(&self, name: &str, platform: Option<String>) -> Result<ImageView> {
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let image = engine.inner.images.resolve_on(&name, platform.as_deref())?;
            let containers = engine.image_users(&image.id).len();
            Ok(ImageView { image, containers })
        })
        .await
    }

    /// The steps that made an image, newest first.
    ///
    /// # Errors
    /// [`Error::Image`] when there is none of that name.
    pub async fn image_history(&self, name: &str, platform: Option<String>) -> Result<Vec<HistoryEntry>> {
        let (images, name) = (self.inner.images.clone(), name.to_owned());
        blocking(move || {
            images.resolve_on(&name, platform.as_deref())?;
            Ok(images.history(&name)?)
        })
        .await
    }

    /// Takes in an archive of images.
    ///
    /// # Errors
    /// [`Error::Image`] for an archive that is damaged or hostile; nothing of it stays.
    pub async fn load_images(&self, input: impl AsyncRead + Send + Unpin + 'static) -> Result<Vec<Loaded>> {
        let images = self.inner.images.clone();
        let loaded = with_reader(input, move |mut input| Ok(images.load(&mut input, &mut |_| {})?)).await?;
        for image in &loaded {
            self.emit_image("load", image.id.to_string(), &image.id.to_string());
        }
        self.keep_to_budget();
        Ok(loaded)
    }

    /// Makes an image from a root file system.
    ///
    /// # Errors
    /// As for [`load_images`](Self::load_images).
    pub async fn import_image(
        &self,
        input: impl AsyncRead + Send + Unpin + 'static,
        options: ImportOptions,
    ) -> Result<Digest> {
        let images = self.inner.images.clone();
        let name = options.reference.as_ref().map(Reference::familiar);
        let id = with_reader(input, move |mut input| Ok(images.import(&mut input, options)?)).await?;
        if let Some(name) = name {
            self.emit_image("tag", id.to_string(), &name);
        }
        self.emit_image("import", id.to_string(), &id.to_string());
        self.keep_to_budget();
        Ok(id)
    }

    /// An archive of images as a stream. Unknown names are an error before the first byte.
    ///
    /// # Errors
    /// [`Error::Image`] for a name without an image.
    pub async fn save_images(
        &self,
        names: Vec<String>,
        platform: Option<String>,
    ) -> Result<impl AsyncRead + Send + use<>> {
        let (images, wanted) = (self.inner.images.clone(), names.clone());
        let ids = blocking(move || {
            let mut ids = Vec::new();
            for name in &wanted {
                let image = images.resolve_on(name, platform.as_deref()).map_err(|error| {
                    match (&error, error.kind()) {
                        (wharf_image::Error::OtherPlatform { wanted, .. }, _) => {
                            Error::System(format!("no suitable export target found for platform {wanted}"))
                        }
                        (_, ErrorKind::NotFound) => Error::NotFound(format!("No such image: {name}")),
                        _ => Error::Image(error),
                    }
                })?;
                ids.push(image.id.to_string());
            }
            Ok(ids)
        })
        .await?;
        let images = self.inner.images.clone();
        for id in ids {
            self.emit_image("save", id.clone(), &id);
        }
        Ok(streams::written("an archive of images", move |writer| {
            images.save(&names, writer).map_err(|error| std::io::Error::other(error.to_string()))
        }))
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad name, [`Error::Image`] when there is no such image.
    pub async fn tag_image(&self, source: &str, repository: &str, tag: &str) -> Result<()> {
        let invalid = |error: &dyn std::fmt::Display| Error::Invalid(error.to_string());
        let target = Reference::parse_normalized(repository).map_err(|error| invalid(&error))?;
        if target.digest().is_some() {
            return Err(Error::Invalid("refusing to create a tag with a digest reference".into()));
        }
        if target.familiar().split(':').next() == Some("sha256") {
            return Err(Error::Invalid(
                "refusing to create an ambiguous tag using digest algorithm as name".into(),
            ));
        }
        let target = if tag.is_empty() {
            target.or_latest()
        } else {
            target.with_tag(tag).map_err(|error| invalid(&error))?
        };
        let (images, source, wanted) = (self.inner.images.clone(), source.to_owned(), target.clone());
        let id = blocking(move || {
            images.tag(&source, &wanted)?;
            Ok(images.resolve(&wanted.familiar())?.id)
        })
        .await?;
        self.emit_image("tag", id.to_string(), &target.familiar());
        Ok(())
    }

    /// Removes a name, and the image with its last one.
    ///
    /// # Errors
    /// [`Error::Image`] when containers use it or there is none of that name.
    pub async fn remove_image(&self, name: &str, force: bool, no_prune: bool) -> Result<Vec<Removed>> {
        // Layers that nothing needs any more always go: there are no intermediate images to keep.
        let _ = no_prune;
        let (engine, name) = (self.clone(), name.to_owned());
        let (image, removed) = blocking(move || {
            let image = engine.inner.images.resolve(&name).ok();
            Ok((image, engine.inner.images.remove(&name, force, &|id| engine.image_users(id))?))
        })
        .await?;
        self.emit_removed(&removed, image.as_slice());
        self.collect_later();
        Ok(removed)
    }

    /// Removes images without a name, or with the filter `dangling=false` every unused one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown filter.
    pub async fn prune_images(&self, filters: Filters) -> Result<Pruned> {
        filters.check_keys(&["dangling", "label", "label!", "until"])?;
        let dangling = filters.boolean("dangling")?.unwrap_or(true);
        if filters.contains("label") || filters.contains("label!") || filters.contains("until") {
            let pruned = self.prune_chosen_images(&filters, dangling).await?;
            self.tell_prune("image", pruned.reclaimed);
            return Ok(pruned);
        }
        let engine = self.clone();
        let (images, pruned) = blocking(move || {
            let images = if dangling { Vec::new() } else { engine.inner.images.list()? };
            Ok((images, engine.inner.images.prune(dangling, &|id| engine.image_users(id))?))
        })
        .await?;
        self.emit_removed(&pruned.removed, &images);
        self.collect_later();
        self.tell_prune("image", pruned.reclaimed);
        Ok(Pruned { removed: Vec::new(), images: pruned.removed, reclaimed: pruned.reclaimed })
    }

    /// Removes the unused images that filters choose, one by one.
    async fn prune_chosen_images(&self, filters: &Filters, dangling: bool) -> Result<Pruned> {
        let mut chosen = Filters::default();
        for key in ["label", "until"] {
            filters.values(key).for_each(|value| chosen.add(key, value));
        }
        if dangling {
            chosen.add("dangling", "true");
        }
        let mut pruned = Pruned::default();
        for view in self.list_images(true, chosen).await? {
            let config = view.image.config.config().as_ref();
            let labels =
                config.and_then(|config| config.labels().clone()).unwrap_or_default().into_iter().collect();
            let excluded = filters.contains("label!") && filters.matches_all_labels("label!", &labels);
            if view.containers > 0 || excluded {
                continue;
            }
            let names: Vec<String> = match &view.image.references[..] {
                [] => vec![view.image.id.to_string()],
                references => references.iter().map(Reference::familiar).collect(),
            };
            for name in names {
                // Somebody may have begun to use it just now: then it stays.
                if let Ok(removed) = self.remove_image(&name, false, false).await {
                    pruned.images.extend(removed);
                }
            }
            pruned.reclaimed += view.image.size;
        }
        Ok(pruned)
    }

    /// Containers made from an image, and whether each runs.
    pub(crate) fn image_users(&self, id: &Digest) -> Vec<wharf_image::User> {
        let containers = self.inner.containers.all();
        let uses = containers.iter().filter(|container| container.record().image == *id);
        uses.map(|container| (container.id.to_string(), container.record().is_running())).collect()
    }

    /// After the store has grown: removes unused images if it takes more than it may.
    pub(crate) fn keep_to_budget(&self) {
        let Some(budget) = self.inner.config.image_budget else { return };
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            match engine.inner.images.keep_to_budget(budget, &|id| engine.image_users(id)) {
                Ok(pruned) => engine.emit_removed(&pruned.removed, &[]),
                Err(error) => tracing::warn!(%error, "cannot keep the images to their budget"),
            }
        });
    }

    fn collect_later(&self) {
        let images = self.inner.images.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = images.collect() {
                tracing::warn!(%error, "cannot remove unused image data");
            }
        });
    }

    /// Tells of removals; `images` are those that names were taken from.
    fn emit_removed(&self, removed: &[Removed], images: &[Image]) {
        for (index, removal) in removed.iter().enumerate() {
            match removal {
                Removed::Untagged(name) => {
                    let named = |image: &&Image| {
                        image.references.iter().any(|reference| reference.familiar() == *name)
                    };
                    let image = images.iter().find(named);
                    // What comes next is what the name was of, if it was its last.
                    let next = removed.iter().skip(index).find_map(|removal| match removal {
                        Removed::Deleted(id) => Some(*id),
                        Removed::Untagged(_) => None,
                    });
                    let Some(id) = image.map(|image| image.id).or(next) else { continue };
                    self.emit_image_of("untag", id.to_string(), &id.to_string(), image);
                }
                Removed::Deleted(id) => self.emit_image_of("delete", id.to_string(), &id.to_string(), None),
            }
        }
    }

    pub(crate) fn emit_image(&self, action: &str, id: String, name: &str) {
        // With the image's labels, as long as there is the image.
        let image = self.inner.images.resolve(&id).ok();
        self.emit_image_of(action, id, name, image.as_ref());
    }

    fn emit_image_of(&self, action: &str, id: String, name: &str, image: Option<&Image>) {
        let mut attributes = image
            .and_then(|image| image.config.config().as_ref()?.labels().clone())
            .map_or_else(BTreeMap::new, |labels| labels.into_iter().collect());
        attributes.insert("name".to_owned(), name.to_owned());
        self.inner.events.publish(Event {
            kind: "image",
            action: action.to_owned(),
            id,
            attributes,
            time: Timestamp::now(),
        });
    }
}

/// `reference=busybox`, `busybox:1.*`, `*/app`, …: the familiar name, with or without its tag.
fn reference_matches(reference: &Reference, pattern: &str) -> bool {
    let (familiar, name) = (reference.familiar(), reference.familiar_name());
    [familiar.as_str(), name.as_str(), familiar.rsplit('/').next().unwrap_or(&familiar)]
        .iter()
        .any(|text| glob(pattern.as_bytes(), text.as_bytes()))
}

/// `*` and `?`, neither of which crosses a slash.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            glob(rest, text)
                || text.split_first().is_some_and(|(first, tail)| *first != b'/' && glob(pattern, tail))
        }
        ([b'?', rest @ ..], [first, tail @ ..]) if *first != b'/' => glob(rest, tail),
        ([wanted, rest @ ..], [first, tail @ ..]) if wanted == first => glob(rest, tail),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_patterns_match_as_docker_s() {
        let reference = Reference::parse_normalized("localhost:5000/team/app:1.2").unwrap();
        for good in ["localhost:5000/team/app", "localhost:5000/*/app:1.*", "localhost:5000/team/app:1.2"] {
            assert!(reference_matches(&reference, good), "{good}");
        }
        for bad in ["app2", "*:9", "team"] {
            assert!(!reference_matches(&reference, bad), "{bad}");
        }
        let busybox = Reference::parse_normalized("busybox").unwrap().or_latest();
        assert!(reference_matches(&busybox, "busy*") && reference_matches(&busybox, "busybox:latest"));
    }
}
