//! Volumes: of the local driver, and of Docker's volume plugins.
//!
//! Layout: a row, and for the local driver a directory `volumes/<name>/_data`. What `-o` and plugins want mounted is in
//! [`hold`].
//!
//! Crash: the directory is made before the row. A removal moves it to `volumes/.removed`, then deletes the row, then
//! the tree; the next start moves back what still has its row and deletes the rest, and removes empty directories
//! without a row. One that is not empty stays, and is in the log: a power cut may have lost its row. A plugin creates before the row is written and removes before it is deleted: asking it again for either is allowed.
//!
//! Blocking work here runs [apart](crate::apart): it may be called from within blocking work, which must not wait for
//! more threads of its own kind.

mod hold;
mod local;
mod plugin;
mod record;

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::future::join_all;
use jiff::Timestamp;
use wharf_linux::hostfs;
use wharf_model::user_paths::is_name;
use wharf_model::{Event, Filters};

pub(crate) use hold::{Borrowed, Creating, Volumes};
pub(crate) use local::{in_words, unescape};
pub(crate) use plugin::Plugins;
use plugin::{Failure, Told};
use record::Record;

use crate::apart::apart;
use crate::containers::random_id;
use crate::{Engine, Error, Pruned, Result, VolumeList, VolumeView};

/// Label that marks a volume nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";
/// The driver of this engine.
const LOCAL: &str = "local";
/// Where directories go before they are deleted; no volume can have this name.
const REMOVED: &str = ".removed";

/// A volume to be made, or found if it is there.
#[derive(Clone, Debug, Default)]
pub(crate) struct VolumeWish {
    pub(crate) name: String,
    /// Nobody chose the name.
    pub(crate) anonymous: bool,
    /// Empty for whatever driver has it, or the local one.
    pub(crate) driver: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) options: BTreeMap<String, String>,
}

impl VolumeWish {
    fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        if self.anonymous {
            labels.insert(ANONYMOUS.to_owned(), String::new());
        }
        labels
    }
}

/// A volume that is there.
pub(crate) struct Obtained {
    pub(crate) name: String,
    pub(crate) driver: String,
    /// Where its data is; of a plugin's volume not before it is mounted.
    pub(crate) mountpoint: String,
    /// Somebody must mount it before it is used.
    pub(crate) driven: bool,
}

pub(super) fn migrate(db: &wharf_state::Database) -> Result<()> {
    Ok(db.migrate("volumes", record::STEPS)?)
}

