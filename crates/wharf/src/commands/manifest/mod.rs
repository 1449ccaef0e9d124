//! `manifest`: looks at manifests in registries, and makes lists of them, so that one name stands for the images of
//! several platforms.
//!
//! These verbs speak to registries themselves. A list is put together on this machine ([`store`]) and then pushed
//! ([`push`]).

mod list;
mod push;
mod remote;
mod store;

use wharf_model::Reference;

pub(crate) use self::push::Push;
use self::{
    list::Entry,
    remote::{Found, Remote},
    store::Store,
};
use crate::{
    cli::Cli,
    failure::{self, Failure, Result},
    syntax::platform::Platform,
    template::json_indent,
    verb::{Arity, Verb},
};

/// Pairs of operating system and architecture that a list may have.
const KNOWN: [(&str, &[&str]); 9] = [
    ("darwin", &["386", "amd64", "arm", "arm64"]),
    ("dragonfly", &["amd64"]),
    ("freebsd", &["386", "amd64", "arm"]),
    ("linux", &["386", "amd64", "arm", "arm64", "mips64", "mips64le", "ppc64le", "riscv64", "s390x"]),
    ("netbsd", &["386", "amd64", "arm"]),
    ("openbsd", &["386", "amd64", "arm"]),
    ("plan9", &["386", "amd64"]),
    ("solaris", &["amd64"]),
    ("windows", &["386", "amd64"]),
];

/// A manifest by its whole name.
fn reference(text: &str) -> Result<Reference> {
    let parsed = Reference::parse_normalized(text).map(Reference::or_latest);
    parsed.map_err(|error| Failure::message(error.to_string()))
}

/// The same, with what the name was to be in front of the mistake.
fn reference_of(what: &str, text: &str) -> Result<Reference> {
    reference(text).map_err(|failure| Failure::message(format!("{what} {text}: {failure}")))
}

/// The raw arguments of `manifest inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// Speak to a registry without a certificate that can be checked
    #[arg(long)]
    insecure: bool,
    /// Show layers and platform as well
    #[arg(short = 'v', long)]
    verbose: bool,
    #[arg(hide = true)]
    names: Vec<String>,
}

impl Verb for Inspect {
    const ABOUT: &'static str = "Show a manifest or a list of them";
    const USAGE: &'static str = "[OPTIONS] [MANIFEST_LIST] MANIFEST";
    const ARITY: Arity = Arity::Between(1, 2);

    async fn run(self, cli: &Cli) -> Result {
        let store = Store::of(cli.config().directory());
        let (list, name) = match self.names.as_slice() {
            [list, name] => (Some(list), name),
            names => (None, &names[0]),
        };
        let name = reference(name)?;
        if let Some(list) = list {
            let entry = store.get(&reference(list)?, &name)?.ok_or_else(|| store::unknown(&name))?;
            return cli.print(&self.one(&entry));
        }
        if let Some(entries) = store.list(&name)? {
            return cli.print(&self.several(&name, &entries)?);
        }
        let insecure = [&name];
        let remote = Remote::new(if self.insecure { &insecure } else { &[] })?;
        match remote.find(cli, &name).await? {
            Found::Manifest(entry) => cli.print(&self.one(&entry)),
            Found::Index(index) => {
                let entries = remote.members(cli, &name, &index).await?;
                cli.print(&self.several(&name, &entries)?)
            }
        }
    }
}

impl Inspect {
    fn one(&self, entry: &Entry) -> String {
        let text = if self.verbose { entry.to_json() } else { entry.text().into_owned() };
        format!("{}\n", json_indent(&text, "", "\t"))
    }

    fn several(&self, name: &Reference, entries: &[Entry]) -> Result<String> {
        if !self.verbose {
            return Ok(format!("{}\n", String::from_utf8_lossy(&list::build(name, entries)?.bytes)));
        }
        let texts: Vec<String> = entries.iter().map(Entry::to_json).collect();
        Ok(format!("{}\n", json_indent(&format!("[{}]", texts.join(",")), "", "\t")))
    }
}

/// The raw arguments of `manifest create`.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Change a list that is there
    #[arg(short = 'a', long)]
    amend: bool,
    /// Speak to a registry without a certificate that can be checked
    #[arg(long)]
    insecure: bool,
    #[arg(hide = true)]
    names: Vec<String>,
}

