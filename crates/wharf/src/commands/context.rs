//! `context`: names for engines and how to reach them.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{IsTerminal as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde_json::json;

use super::inspect::present;
use crate::{
    cli::Cli,
    connection::{Material, contexts_read},
    contexts::{
        self, DEFAULT, DEFAULT_DESCRIPTION, DOCKER, DockerEndpoint, Files, Meta, Store, archive, check_name,
        check_own_name,
    },
    credentials::set_current_context,
    failure::{self, Failure, Result},
    format::{Format, Row},
    syntax::csv,
    template::Value,
    verb::{Arity, Verb},
};

/// Keys of `--docker`.
const KEYS: [&str; 6] = ["from", "host", "ca", "cert", "key", "skip-tls-verify"];

/// The pairs of `--docker key=value,...`.
fn pairs(text: &str) -> std::result::Result<Vec<(String, String)>, String> {
    let fields = csv::fields(text)?;
    let pair = |field: &String| {
        let (key, value) =
            field.split_once('=').ok_or_else(|| format!("{field} must be formatted as key=value"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    fields.iter().map(pair).collect()
}

#[derive(Debug, Clone)]
struct Endpoint(Vec<(String, String)>);

fn endpoint(text: &str) -> std::result::Result<Endpoint, String> {
    pairs(text).map(Endpoint)
}

fn store(cli: &Cli) -> Store {
    Store::of(cli.config().directory())
}

/// A context, the one that is on no disk included.
fn get(cli: &Cli, name: &str) -> Result<Meta> {
    if name != DEFAULT {
        return store(cli).get(name);
    }
    let endpoint = DockerEndpoint { host: cli.default_host(), skip_tls_verify: false };
    Ok(Meta::new(DEFAULT, "", &endpoint))
}

/// What `--docker` says: the endpoint, and its files.
fn configured(cli: &Cli, given: &[Endpoint]) -> Result<(DockerEndpoint, Files)> {
    let failed =
        |failure: Failure| Failure::message(format!("unable to create docker endpoint config: {failure}"));
    read_endpoint(cli, given).map_err(failed)
}

fn read_endpoint(cli: &Cli, given: &[Endpoint]) -> Result<(DockerEndpoint, Files)> {
    let pairs: BTreeMap<&str, &str> = given
        .iter()
        .flat_map(|endpoint| &endpoint.0)
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    if let Some(unknown) = pairs.keys().find(|key| !KEYS.contains(key)) {
        return Err(Failure::message(format!("unrecognized config key: {unknown}")));
    }
    if let Some(from) = pairs.get("from") {
        return Ok((get(cli, from)?.endpoint()?, store(cli).files(from, DOCKER)?));
    }
    let mut files = Files::new();
    for (key, name) in [("ca", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem")] {
        if let Some(path) = pairs.get(key) {
            files.insert(name.to_owned(), contexts_read(Path::new(path))?);
        }
    }
    let skip_tls_verify = match pairs.get("skip-tls-verify") {
        None => false,
        Some(text) => match *text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => return Err(Failure::message(format!("skip-tls-verify: parsing {text:?}: invalid syntax"))),
        },
    };
    let host = (*pairs.get("host").unwrap_or(&"")).to_owned();
    if !host.is_empty() && !host.contains("://") {
        return Err(Failure::message(format!(
            "unable to apply docker endpoint options: unable to parse docker host `{host}`"
        )));
    }
    if !files.is_empty() {
        let material = Material::of_files(files.clone(), skip_tls_verify);
        let checked = material.config();
        checked.map_err(|failure| Failure::message(format!("invalid docker endpoint options: {failure}")))?;
    }
    Ok((DockerEndpoint { host, skip_tls_verify }, files))
}

/// The raw arguments of `context create`.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// What the context is
    #[arg(long)]
    description: Option<String>,
    /// How to reach the engine: host=ADDRESS, ca=FILE, cert=FILE, key=FILE, skip-tls-verify=BOOL or from=CONTEXT
    #[arg(long, value_parser = endpoint, value_name = "stringToString")]
    docker: Vec<Endpoint>,
    /// Take everything from another context
    #[arg(long)]
    from: Option<String>,
    #[arg(hide = true)]
    name: Vec<String>,
}

impl Verb for Create {
    const ABOUT: &'static str = "Create a context";
    const USAGE: &'static str = "[OPTIONS] CONTEXT";
    const ARITY: Arity = Arity::Exactly(1);

    async fn run(self, cli: &Cli) -> Result {
        let (name, store) = (&self.name[0], store(cli));
        check_own_name(name)?;
        if store.exists(name) {
            return Err(Failure::message(format!("context {name:?} already exists")));
        }
        if self.from.is_some() && !self.docker.is_empty() {
            return Err(Failure::message("cannot use --docker flag when --from is set"));
        }
        let (meta, files) = if self.docker.is_empty() {
            // Without anything it is a copy of what is in use.
            let from = self.from.clone().unwrap_or_else(|| cli.context());
            let mut meta = Meta { name: name.clone(), ..get(cli, &from)? };
            if from == DEFAULT {
                meta.describe(DEFAULT_DESCRIPTION);
            }
            (
                meta,
                store
                    .material(&from)
                    .keys()
                    .map(|kind| Ok((kind.clone(), store.files(&from, kind)?)))
                    .collect::<Result<_>>()?,
            )
        } else {
            let (endpoint, files) = configured(cli, &self.docker)?;
            (Meta::new(name, "", &endpoint), BTreeMap::from([(DOCKER.to_owned(), files)]))
        };
        let mut meta = meta;
        if let Some(description) = &self.description {
            meta.describe(description);
        }
        store.put(&meta, &files)?;
        cli.line(name)?;
        cli.warn(&format!("Successfully created context {name:?}"));
        Ok(())
    }
}

/// The raw arguments of `context update`.
#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// What the context is
    #[arg(long)]
    description: Option<String>,
    /// How to reach the engine: host=ADDRESS, ca=FILE, cert=FILE, key=FILE, skip-tls-verify=BOOL or from=CONTEXT
    #[arg(long, value_parser = endpoint, value_name = "stringToString")]
    docker: Vec<Endpoint>,
    #[arg(hide = true)]
    name: Vec<String>,
}

impl Verb for Update {
    const ABOUT: &'static str = "Update a context";
    const USAGE: &'static str = "[OPTIONS] CONTEXT";
    const ARITY: Arity = Arity::Exactly(1);

    async fn run(self, cli: &Cli) -> Result {
        let (name, store) = (&self.name[0], store(cli));
        check_own_name(name)?;
        let mut meta = store.get(name)?;
        if let Some(description) = self.description.filter(|description| !description.is_empty()) {
            meta.describe(&description);
        }
        let mut files: BTreeMap<String, Files> = store
            .material(name)
            .keys()
            .map(|kind| Ok((kind.clone(), store.files(name, kind)?)))
            .collect::<Result<_>>()?;
        if !self.docker.is_empty() {
            let (endpoint, own) = configured(cli, &self.docker)?;
            meta.set_endpoint(&endpoint);
            files.insert(DOCKER.to_owned(), own);
        }
        store.put(&meta, &files)?;
        cli.line(name)?;
        cli.warn(&format!("Successfully updated context {name:?}"));
        Ok(())
    }
}

/// The raw arguments of `context use`.
#[derive(Debug, clap::Args)]
pub(crate) struct Use {
    #[arg(hide = true)]
    name: Vec<String>,
}

impl Verb for Use {
    const ABOUT: &'static str = "Set the context that is in use";
    const USAGE: &'static str = "CONTEXT";
    const ARITY: Arity = Arity::Exactly(1);

    async fn run(self, cli: &Cli) -> Result {
        let name = self.name[0].as_str();
        check_name(name)?;
        let current = match name {
            DEFAULT => None,
            name => Some(store(cli).get(name)?.name),
        };
        // What is as wanted is not written: there may be no file.
        if cli.config().current_context != current.as_deref().unwrap_or("") {
            set_current_context(cli.config().directory(), current.as_deref())
                .map_err(|error| Failure::message(error.to_string()))?;
        }
        cli.line(name)?;
        cli.warn(&format!("Current context is now {name:?}"));
        if name != DEFAULT && contexts::variable("DOCKER_HOST").is_some() {
            cli.warn(&format!(
                "Warning: DOCKER_HOST environment variable overrides the active context. To use {name:?}, either set \
                 the global --context flag, or unset DOCKER_HOST environment variable."
            ));
        }
        Ok(())
    }
}

/// The raw arguments of `context show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {}

impl Verb for Show {
    const ABOUT: &'static str = "Print the name of the current context";
    const USAGE: &'static str = "";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        cli.line(&cli.context())
    }
}

