//! The verbs, one file each, and the table that finds them.

pub(crate) mod create;
pub(crate) mod run;

use std::ffi::OsString;

use futures_util::{StreamExt, stream};

use crate::{
    cli::Cli,
    failure::{self, Result},
    verb::Entry,
};

/// Groups of verbs and what they are about.
pub(crate) const GROUPS: &[(&str, &str)] = &[
    ("container", "Manage containers"),
    ("image", "Manage images"),
    ("network", "Manage networks"),
    ("system", "Manage the engine"),
    ("volume", "Manage volumes"),
];

/// Every verb there is.
pub(crate) const VERBS: &[Entry] = &[
    Entry::of::<create::Create>(&["container create", "create"]),
    Entry::of::<run::Run>(&["container run", "run"]),
];

/// What the first words of a command line mean.
pub(crate) enum Lookup {
    /// A verb, the number of words that name it, and how the user spelled it, program included.
    Verb { entry: &'static Entry, words: usize, spelled: String },
    /// A group, without a verb of it.
    Group { group: &'static str, spelled: String },
    /// Nothing known.
    Unknown(String),
}

/// Finds the verb that `words` begin with.
pub(crate) fn lookup(words: &[OsString]) -> Lookup {
    let word = |index: usize| words.get(index).and_then(|word| word.to_str()).unwrap_or("");
    let first = word(0);
    let find = |name: &str| VERBS.iter().find(|entry| entry.names.contains(&name));
    if let Some((group, _)) = GROUPS.iter().find(|(name, _)| *name == first) {
        let name = format!("{group} {}", word(1));
        return match find(&name) {
            Some(entry) => Lookup::Verb { entry, words: 2, spelled: format!("wharf {name}") },
            None => Lookup::Group { group, spelled: format!("wharf {group}") },
        };
    }
    match find(first) {
        Some(entry) => Lookup::Verb { entry, words: 1, spelled: format!("wharf {first}") },
        None => Lookup::Unknown(words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default()),
    }
}

/// How many requests a verb that names several things has under way at once.
const PARALLEL: usize = 50;

/// Does something to each of `names`, several at a time. Prints each name that worked, in order, and goes on after
/// one that did not; all failures are reported at the end.
pub(crate) async fn each<'a, F>(cli: &Cli, names: &'a [String], operation: impl Fn(&'a str) -> F) -> Result
where
    F: Future<Output = Result>,
{
    let mut failures = Vec::new();
    let mut results =
        stream::iter(names.iter().map(|name| (name, operation(name)))).map(|(name, done)| async move { (name, done.await) }).buffered(PARALLEL);
    while let Some((name, result)) = results.next().await {
        match result {
            Ok(()) => cli.line(name)?,
            Err(failure) => failures.push(failure),
        }
    }
    failure::all(failures)
}
