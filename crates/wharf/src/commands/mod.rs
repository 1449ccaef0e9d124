//! The verbs, one file each, and the table that finds them.

pub(crate) mod attach;
pub(crate) mod check;
pub(crate) mod commit;
pub(crate) mod completion;
pub(crate) mod context;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod df;
pub(crate) mod dial_stdio;
pub(crate) mod diff;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod history;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod logs;
pub(crate) mod manifest;
pub(crate) mod network;
pub(crate) mod pause;
pub(crate) mod port;
pub(crate) mod prune;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod push;
mod registry;
pub(crate) mod rename;
pub(crate) mod restart;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod search;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod tag;
pub(crate) mod top;
pub(crate) mod update;
pub(crate) mod version;
pub(crate) mod volume;
pub(crate) mod wait;
pub(crate) mod why;

use std::ffi::OsString;

use futures_util::{StreamExt, stream};

use crate::{
    cli::Cli,
    failure::{self, Failure, Result},
    syntax::platform::{self, Platform},
    verb::Entry,
};

/// Groups of verbs and what they are about.
pub(crate) const GROUPS: &[(&str, &str)] = &[
    ("completion", "Write the completion script of a shell"),
    ("container", "Manage containers"),
    ("context", "Manage contexts"),
    ("image", "Manage images"),
    ("manifest", "Manage lists of manifests in registries"),
    ("network", "Manage networks"),
    ("registry", "Serve a registry"),
    ("system", "Manage the engine"),
    ("volume", "Manage volumes"),
];

/// Those that help leaves out.
pub(crate) const HIDDEN_GROUPS: &[&str] = &["completion"];

/// Every verb there is.
pub(crate) const VERBS: &[Entry] = &[
    Entry::of::<attach::Attach>(&["container attach", "attach"]),
    Entry::of::<commit::Commit>(&["container commit", "commit"]),
    Entry::of::<cp::Cp>(&["container cp", "cp"]),
    Entry::of::<create::Create>(&["container create", "create"]),
    Entry::of::<diff::Diff>(&["container diff", "diff"]),
    Entry::of::<exec::Exec>(&["container exec", "exec"]),
    Entry::of::<export::Export>(&["container export", "export"]),
    Entry::of::<inspect::InspectContainer>(&["container inspect"]),
    Entry::of::<kill::Kill>(&["container kill", "kill"]),
    Entry::of::<logs::Logs>(&["container logs", "logs"]),
    Entry::of::<ps::Ps>(&["container ls", "container list", "container ps", "ps"]),
    Entry::of::<pause::Pause>(&["container pause", "pause"]),
    Entry::of::<port::Port>(&["container port", "port"]),
    Entry::of::<prune::Containers>(&["container prune"]),
    Entry::of::<rename::Rename>(&["container rename", "rename"]),
    Entry::of::<restart::Restart>(&["container restart", "restart"]),
    Entry::of::<rm::Rm>(&["container rm", "container remove", "rm"]),
    Entry::of::<run::Run>(&["container run", "run"]),
    Entry::of::<start::Start>(&["container start", "start"]),
    Entry::of::<stats::Stats>(&["container stats", "stats"]),
    Entry::of::<stop::Stop>(&["container stop", "stop"]),
    Entry::of::<top::Top>(&["container top", "top"]),
    Entry::of::<pause::Unpause>(&["container unpause", "unpause"]),
    Entry::of::<update::Update>(&["container update", "update"]),
    Entry::of::<wait::Wait>(&["container wait", "wait"]),
    Entry::of::<why::Why>(&["container why", "why"]),
    Entry::of::<history::History>(&["image history", "history"]),
    Entry::of::<import::Import>(&["image import", "import"]),
    Entry::of::<inspect::InspectImage>(&["image inspect"]),
    Entry::of::<load::Load>(&["image load", "load"]),
    Entry::of::<images::Images>(&["image ls", "image list", "images"]),
    Entry::of::<prune::Images>(&["image prune"]),
    Entry::of::<pull::Pull>(&["image pull", "pull"]),
    Entry::of::<push::Push>(&["image push", "push"]),
    Entry::of::<rmi::Rmi>(&["image rm", "image remove", "rmi"]),
    Entry::of::<save::Save>(&["image save", "save"]),
    Entry::of::<tag::Tag>(&["image tag", "tag"]),
    Entry::of::<manifest::Annotate>(&["manifest annotate"]),
    Entry::of::<manifest::Create>(&["manifest create"]),
    Entry::of::<manifest::Inspect>(&["manifest inspect"]),
    Entry::of::<manifest::Push>(&["manifest push"]),
    Entry::of::<manifest::Rm>(&["manifest rm"]),
    Entry::of::<inspect::InspectNetwork>(&["network inspect"]),
    Entry::of::<network::Ls>(&["network ls", "network list"]),
    Entry::of::<check::Check>(&["system check"]),
    Entry::of::<df::Df>(&["system df"]),
    Entry::of::<dial_stdio::DialStdio>(&["system dial-stdio"]).hidden(),
    Entry::of::<events::Events>(&["system events", "events"]),
    Entry::of::<info::Info>(&["system info", "info"]),
    Entry::of::<prune::System>(&["system prune"]),
    Entry::of::<volume::Create>(&["volume create"]),
    Entry::of::<inspect::InspectVolume>(&["volume inspect"]),
    Entry::of::<volume::Ls>(&["volume ls", "volume list"]),
    Entry::of::<prune::Volumes>(&["volume prune"]),
    Entry::of::<volume::Rm>(&["volume rm", "volume remove"]),
    Entry::of::<inspect::Inspect>(&["inspect"]),
    Entry::of::<registry::Serve>(&["registry serve"]),
    Entry::of::<login::Login>(&["login"]),
    Entry::of::<logout::Logout>(&["logout"]),
    Entry::of::<search::Search>(&["search"]),
    Entry::of::<version::Version>(&["version"]),
    Entry::of::<completion::Bash>(&["completion bash"]),
    Entry::of::<completion::Elvish>(&["completion elvish"]),
    Entry::of::<completion::Fish>(&["completion fish"]),
    Entry::of::<completion::PowerShell>(&["completion powershell"]),
    Entry::of::<completion::Zsh>(&["completion zsh"]),
    Entry::of::<context::Create>(&["context create"]),
    Entry::of::<context::Export>(&["context export"]),
    Entry::of::<context::Import>(&["context import"]),
    Entry::of::<context::Inspect>(&["context inspect"]),
    Entry::of::<context::Ls>(&["context ls", "context list"]),
    Entry::of::<context::Rm>(&["context rm", "context remove"]),
    Entry::of::<context::Show>(&["context show"]),
    Entry::of::<context::Update>(&["context update"]),
    Entry::of::<context::Use>(&["context use"]),
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
        None => {
            Lookup::Unknown(words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default())
        }
    }
}

/// The platform a flag says, if it says one. A mistake is introduced by `what`.
pub(crate) fn platform(flag: Option<&str>, what: &str) -> Result<Option<Platform>> {
    let platform = flag.filter(|text| !text.is_empty()).map(platform::parse).transpose();
    platform.map_err(|reason| Failure::message(format!("{what}{reason}")))
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
    let mut results = stream::iter(names.iter().map(|name| (name, operation(name))))
        .map(|(name, done)| async move { (name, done.await) })
        .buffered(PARALLEL);
    while let Some((name, result)) = results.next().await {
        match result {
            Ok(()) => cli.line(name)?,
            Err(Failure::Notice(text)) => cli.warn(&text),
            Err(failure) => failures.push(failure),
        }
    }
    failure::all(failures)
}