/// The raw arguments of `context rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Remove a context that is in use, too
    #[arg(short = 'f', long)]
    force: bool,
    #[arg(hide = true)]
    names: Vec<String>,
}

impl Verb for Rm {
    const ABOUT: &'static str = "Remove one or more contexts";
    const USAGE: &'static str = "CONTEXT [CONTEXT...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        let (store, mut failures) = (store(cli), Vec::new());
        for name in &self.names {
            match self.remove(cli, &store, name) {
                Ok(()) => cli.line(name)?,
                Err(failure) => failures.push(failure),
            }
        }
        failure::all(failures)
    }
}

impl Rm {
    fn remove(&self, cli: &Cli, store: &Store, name: &str) -> Result {
        if name == DEFAULT {
            return Err(Failure::message("context \"default\" cannot be removed"));
        }
        if !self.force && !store.exists(name) {
            return Err(Failure::message(format!("context {name:?} does not exist")));
        }
        if cli.config().current_context == name {
            if !self.force {
                return Err(Failure::message(format!(
                    "context {name:?} is in use, set -f flag to force remove"
                )));
            }
            set_current_context(cli.config().directory(), None)
                .map_err(|error| Failure::message(error.to_string()))?;
        }
        store.remove(name)
    }
}

/// The raw arguments of `context export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    #[arg(hide = true)]
    arguments: Vec<String>,
}