impl Engine {
    /// Makes a volume, or finds the one of that name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad name or an unknown option, [`Error::NotFound`] for an unknown driver,
    /// [`Error::Conflict`] when another driver has a volume of that name.
    pub async fn create_volume(
        &self,
        name: Option<&str>,
        driver: &str,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<VolumeView> {
        let (name, anonymous) = match name.filter(|name| !name.is_empty()) {
            Some(name) => (name.to_owned(), false),
            None => (anonymous_name()?, true),
        };
        let wish = VolumeWish { name, anonymous, driver: driver.to_owned(), labels, options };
        let (engine, driver) = (self.clone(), driver.to_owned());
        let made = if matches!(driver.as_str(), "" | LOCAL) {
            apart(move || engine.obtain_local(wish)).await?
        } else {
            self.obtain_of_plugin(wish).await?
        };
        self.inspect_volume(&made.name).await
    }

    /// The same for callers that block, and for containers: a volume of any driver will do if none is named.
    pub(crate) fn obtain_volume(&self, wish: VolumeWish) -> Result<Obtained> {
        if matches!(wish.driver.as_str(), "" | LOCAL) {
            return self.obtain_local(wish);
        }
        tokio::runtime::Handle::current().block_on(self.obtain_of_plugin(wish))
    }

    fn obtain_local(&self, wish: VolumeWish) -> Result<Obtained> {
        let labels = wish.all_labels();
        let VolumeWish { name, driver, options, .. } = wish;
        if let Some(found) = record::find(&self.inner.db, &name)? {
            if !driver.is_empty() && found.driver != LOCAL {
                return Err(taken(&name, &found.driver));
            }
            return Ok(self.obtained(name, &found));
        }
        check_name(&name)?;
        local::check(&options).map_err(|reason| Error::Invalid(format!("create {name}: {reason}")))?;
        let record = Record { created: Timestamp::now(), labels, options, driver: LOCAL.to_owned() };
        let made = hostfs::create_dir_all(&self.volume_data(&name), 0o755).map_err(Error::from);
        if let Err(error) = made.and_then(|()| record::insert(&self.inner.db, &name, &record)) {
            // Empty; what cannot be removed is swept by the next start.
            let _there = hostfs::remove_dir(&self.volume_data(&name))
                .and_then(|()| hostfs::remove_dir(&self.inner.config.volumes_dir().join(&name)));
            return Err(error);
        }
        self.emit_volume(&name, "create", LOCAL);
        Ok(self.obtained(name, &record))
    }

    async fn obtain_of_plugin(&self, wish: VolumeWish) -> Result<Obtained> {
        let labels = wish.all_labels();
        let VolumeWish { name, driver, options, .. } = wish;
        let plugins = &self.inner.volumes.plugins;
        plugins.find(&driver).await.map_err(|error| error.with_prefix(&format!("create {name}: ")))?;
        if let Some(found) = self.volume_row(&name).await? {
            return if found.driver == driver {
                Ok(self.obtained(name, &found))
            } else {
                Err(taken(&name, &found.driver))
            };
        }
        check_name(&name)?;
        // One that is there already is taken as it is.
        let there = plugins.get(&driver, &name).await.is_ok();
        if !there {
            let refused = |failure: Failure| Error::System(format!("create {name}: {failure}"));
            plugins.create(&driver, &name, &options).await.map_err(refused)?;
        }
        let record = Record { created: Timestamp::now(), labels, options, driver };
        let (db, kept, named) = (self.inner.db.clone(), record.clone(), name.clone());
        apart(move || record::insert(&db, &named, &kept)).await?;
        self.emit_volume(&name, "create", &record.driver);
        Ok(self.obtained(name, &record))
    }

    fn obtained(&self, name: String, record: &Record) -> Obtained {
        let plain = record.driver == LOCAL;
        Obtained {
            mountpoint: if plain { self.volume_data(&name).display().to_string() } else { String::new() },
            driven: !plain || local::is_mounted_on_use(&record.options),
            driver: record.driver.clone(),
            name,
        }
    }

    async fn volume_row(&self, name: &str) -> Result<Option<Record>> {
        let (db, name) = (self.inner.db.clone(), name.to_owned());
        apart(move || record::find(&db, &name)).await
    }

    /// Every volume that passes the filters (`dangling`, `driver`, `label`, `name`), by name. A plugin that stays
    /// silent is in the warnings; its volumes are those this engine knows of.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another filter.
    pub async fn list_volumes(&self, filters: Filters) -> Result<VolumeList> {
        filters.check_keys(&["dangling", "driver", "label", "name"])?;
        let dangling = filters.boolean("dangling").map_err(|_| {
            let given: Vec<&str> = filters.values("dangling").collect();
            Error::Invalid(format!("invalid filter 'dangling=[{}]'", given.join(" ")))
        })?;
        let mut list = self.all_volumes().await?;
        list.volumes.retain(|volume| {
            filters.matches_any("name", |value| name_matches(&volume.name, value))
                && filters.matches_any("driver", |value| volume.driver == value)
                && filters.matches_all_labels("label", &volume.labels)
                && dangling.is_none_or(|dangling| dangling == self.volume_users(&volume.name).is_empty())
        });
        Ok(list)
    }

    async fn all_volumes(&self) -> Result<VolumeList> {
        let db = self.inner.db.clone();
        let rows = apart(move || record::all(&db)).await?;
        let plugins = &self.inner.volumes.plugins;
        let mut drivers = plugins.names().await;
        drivers.extend(rows.iter().map(|(_, record)| record.driver.clone()).filter(|driver| driver != LOCAL));
        drivers.sort();
        drivers.dedup();
        let asked = join_all(drivers.iter().map(|driver| plugins.list(driver))).await;
        let mut list = VolumeList::default();
        let mut told: HashMap<String, Option<HashMap<String, Told>>> = HashMap::new();
        for (driver, answer) in drivers.into_iter().zip(asked) {
            match answer {
                Ok(volumes) => {
                    let named = volumes.into_iter().map(|volume| (volume.name.clone(), volume)).collect();
                    told.insert(driver, Some(named));
                }
                // A plugin for something else, or one that is gone.
                Err(Failure::Missing) => {}
                Err(failure) => {
                    list.warnings.push(format!("volumes of the plugin {driver} may be missing: {failure}"));
                    told.insert(driver, None);
                }
            }
        }
        for (name, record) in rows {
            let view = match told.get_mut(&record.driver) {
                Some(Some(volumes)) => match volumes.remove(&name) {
                    Some(told) => self.told_view(name, Some(&record), told, &record.driver),
                    // Its plugin has it no more.
                    None => continue,
                },
                _ => self.row_view(name, &record),
            };
            list.volumes.push(view);
        }
        for (driver, volumes) in told {
            for (name, told) in volumes.into_iter().flatten() {
                if !list.volumes.iter().any(|known| known.name == name) {
                    list.volumes.push(self.told_view(name, None, told, &driver));
                }
            }
        }
        list.volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    /// One volume.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`].
    pub async fn inspect_volume(&self, name: &str) -> Result<VolumeView> {
        match self.volume_row(name).await? {
            Some(record) if record.driver == LOCAL => Ok(self.row_view(name.to_owned(), &record)),
            Some(record) => match self.inner.volumes.plugins.get(&record.driver, name).await {
                Ok(told) => Ok(self.told_view(name.to_owned(), Some(&record), told, &record.driver)),
                Err(failure) => Err(Error::System(format!("get {name}: {failure}"))),
            },
            None => match self.search(name).await {
                Some((driver, told)) => Ok(self.told_view(name.to_owned(), None, told, &driver)),
                None => Err(Error::NoSuchVolume(name.to_owned())),
            },
        }
    }

    /// Looks for a volume this engine has no row of among all plugins.
    async fn search(&self, name: &str) -> Option<(String, Told)> {
        let plugins = &self.inner.volumes.plugins;
        let drivers = plugins.names().await;
        let asked = join_all(drivers.iter().map(|driver| plugins.look_for(driver, name))).await;
        drivers.into_iter().zip(asked).find_map(|(driver, told)| Some((driver, told.ok()?)))
    }

    /// Removes a volume no container uses; with `force` a missing one is no error, and a plugin's refusal none either.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`], or [`Error::Conflict`] while a container uses it.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let in_use = |users: &str| Error::Conflict(format!("remove {name}: volume is in use - [{users}]"));
        let _removing = self.inner.volumes.begin_removal(name).ok_or_else(|| in_use(""))?;
        let driver = match self.volume_row(name).await {
            Ok(Some(record)) => record.driver,
            Ok(None) => match self.search(name).await {
                Some((driver, _)) => driver,
                None if force => return Ok(()),
                None => return Err(Error::NoSuchVolume(name.to_owned())),
            },
            // A damaged row.
            Err(_) if force => LOCAL.to_owned(),
            Err(error) => return Err(error),
        };
        let users = self.volume_users(name);
        if !users.is_empty() {
            return Err(in_use(&users.join(", ")));
        }
        if driver == LOCAL {
            self.settle_volume(name).await?;
        } else if let Err(failure) = self.inner.volumes.plugins.remove(&driver, name).await {
            let error = Error::System(format!("remove {name}: {failure}"));
            if !force {
                return Err(error);
            }
            tracing::warn!(volume = name, %error, "a volume is forgotten that its plugin did not remove");
        }
        let (engine, named, of) = (self.clone(), name.to_owned(), driver.clone());
        apart(move || {
            if of != LOCAL {
                return record::delete(&engine.inner.db, &named);
            }
            let (here, aside) =
                (engine.inner.config.volumes_dir().join(&named), engine.removed_dir().join(&named));
            hostfs::create_dir_all(&engine.removed_dir(), 0o700)?;
            hostfs::remove_dir_all(&aside)?;
            if hostfs::exists(&here)? {
                hostfs::rename(&here, &aside)?;
            }
            record::delete(&engine.inner.db, &named)?;
            Ok(hostfs::remove_dir_all(&aside)?)
        })
        .await?;
        self.inner.volumes.forget(name);
        self.emit_volume(name, "destroy", &driver);
        Ok(())
    }

    /// Removes the files of a volume that has no row any more.
    pub(crate) fn remove_set_aside(&self, name: &str) -> Result<()> {
        Ok(hostfs::remove_dir_all(&self.removed_dir().join(name))?)
    }

    fn removed_dir(&self) -> std::path::PathBuf {
        self.inner.config.volumes_dir().join(REMOVED)
    }

    /// Finishes or undoes what a crash left of creations and removals. Called before anyone else has the engine.
    pub(crate) fn sweep_volumes(&self) -> Result<()> {
        let (directory, removed) = (self.inner.config.volumes_dir(), self.removed_dir());
        let known: HashSet<String> = record::all(&self.inner.db)?.into_iter().map(|(name, _)| name).collect();
        let names = |of: &std::path::Path| -> Vec<String> {
            let entries = hostfs::read_dir(of).unwrap_or_default();
            entries.into_iter().filter_map(|name| name.into_string().ok()).collect()
        };
        for name in names(&removed) {
            let (here, aside) = (directory.join(&name), removed.join(&name));
            if known.contains(&name) && !hostfs::exists(&here)? {
                hostfs::rename(&aside, &here)?;
            } else {
                hostfs::remove_dir_all(&aside)?;
            }
        }
        for name in names(&directory).into_iter().filter(|name| is_name(name) && !known.contains(name)) {
            // Both calls fail where something is left.
            let gone = hostfs::remove_dir(&directory.join(&name).join(local::DATA))
                .and_then(|()| hostfs::remove_dir(&directory.join(&name)));
            if gone.is_err() {
                tracing::warn!(
                    volume = name,
                    "a volume without a record has files; a create of that name takes it over"
                );
            }
        }
        Ok(())
    }

    /// Removes unused anonymous volumes, or with the filter `all` every unused one. Those with options and those of
    /// plugins stay, as with Docker: what is in them is not ours.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown filter.
    pub async fn prune_volumes(&self, filters: Filters) -> Result<Pruned> {
        filters.check_keys(&["all", "label", "label!"])?;
        let all = filters.boolean("all").map_err(|_| {
            let value = filters.values("all").next().unwrap_or_default();
            Error::Invalid(format!(
                "invalid filter 'all': strconv.ParseBool: parsing {value:?}: invalid syntax"
            ))
        })?;
        let all = all.unwrap_or(false);
        let engine = self.clone();
        let volumes = apart(move || engine.volumes()).await?;
        let mut pruned = Pruned::default();
        for volume in volumes {
            let anonymous = volume.labels.contains_key(ANONYMOUS);
            let excluded = filters.contains("label!") && filters.matches_all_labels("label!", &volume.labels);
            let chosen =
                (all || anonymous) && filters.matches_all_labels("label", &volume.labels) && !excluded;
            if !chosen || !self.volume_users(&volume.name).is_empty() {
                continue;
            }
            let directory = self.inner.config.volumes_dir().join(&volume.name);
            let size = apart(move || Ok(crate::system::files_size(&directory))).await?;
            // Somebody may have begun to use it just now: then it stays.
            match self.remove_volume(&volume.name, true).await {
                Ok(()) => {
                    pruned.reclaimed += size;
                    pruned.removed.push(volume.name);
                }
                Err(Error::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.tell_prune("volume", pruned.reclaimed);
        Ok(pruned)
    }

    /// Ids of the containers that mount the volume, running or not.
    pub(crate) fn volume_users(&self, name: &str) -> Vec<String> {
        let uses = |container: &std::sync::Arc<crate::containers::Container>| {
            container.record().mounts.iter().any(|mount| mount.volume == name)
        };
        self.inner.containers.all().iter().filter(|c| uses(c)).map(|c| c.id.to_string()).collect()
    }

    /// The volumes that are plain directories of ours: those whose size counts.
    pub(crate) fn volumes(&self) -> Result<Vec<VolumeView>> {
        let rows = record::all(&self.inner.db)?.into_iter();
        let plain = rows.filter(|(_, record)| record.driver == LOCAL && record.options.is_empty());
        Ok(plain.map(|(name, record)| self.row_view(name, &record)).collect())
    }

    /// The drivers there are: ours, and plugins that have introduced themselves.
    #[must_use]
    pub fn volume_drivers(&self) -> Vec<String> {
        let mut names = self.inner.volumes.plugins.known();
        names.push(LOCAL.to_owned());
        names.sort();
        names
    }

    fn row_view(&self, name: String, record: &Record) -> VolumeView {
        let local = record.driver == LOCAL;
        VolumeView {
            mountpoint: if local { self.volume_data(&name).display().to_string() } else { String::new() },
            scope: if local { LOCAL.to_owned() } else { self.inner.volumes.plugins.scope(&record.driver) },
            driver: record.driver.clone(),
            name,
            created: Some(record.created),
            labels: record.labels.clone(),
            options: record.options.clone(),
            status: BTreeMap::new(),
        }
    }

    fn told_view(&self, name: String, record: Option<&Record>, told: Told, driver: &str) -> VolumeView {
        VolumeView {
            created: told.created(),
            mountpoint: told.mountpoint,
            scope: self.inner.volumes.plugins.scope(driver),
            driver: driver.to_owned(),
            name,
            labels: record.map(|record| record.labels.clone()).unwrap_or_default(),
            options: record.map(|record| record.options.clone()).unwrap_or_default(),
            status: told.status,
        }
    }

    fn emit_volume(&self, name: &str, action: &str, driver: &str) {
        self.inner.events.publish(Event {
            kind: "volume",
            action: action.to_owned(),
            id: name.to_owned(),
            attributes: [("driver".to_owned(), driver.to_owned())].into(),
            time: Timestamp::now(),
        });
    }
}

/// A name for a volume nobody named.
pub(crate) fn anonymous_name() -> Result<String> {
    Ok(random_id()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Refuses names that cannot be a directory's, in Docker's words.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    if name.len() == 1 {
        return Err(Error::Invalid(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )));
    }
    Err(Error::Invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

fn taken(name: &str, driver: &str) -> Error {
    Error::Conflict(format!(
        "create {name}: driver '{driver}' already has volume '{name}': volume name must be unique"
    ))
}

/// Docker takes the value for a regular expression.
fn name_matches(name: &str, pattern: &str) -> bool {
    name.contains(pattern) || regex_lite::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(name))
}