impl Verb for Create {
    const ABOUT: &'static str = "Make a list of manifests, to be annotated and pushed";
    const USAGE: &'static str = "MANIFEST_LIST MANIFEST [MANIFEST...]";
    const ARITY: Arity = Arity::AtLeast(2);

    async fn run(self, cli: &Cli) -> Result {
        let store = Store::of(cli.config().directory());
        let list = reference_of("error parsing name for manifest list", &self.names[0])?;
        if store.list(&list)?.is_some() && !self.amend {
            return Err(Failure::message("refusing to amend an existing manifest list with no --amend flag"));
        }
        let names = self.names[1..].iter().map(|name| reference(name)).collect::<Result<Vec<_>>>()?;
        let insecure = if self.insecure { names.iter().collect() } else { Vec::new() };
        let remote = Remote::new(&insecure)?;
        for name in &names {
            if store.get(&list, name)?.is_some() {
                continue;
            }
            match remote.find(cli, name).await? {
                Found::Manifest(entry) => store.save(&list, name, &entry)?,
                Found::Index(_) => return Err(Failure::message(format!("{name} is a manifest list"))),
            }
        }
        cli.line(&format!("Created manifest list {list}"))
    }
}

/// The raw arguments of `manifest annotate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Annotate {
    /// Architecture
    #[arg(long)]
    arch: Option<String>,
    /// Operating system
    #[arg(long)]
    os: Option<String>,
    /// Features of the operating system
    #[arg(long, value_delimiter = ',', value_name = "strings")]
    os_features: Vec<String>,
    /// Version of the operating system
    #[arg(long)]
    os_version: Option<String>,
    /// Variant of the architecture
    #[arg(long)]
    variant: Option<String>,
    #[arg(hide = true)]
    names: Vec<String>,
}

impl Verb for Annotate {
    const ABOUT: &'static str = "Say more about a manifest in a list";
    const USAGE: &'static str = "[OPTIONS] MANIFEST_LIST MANIFEST";
    const ARITY: Arity = Arity::Exactly(2);

    async fn run(self, cli: &Cli) -> Result {
        let store = Store::of(cli.config().directory());
        let list = reference_of("annotate: error parsing name for manifest list", &self.names[0])?;
        let name = reference_of("annotate: error parsing name for manifest", &self.names[1])?;
        let Some(mut entry) = store.get(&list, &name)? else {
            return Err(Failure::message(format!(
                "manifest for image {} does not exist in {}",
                self.names[1], self.names[0]
            )));
        };
        self.apply(entry.descriptor.platform.get_or_insert_default())?;
        store.save(&list, &name, &entry)
    }
}

impl Annotate {
    fn apply(&self, platform: &mut Platform) -> Result {
        for (given, own) in [
            (&self.os, &mut platform.os),
            (&self.arch, &mut platform.architecture),
            (&self.variant, &mut platform.variant),
            (&self.os_version, &mut platform.os_version),
        ] {
            if let Some(given) = given.as_ref().filter(|given| !given.is_empty()) {
                own.clone_from(given);
            }
        }
        for feature in &self.os_features {
            if !platform.os_features.contains(feature) {
                platform.os_features.push(feature.clone());
            }
        }
        let known = |(os, architectures): &(&str, &[&str])| {
            *os == platform.os && architectures.contains(&platform.architecture.as_str())
        };
        if !KNOWN.iter().any(known) {
            return Err(Failure::message(format!(
                "manifest entry for image has unsupported os/arch combination: {}/{}",
                self.os.as_deref().unwrap_or(""),
                self.arch.as_deref().unwrap_or("")
            )));
        }
        Ok(())
    }
}

/// The raw arguments of `manifest rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    #[arg(hide = true)]
    lists: Vec<String>,
}

impl Verb for Rm {
    const ABOUT: &'static str = "Forget lists of manifests on this machine";
    const USAGE: &'static str = "MANIFEST_LIST [MANIFEST_LIST...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        let store = Store::of(cli.config().directory());
        let mut failures = Vec::new();
        for list in &self.lists {
            let list = reference(list)?;
            match store.list(&list)? {
                Some(_) => store.remove(&list)?,
                None => failures.push(store::unknown(&list)),
            }
        }
        failure::all(failures)
    }
}