impl Verb for Export {
    const ABOUT: &'static str = "Export a context to a tar archive FILE or a tar stream on STDOUT.";
    const USAGE: &'static str = "[OPTIONS] CONTEXT [FILE|-]";
    const ARITY: Arity = Arity::Between(1, 2);

    async fn run(self, cli: &Cli) -> Result {
        let (name, store) = (self.arguments[0].as_str(), store(cli));
        check_name(name)?;
        let meta = get(cli, name)?;
        let files: BTreeMap<String, Files> = store
            .material(name)
            .keys()
            .map(|kind| Ok((kind.clone(), store.files(name, kind)?)))
            .collect::<Result<_>>()?;
        let target = self.arguments.get(1).cloned().unwrap_or_else(|| format!("{name}.dockercontext"));
        if target == "-" {
            if std::io::stdout().is_terminal() {
                return Err(Failure::message(
                    "cowardly refusing to export to a terminal, specify a file path",
                ));
            }
            return archive::export(&meta, &files, std::io::stdout().lock());
        }
        // There are keys in it, and a file that is there is somebody's.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target);
        let file = file.map_err(|error| Failure::message(format!("open {target}: {}", reason(&error))))?;
        archive::export(&meta, &files, &file)?;
        file.sync_all()?;
        let _ = writeln!(std::io::stderr(), "Written file {target:?}");
        Ok(())
    }
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AlreadyExists => "file exists".to_owned(),
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// The raw arguments of `context import`.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    #[arg(hide = true)]
    arguments: Vec<String>,
}

impl Verb for Import {
    const ABOUT: &'static str = "Import a context from a tar or zip file";
    const USAGE: &'static str = "CONTEXT FILE|-";
    const ARITY: Arity = Arity::Exactly(2);

    async fn run(self, cli: &Cli) -> Result {
        let (name, source, store) = (self.arguments[0].as_str(), self.arguments[1].as_str(), store(cli));
        check_own_name(name)?;
        if store.exists(name) {
            return Err(Failure::message(format!("context {name:?} already exists")));
        }
        let (meta, files) = if source == "-" {
            archive::import(name, std::io::stdin().lock())?
        } else {
            let file = std::fs::File::open(source);
            let file =
                file.map_err(|error| Failure::message(format!("open {source}: {}", reason(&error))))?;
            archive::import(name, file)?
        };
        store.put(&meta, &files)?;
        cli.line(name)?;
        cli.warn(&format!("Successfully imported context {name:?}"));
        Ok(())
    }
}

/// The raw arguments of `context inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// How to show it: json or a template
    #[arg(short = 'f', long)]
    format: Option<String>,
    #[arg(hide = true)]
    names: Vec<String>,
}

