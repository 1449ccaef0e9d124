//! Removal of names and images by Docker's rules.

use std::collections::HashSet;
use std::time::Duration;

use wharf_model::{Digest, Reference};
use wharf_state::rusqlite::Transaction;

use crate::lookup::{find, is_id};
use crate::records::{self, LayerRow};
use crate::{Error, Images, Inner, Pruned, Removed, Result, User};

/// What a removal leaves to be deleted once its rows are gone.
#[derive(Default)]
struct Remains {
    removed: Vec<Removed>,
    images: Vec<Digest>,
    layers: Vec<LayerRow>,
    blobs: Vec<Digest>,
}

impl Images {
    /// Removes a name, and the image with its last name, by Docker's rules. `users` tells the containers of an image.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Conflict`] with Docker's words.
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        users: &dyn Fn(&Digest) -> Vec<User>,
    ) -> Result<Vec<Removed>> {
        let _commit = self.inner.commit_lock();
        // Asked before the transaction: the answer may need locks of its own.
        let image = self.inner.db.read(|conn| find(conn, name))?;
        let users = users(&image.id);
        let remains = self.inner.db.write(|tx| {
            let mut removal =
                Removal { tx, image: image.id, users: &users, force, remains: Remains::default() };
            removal.run(name)?;
            Ok::<_, Error>(removal.remains)
        })?;
        self.inner.discard(&remains)?;
        Ok(remains.removed)
    }

    /// Removes the images no container uses: those without a name, or all; and what is left of downloads.
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::State`]; what was removed before stays removed.
    pub fn prune(&self, dangling_only: bool, users: &dyn Fn(&Digest) -> Vec<User>) -> Result<Pruned> {
        let _commit = self.inner.commit_lock();
        let rows = self.inner.db.read(records::images)?;
        let mut pruned = Pruned::default();
        for row in rows {
            let names = self.inner.db.read(|conn| records::names_of(conn, &row.id))?;
            if (dangling_only && !names.is_empty()) || !users(&row.id).is_empty() {
                continue;
            }
            self.inner.remove_unused(row.id, &mut pruned)?;
        }
        self.inner.forget_downloads(Duration::ZERO)?;
        Ok(pruned)
    }
}

impl Inner {
    /// Removes an image that nobody uses, with all its names. The caller holds the commit lock.
    pub(crate) fn remove_unused(&self, image: Digest, pruned: &mut Pruned) -> Result<()> {
        let remains = self.db.write(|tx| {
            let mut removal = Removal { tx, image, users: &[], force: false, remains: Remains::default() };
            removal.untag_all()?;
            removal.delete()?;
            Ok::<_, Error>(removal.remains)
        })?;
        self.discard(&remains)?;
        pruned.reclaimed += remains.layers.iter().map(|layer| layer.size).sum::<u64>();
        pruned.removed.extend(remains.removed);
        Ok(())
    }

    fn discard(&self, remains: &Remains) -> Result<()> {
        for image in &remains.images {
            self.forget_documents(image);
        }
        if !remains.removed.is_empty() {
            // A name must not come back after a power cut, least of all without its bytes.
            self.db.sync()?;
        }
        // The rows are gone: what can be removed goes, whatever cannot.
        let done =
            [self.write_index(), self.discard_layers(&remains.layers), self.discard_blobs(&remains.blobs)];
        done.into_iter().collect()
    }
}

/// Why an image cannot go.
struct Obstacle {
    hard: bool,
    /// A container is the reason.
    used: bool,
    message: String,
}

/// One removal within its transaction.
struct Removal<'a> {
    tx: &'a Transaction<'a>,
    image: Digest,
    users: &'a [User],
    force: bool,
    remains: Remains,
}

impl Removal<'_> {
    fn run(&mut self, name: &str) -> Result<()> {
        let names = self.names()?;
        let single = is_single(&names);
        if is_id(&self.image, name) {
            if single {
                self.check(false)?;
                self.untag_all()?;
            }
            return self.delete_unless_obstructed(false);
        }
        if !self.force
            && single
            && let Some((container, _)) = self.users.first()
        {
            return Err(Error::Conflict(format!(
                "unable to remove repository reference {name:?} (must force) - container {} is using its \
                 referenced image {}",
                short(container),
                self.image.short()
            )));
        }
        let reference = Reference::parse_normalized(name)?.or_latest();
        let reference = match reference.digest() {
            Some(digest) => reference.with_digest(*digest),
            None => reference,
        };
        self.untag(&reference)?;
        self.untag_orphaned_digests(&reference)?;
        if self.names()?.is_empty() { self.delete_unless_obstructed(true) } else { Ok(()) }
    }

    /// With the last tag of a repository, the digests it was pulled by go too.
    fn untag_orphaned_digests(&mut self, gone: &Reference) -> Result<()> {
        let of_same = |name: &&Reference| name.name() == gone.name();
        let names = self.names()?;
        if gone.digest().is_some() || names.iter().filter(of_same).any(|name| name.digest().is_none()) {
            return Ok(());
        }
        for name in names.iter().filter(of_same) {
            self.untag(name)?;
        }
        Ok(())
    }

    /// Deletes the image. `quiet`: a name was removed, which is success enough if a container holds the image.
    fn delete_unless_obstructed(&mut self, quiet: bool) -> Result<()> {
        if let Some(obstacle) = self.obstacle(true)? {
            if quiet && obstacle.used {
                return Ok(());
            }
            return Err(self.conflict(&obstacle));
        }
        self.untag_all()?;
        self.delete()
    }

    /// Fails if a container stands in the way; names in other repositories do if `names_too`.
    fn check(&self, names_too: bool) -> Result<()> {
        self.obstacle(names_too)?.map_or(Ok(()), |obstacle| Err(self.conflict(&obstacle)))
    }

    fn obstacle(&self, names_too: bool) -> Result<Option<Obstacle>> {
        let user = |wanted: bool| self.users.iter().find(|(_, running)| *running == wanted);
        if let Some((container, _)) = user(true) {
            let message = format!("image is being used by running container {}", short(container));
            return Ok(Some(Obstacle { hard: true, used: true, message }));
        }
        if self.force {
            return Ok(None);
        }
        if names_too && !self.names()?.is_empty() {
            let message = "image is referenced in multiple repositories".to_owned();
            return Ok(Some(Obstacle { hard: false, used: false, message }));
        }
        if let Some((container, _)) = user(false) {
            let message = format!("image is being used by stopped container {}", short(container));
            return Ok(Some(Obstacle { hard: false, used: true, message }));
        }
        Ok(None)
    }

    fn conflict(&self, obstacle: &Obstacle) -> Error {
        let force = if obstacle.hard { "cannot be forced" } else { "must be forced" };
        Error::Conflict(format!("unable to delete {} ({force}) - {}", self.image.short(), obstacle.message))
    }

    fn names(&self) -> Result<Vec<Reference>> {
        Ok(records::names_of(self.tx, &self.image)?.into_iter().map(|row| row.name).collect())
    }

    fn untag(&mut self, name: &Reference) -> Result<()> {
        records::delete_name(self.tx, name)?;
        self.remains.removed.push(Removed::Untagged(name.familiar()));
        Ok(())
    }

    fn untag_all(&mut self) -> Result<()> {
        for name in self.names()? {
            self.untag(&name)?;
        }
        Ok(())
    }

    /// Removes the image's row and those of layers nothing else needs.
    fn delete(&mut self) -> Result<()> {
        let blobs = records::blobs_of(self.tx, &self.image)?;
        records::delete_image(self.tx, &self.image)?;
        let layers = records::delete_unneeded_layers(self.tx)?;
        self.remains.images.push(self.image);
        self.remains.removed.push(Removed::Deleted(self.image));
        self.remains.removed.extend(layers.iter().map(|layer| Removed::Deleted(layer.chain)));
        self.remains.layers.extend(layers);
        self.remains.blobs.extend(blobs);
        Ok(())
    }
}

/// Whether the names are one tag at most, and digests only of that tag's repository.
fn is_single(names: &[Reference]) -> bool {
    if names.len() <= 1 {
        return true;
    }
    let digests: HashSet<String> =
        names.iter().filter(|name| name.digest().is_some()).map(Reference::name).collect();
    let mut tags = names.iter().filter(|name| name.digest().is_none());
    let single = tags.next().or(names.first());
    tags.next().is_none() && digests.len() == 1 && single.is_some_and(|name| digests.contains(&name.name()))
}

/// A container id as messages show it.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
