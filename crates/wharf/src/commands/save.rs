//! `save`: writes images to an archive.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use wharf_api::client::{Request, Response};

use crate::{
    cli::Cli,
    failure::{Failure, Result},
    syntax::environment::plain,
    terminal,
    verb::{Arity, Verb},
};

/// The raw arguments of `save`.
#[derive(Debug, clap::Args)]
pub(crate) struct Save {
    /// Write to a file rather than standard output
    #[arg(short = 'o', long)]
    output: Option<String>,
    /// Save only this platform
    #[arg(long)]
    platform: Option<String>,
    #[arg(hide = true)]
    images: Vec<String>,
}

impl Verb for Save {
    const ABOUT: &'static str = "Save images to a tar archive";
    const USAGE: &'static str = "[OPTIONS] IMAGE [IMAGE...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        if self.output.is_none() && terminal::output_is_terminal() {
            return Err(Failure::message(
                "cowardly refusing to save to a terminal. Use the -o flag or redirect",
            ));
        }
        if let Some(path) = &self.output {
            check(path).map_err(|reason| Failure::message(format!("failed to save image: {reason}")))?;
        }
        let mut request = Request::get("/images/get");
        for image in &self.images {
            request = request.query("names", image);
        }
        if let Some(platform) = super::platform(self.platform.as_deref(), "invalid platform: ")? {
            request = request.query("platform", platform.document());
        }
        let response = cli.engine().await?.send(request).await?;
        write(response, self.output.as_deref()).await
    }
}

/// Writes what the engine sends to a file, or to standard output.
pub(super) async fn write(response: Response, output: Option<&str>) -> Result {
    match output {
        None => copy(response, &mut io::stdout().lock()).await,
        Some(path) => to_file(response, Path::new(path)).await,
    }
}

/// Why a path cannot be written to, if it cannot.
pub(super) fn check(path: &str) -> std::result::Result<(), String> {
    let directory = Path::new(path).parent().filter(|directory| !directory.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    if let Err(error) = std::fs::metadata(directory) {
        return Err(format!("invalid output path: stat {}: {}", directory.display(), plain(&error)));
    }
    if Path::new(path).is_dir() {
        return Err(format!("invalid output path: {path:?} must be a regular file"));
    }
    Ok(())
}

/// Writes beside the file and puts it in place at the end, so that a half-written archive is never mistaken for one.
async fn to_file(response: Response, path: &Path) -> Result {
    if path.exists() && !path.is_file() {
        // A device or a pipe cannot be replaced.
        return copy(response, &mut File::create(path)?).await;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(name);
    let failed = |error: io::Error| Failure::message(format!("write {}: {}", path.display(), plain(&error)));
    let mut file = File::create(&part).map_err(failed)?;
    let result = match copy(response, &mut file).await {
        Ok(()) => std::fs::rename(&part, path).map_err(failed),
        Err(failure) => Err(failure),
    };
    if result.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    result
}

async fn copy(mut response: Response, out: &mut dyn Write) -> Result {
    while let Some(bytes) = response.chunk().await? {
        out.write_all(&bytes)?;
    }
    Ok(out.flush()?)
}