impl Verb for Inspect {
    const ABOUT: &'static str = "Show everything about one or more contexts";
    const USAGE: &'static str = "[OPTIONS] [CONTEXT] [CONTEXT...]";
    const ARITY: Arity = Arity::AtLeast(0);

    async fn run(mut self, cli: &Cli) -> Result {
        if self.names.is_empty() {
            self.names.push(cli.context());
        }
        let documents = self.names.iter().map(|name| document(cli, name)).collect();
        present(cli, self.format.as_deref(), documents)
    }
}

/// A context with where it is kept, in docker's order.
fn document(cli: &Cli, name: &str) -> Result<String> {
    let (meta, store) = (get(cli, name)?, store(cli));
    let (places, material) = match name {
        DEFAULT => (["<IN MEMORY>".to_owned(), "<IN MEMORY>".to_owned()], json!({})),
        name => {
            let (description, secrets) = store.places(name);
            ([description.display().to_string(), secrets.display().to_string()], json!(store.material(name)))
        }
    };
    let own = serde_json::to_string(&meta).map_err(std::io::Error::from)?;
    let [metadata_path, tls_path] =
        places.map(|path| json!(path).to_string().replace('<', "\\u003c").replace('>', "\\u003e"));
    let own = own.strip_suffix('}').unwrap_or(&own);
    Ok(format!(
        "{own},\"TLSMaterial\":{material},\"Storage\":{{\"MetadataPath\":{metadata_path},\"TLSPath\":{tls_path}}}}}"
    ))
}

/// The raw arguments of `context ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// How to show it: table, json, or a template
    #[arg(long)]
    format: Option<String>,
    /// Show names only
    #[arg(short = 'q', long)]
    quiet: bool,
}

impl Verb for Ls {
    const ABOUT: &'static str = "List contexts";
    const USAGE: &'static str = "[OPTIONS]";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        let (current, store) = (cli.context(), store(cli));
        let mut rows = vec![Line {
            name: DEFAULT.to_owned(),
            current: current == DEFAULT,
            description: DEFAULT_DESCRIPTION.to_owned(),
            host: cli.default_host(),
            error: String::new(),
        }];
        for meta in store.list() {
            let (host, error) = match meta.endpoint() {
                Ok(endpoint) => (endpoint.host, String::new()),
                Err(failure) => (String::new(), failure.to_string()),
            };
            let description = meta.description().to_owned();
            rows.push(Line { current: meta.name == current, name: meta.name, description, host, error });
        }
        if let Some(failure) =
            (!rows.iter().any(|row| row.current)).then(|| store.get(&current).err()).flatten()
        {
            // The one that is asked for is shown, with what is wrong with it.
            rows.push(Line {
                name: current,
                current: true,
                description: String::new(),
                host: String::new(),
                error: crate::format::human::ellipsis(&failure.to_string(), 45),
            });
        }
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        let table = if self.quiet {
            "{{.Name}}"
        } else {
            "table {{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}"
        };
        let format = Format::parse::<Line>(self.format.as_deref().unwrap_or(""), table)?;
        cli.print(&format.render(rows)?)?;
        if !self.quiet && contexts::variable("DOCKER_HOST").is_some() && cli.context() == DEFAULT {
            cli.warn(
                "Warning: DOCKER_HOST environment variable overrides the active context. To use a context, either set \
                 the global --context flag, or unset DOCKER_HOST environment variable.",
            );
        }
        Ok(())
    }
}

/// A line of the listing.
struct Line {
    name: String,
    current: bool,
    description: String,
    host: String,
    error: String,
}

impl Row for Line {
    const TYPE: &'static str = "*formatter.clientContextContext";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("Current", ""),
        ("Description", "DESCRIPTION"),
        ("DockerEndpoint", "DOCKER ENDPOINT"),
        ("Error", "ERROR"),
        ("Name", "NAME"),
    ];

    fn column(&self, name: &str) -> Value {
        match name {
            "Current" => Value::Bool(self.current),
            "Description" => self.description.as_str().into(),
            "DockerEndpoint" => self.host.as_str().into(),
            "Error" => self.error.as_str().into(),
            _ => self.name.as_str().into(),
        }
    }
}
