//! `push`: uploads images to a registry.

use serde::Deserialize;
use wharf_api::client::{Request, escape};

use super::pull::{AUTH_HEADER, in_registry};
use crate::{
    cli::Cli,
    failure::{Failure, Result},
    progress::{self, Sink},
    syntax::platform::{self, Platform},
    terminal::{self, note::Note},
    verb::{Arity, Verb},
};

/// The raw arguments of `push`.
#[derive(Debug, clap::Args)]
pub(crate) struct Push {
    /// Upload every tag of the repository
    #[arg(short = 'a', long)]
    all_tags: bool,
    /// Do not sign the image
    #[arg(long, default_value = "true")]
    disable_content_trust: bool,
    /// Upload only this platform's image ('os[/arch[/variant]]', as linux/amd64)
    #[arg(long)]
    platform: Option<String>,
    /// Show only the image's name
    #[arg(short = 'q', long)]
    quiet: bool,
    #[arg(hide = true)]
    name: Vec<String>,
}

impl Verb for Push {
    const ABOUT: &'static str = "Upload an image to a registry";
    const USAGE: &'static str = "[OPTIONS] NAME[:TAG]";
    const ARITY: Arity = Arity::Exactly(1);

    async fn run(self, cli: &Cli) -> Result {
        let note = Note::new(terminal::output_is_terminal());
        let platform = self.platform(cli, &note)?;
        let reference = in_registry(cli, &self.name[0], self.all_tags, self.quiet)?;
        if reference.digest().is_some() {
            return Err(Failure::message("cannot push a digest reference"));
        }
        let request = Request::post(format!("/images/{}/push", escape(&reference.name())))
            .query_if("tag", reference.tag().unwrap_or_default())
            .query_if("platform", platform.map(|platform| platform.document()).unwrap_or_default())
            .header(AUTH_HEADER, &cli.auth(&reference).await.header());
        let documents = cli.engine().await?.send(request).await?.documents();
        let mut remarks = Vec::new();
        let pushed = progress::show_with(documents, Sink::Stdout.unless(self.quiet), |aux| {
            remarks.extend(remark(aux, &note));
        })
        .await;
        if pushed.is_ok() && self.quiet {
            cli.line(&reference.to_string())?;
        }
        for remark in remarks {
            cli.print(&note.text(&remark))?;
        }
        pushed
    }
}

impl Push {
    fn platform(&self, cli: &Cli, note: &Note) -> Result<Option<Platform>> {
        let Some(text) = self.platform.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
        let platform = platform::parse(text)
            .map_err(|reason| Failure::message(format!("Invalid platform {text}{reason}")))?;
        let flag = note.bold("--platform");
        cli.print(&note.text(&format!(
            "Using {flag} pushes only the specified platform manifest of a multi-platform image index.\n\
             Other components, like attestations, will not be included.\n\
             To push the complete multi-platform image, remove the {flag} flag.\n"
        )))?;
        Ok(Some(platform))
    }
}

/// What the engine tells programs about a push.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Aux {
    manifest_pushed_instead_of_index: bool,
    original_index: Described,
    selected_manifest: Described,
    content_missing: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Described {
    digest: String,
}

/// What of it the user should know.
fn remark(aux: serde_json::Value, note: &Note) -> Option<String> {
    let aux: Aux = serde_json::from_value(aux).ok()?;
    if aux.manifest_pushed_instead_of_index {
        return Some(format!(
            "Not all multiplatform-content is present and only the available single-platform image was pushed\n{} -> {}",
            note.red(&aux.original_index.digest),
            note.green(&aux.selected_manifest.digest)
        ));
    }
    aux.content_missing.then(|| {
        "You're trying to push a manifest list/index which\n\
         references multiple platform specific manifests, but not all of them are available locally\n\
         or available to the remote repository.\n\n\
         Make sure you have all the referenced content and try again.\n\n\
         You can also push only a single platform specific manifest directly by specifying the platform you want to push with the --platform flag."
            .to_owned()
    })
}
