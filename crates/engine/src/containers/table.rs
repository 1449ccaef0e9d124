//! Containers by id and by name.
//!
//! A name is reserved before its container exists, so that two creates of one name cannot both go on.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wharf_model::ContainerId;

use super::Container;
use crate::{Error, Result};

#[derive(Default)]
struct Maps {
    by_id: BTreeMap<String, Arc<Container>>,
    /// Name to the id of its holder, which may not be in `by_id` yet.
    by_name: HashMap<String, ContainerId>,
}

fn taken(name: &str, holder: &ContainerId) -> Error {
    Error::Conflict(format!(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or \
         rename) that container to be able to reuse that name."
    ))
}

/// See the module.
#[derive(Default)]
pub(crate) struct Table {
    maps: Mutex<Maps>,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name for `id`.
    pub(super) fn reserve(&self, name: &str, id: &ContainerId) -> Result<()> {
        let mut maps = self.lock();
        if let Some(holder) = maps.by_name.get(name) {
            return Err(taken(name, holder));
        }
        maps.by_name.insert(name.to_owned(), id.clone());
        Ok(())
    }

    /// Gives a container another name; answers the old one, which it holds as well until [`Table::keep_name`]: the row
    /// has it until then. In one step, so that a container that is removed at the same time leaves no name behind.
    pub(super) fn rename(&self, container: &Container, new: &str) -> Result<String> {
        let mut maps = self.lock();
        if !maps.by_id.contains_key(container.id.as_str()) {
            return Err(Error::NoSuchContainer(container.id.to_string()));
        }
        if let Some(holder) = maps.by_name.get(new) {
            return Err(taken(new, holder));
        }
        maps.by_name.insert(new.to_owned(), container.id.clone());
        Ok(std::mem::replace(&mut container.record().name, new.to_owned()))
    }

    /// Of the two names of a container that is being renamed, keeps one.
    pub(super) fn keep_name(&self, container: &Container, kept: &str, other: &str) {
        let mut maps = self.lock();
        kept.clone_into(&mut container.record().name);
        let gone = !maps.by_id.contains_key(container.id.as_str());
        for name in [Some(other), gone.then_some(kept)].into_iter().flatten() {
            if maps.by_name.get(name) == Some(&container.id) {
                maps.by_name.remove(name);
            }
        }
    }

    /// Gives a name back.
    pub(super) fn release(&self, name: &str) {
        self.lock().by_name.remove(name);
    }

    /// Adds a container whose name is reserved or comes from the state database.
    pub(super) fn insert(&self, container: Arc<Container>) {
        let name = container.record().name.clone();
        let mut maps = self.lock();
        maps.by_name.insert(name, container.id.clone());
        maps.by_id.insert(container.id.to_string(), container);
    }

    /// Forgets a container and its name.
    pub(super) fn remove(&self, container: &Container) {
        // In this order everywhere: first the maps, then a record.
        let mut maps = self.lock();
        let name = container.record().name.clone();
        maps.by_name.remove(&name);
        maps.by_id.remove(container.id.as_str());
    }

    /// Every container, in the order of their ids.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.lock().by_id.values().cloned().collect()
    }

    /// By full id, then by name (with or without a slash), then by unambiguous beginning of the id.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Container>> {
        let maps = self.lock();
        if let Some(container) = maps.by_id.get(name) {
            return Ok(container.clone());
        }
        let plain = name.strip_prefix('/').unwrap_or(name);
        if let Some(container) = maps.by_name.get(plain).and_then(|id| maps.by_id.get(id.as_str())) {
            return Ok(container.clone());
        }
        let mut matching = maps.by_id.range(name.to_owned()..).take_while(|(id, _)| id.starts_with(name));
        match (matching.next(), matching.next()) {
            (Some((_, container)), None) if !name.is_empty() => Ok(container.clone()),
            (Some(_), Some(_)) if !name.is_empty() => {
                Err(Error::Invalid(format!("multiple IDs found with provided prefix: {name}")))
            }
            _ => Err(Error::NoSuchContainer(name.to_owned())),
        }
    }
}
