//! `create`: makes a container and does not start it. `run` uses the same flags and steps.

pub(crate) mod flags;
pub(crate) mod spec;

use std::{
    fs::File,
    io::{self, Write as _},
};

use serde::Deserialize;
use wharf_api::client::{Client, Request};
use wharf_model::Reference;

use self::{
    flags::{ContainerFlags, LifecycleFlags},
    spec::Spec,
};
use super::pull;
use crate::{
    cli::Cli,
    failure::{Failure, Result},
    progress::{self, Sink},
    syntax::environment::plain,
    verb::{Arity, Verb},
};

/// The raw arguments of `create`.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    #[command(flatten)]
    container: ContainerFlags,
}

impl Verb for Create {
    const ABOUT: &'static str = "Make a new container";
    const USAGE: &'static str = "[OPTIONS] IMAGE [COMMAND] [ARG...]";
    const ARITY: Arity = Arity::AtLeast(1);
    const LEADING_FLAGS: bool = true;

    async fn run(self, cli: &Cli) -> Result {
        let client = cli.engine().await?;
        let spec = build(cli, client, &self.container, "create")?;
        let id = create(cli, client, &self.container, &spec).await?;
        cli.line(&id)
    }
}

/// Makes a request of the flags; a mistake is a usage error of `verb`.
pub(crate) fn build(cli: &Cli, client: &Client, flags: &ContainerFlags, verb: &str) -> Result<Spec> {
    if !["always", "missing", "never", ""].contains(&flags.image.pull.as_str()) {
        let reason = format!(
            "invalid pull option: '{}': must be one of \"always\", \"missing\" or \"never\"",
            flags.image.pull
        );
        return Err(with_help(125, &reason, verb));
    }
    spec::build(flags, cli.config(), &client.endpoint().to_string())
        .map_err(|reason| with_help(125, &reason, verb))
}

/// A failure of `run` or `create` as a whole: introduced by the program's name, with a hint at the end.
pub(crate) fn with_help(code: u8, reason: &str, verb: &str) -> Failure {
    Failure::status(code, format!("wharf: {reason}\n\nRun 'wharf {verb} --help' for more information"))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// Creates the container, fetching its image if need be, and returns its ID.
pub(crate) async fn create(
    cli: &Cli,
    client: &Client,
    flags: &ContainerFlags,
    spec: &Spec,
) -> Result<String> {
    let image = reference(&spec.image)?;
    super::platform(flags.image.platform.as_deref(), "error parsing specified platform: ")?;
    let mut cidfile = flags.lifecycle.cidfile.as_deref().map(CidFile::reserve).transpose()?;
    let created = request(cli, client, flags, spec, &image).await?;
    for warning in created.warnings.into_iter().flatten() {
        cli.warn(&format!("WARNING: {warning}"));
    }
    if let Some(file) = &mut cidfile {
        file.write(&created.id)?;
    }
    Ok(created.id)
}

async fn request(
    cli: &Cli,
    client: &Client,
    flags: &ContainerFlags,
    spec: &Spec,
    image: &Reference,
) -> Result<Created> {
    let pull = flags.image.pull.as_str();
    if pull == "always" {
        fetch(cli, image, flags).await?;
    }
    match post(client, &flags.lifecycle, flags.image.platform.as_deref(), spec).await {
        Err(failure)
            if failure.is_not_found() && !["always", "never"].contains(&pull) && !is_id(&spec.image) =>
        {
            if !failure.to_string().contains("No such image") {
                return Err(failure);
            }
            if !flags.image.quiet {
                cli.warn(&format!("Unable to find image '{}' locally", image.familiar()));
            }
            fetch(cli, image, flags).await?;
            post(client, &flags.lifecycle, flags.image.platform.as_deref(), spec).await
        }
        result => result,
    }
}

/// Fetches the image; the progress goes to standard error, because the container's ID or output goes to the other.
async fn fetch(cli: &Cli, image: &Reference, flags: &ContainerFlags) -> Result {
    let documents = pull::fetch(cli, image, flags.image.platform.as_deref()).await?;
    progress::show(documents, Sink::Stderr.unless(flags.image.quiet)).await
}

/// The file a container's ID is written to. It is made before the container, and removed again if there is none.
struct CidFile<'a> {
    path: &'a str,
    file: File,
    written: bool,
}

impl<'a> CidFile<'a> {
    fn reserve(path: &'a str) -> Result<Self> {
        match File::create_new(path) {
            Ok(file) => Ok(Self { path, file, written: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Failure::message(format!(
                "container ID file found, make sure the other container isn't running or delete {path}"
            ))),
            Err(error) => Err(Failure::message(format!(
                "failed to create the container ID file: open {path}: {}",
                plain(&error)
            ))),
        }
    }

    fn write(&mut self, id: &str) -> Result {
        self.file.write_all(id.as_bytes()).map_err(|error| {
            Failure::message(format!("failed to write the container ID to {}: {}", self.path, plain(&error)))
        })?;
        self.written = true;
        Ok(())
    }
}

impl Drop for CidFile<'_> {
    fn drop(&mut self) {
        if !self.written {
            let _ = std::fs::remove_file(self.path);
        }
    }
}

async fn post(
    client: &Client,
    flags: &LifecycleFlags,
    platform: Option<&str>,
    spec: &Spec,
) -> Result<Created> {
    let request = Request::post("/containers/create")
        .query_if("name", flags.name.as_deref().unwrap_or(""))
        .query_if("platform", platform.unwrap_or(""))
        .json(&spec.body)?;
    Ok(client.send(request).await?.json().await?)
}

/// The name of an image, as far as it can be one.
fn reference(image: &str) -> Result<Reference> {
    // A full or short ID is a valid name as well; which one is meant only the engine knows.
    Reference::parse_normalized(image)
        .map(Reference::or_latest)
        .map_err(|error| Failure::message(error.to_string()))
}

/// Whether the image is named by digest alone, which cannot be fetched.
fn is_id(image: &str) -> bool {
    image.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64)
}
