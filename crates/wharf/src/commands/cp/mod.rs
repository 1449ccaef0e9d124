//! `cp`: copies files between a container and here.

mod local;
mod paths;

use std::{
    io::{self, Write},
    sync::atomic::Ordering,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderMap;
use serde::Deserialize;
use wharf_api::client::{Client, Request, escape};

use self::paths::End;
use crate::{
    cli::Cli,
    failure::{Failure, Result},
    format::human,
    terminal, upload,
    verb::{Arity, Verb},
};

/// Bits of Go's file modes.
const DIRECTORY: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;

/// The raw arguments of `cp`.
#[derive(Debug, clap::Args)]
pub(crate) struct Cp {
    /// Keep owners and groups
    #[arg(short = 'a', long)]
    archive: bool,
    /// Copy what a link at the source points at
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Say nothing about progress; the default where the output is no terminal
    #[arg(short = 'q', long)]
    quiet: Option<bool>,
    #[arg(hide = true)]
    paths: Vec<String>,
}

/// What the engine says of a path.
#[derive(Debug, Deserialize)]
struct PathStat {
    mode: u32,
    #[serde(rename = "linkTarget")]
    link_target: String,
}

impl Verb for Cp {
    const ABOUT: &'static str = "Copy files or folders between a container and the local file system";
    const USAGE: &'static str =
        "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\twharf cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH";
    const ARITY: Arity = Arity::Exactly(2);

    async fn run(self, cli: &Cli) -> Result {
        let (source, destination) = (self.paths[0].clone(), self.paths[1].clone());
        for (argument, what) in [(&source, "source"), (&destination, "destination")] {
            if argument.is_empty() {
                return Err(Failure::message(format!("{what} can not be empty")));
            }
        }
        match (paths::split_argument(&source), paths::split_argument(&destination)) {
            ((Some(container), from), (None, to)) => self.copy_out(cli, container, from, to).await,
            ((None, from), (Some(container), to)) => self.copy_in(cli, from, container, to).await,
            ((Some(_), _), (Some(_), _)) => {
                Err(Failure::message("copying between containers is not supported"))
            }
            ((None, _), (None, _)) => Err(Failure::message("must specify at least one container source")),
        }
    }
}

impl Cp {
    async fn copy_out(&self, cli: &Cli, container: &str, from: &str, to: &str) -> Result {
        let to = if to == "-" { to.to_owned() } else { local::absolute(to)? };
        if to != "-" {
            local::check_output(&to)?;
        }
        let engine = cli.engine().await?;
        let mut source = End { path: from.to_owned(), ..End::default() };
        if self.follow_link
            && let Ok(stat) = stat(engine, container, from).await
            && stat.mode & SYMLINK != 0
        {
            source = paths::followed(from, paths::link_target(from, &stat.link_target));
        }
        let request =
            Request::get(format!("/containers/{}/archive", escape(container))).query("path", &source.path);
        let mut response = engine.send(request).await?;
        if to == "-" {
            let mut out = io::stdout().lock();
            while let Some(bytes) = response.chunk().await? {
                out.write_all(&bytes)?;
            }
            return Ok(out.flush()?);
        }
        source.is_directory = described(response.headers())?.mode & DIRECTORY != 0;
        let plan = paths::plan(&source, &local::destination(&to)?)?;
        let names = paths::names(&source.path, plan.name.as_deref());
        let received = local::receive(response, &plan.directory, names).await;
        let bytes = received.as_ref().map_or(0, |bytes| *bytes);
        self.report(cli, bytes, &to);
        received.map(drop)
    }

    async fn copy_in(&self, cli: &Cli, from: &str, container: &str, to: &str) -> Result {
        let from = if from == "-" { from.to_owned() } else { local::absolute(from)? };
        let engine = cli.engine().await?;
        let mut destination = End { path: to.to_owned(), ..End::default() };
        let mut found = stat(engine, container, to).await;
        if let Ok(link) = &found
            && link.mode & SYMLINK != 0
        {
            destination.path = paths::link_target(to, &link.link_target);
            found = stat(engine, container, &destination.path).await;
        }
        // If nothing is there, the directory above may be; if not, the engine will say so.
        if let Ok(stat) = &found {
            if stat.mode & DEVICE != 0 {
                return Err(Failure::message(format!(
                    "destination \"{container}:{to}\" must be a directory or a regular file: got a device"
                )));
            }
            (destination.exists, destination.is_directory) = (true, stat.mode & DIRECTORY != 0);
        }
        let put = |directory: &str| {
            let request = Request::put(format!("/containers/{}/archive", escape(container)))
                .query("path", directory)
                .query("noOverwriteDirNonDir", "true");
            if self.archive { request.query("copyUIDGID", "true") } else { request }
        };
        if from == "-" {
            if !destination.is_directory {
                return Err(Failure::message(format!(
                    "destination \"{container}:{to}\" must be a directory"
                )));
            }
            let request = put(&destination.path).stream(upload::pieces(io::stdin()));
            return Ok(engine.call(request).await?);
        }
        let source = local::source(&from, self.follow_link)?;
        let plan = paths::plan(&source, &destination)?;
        let packing = local::pack(&source.path, plan.name.as_deref())?;
        let given = packing.given.clone();
        let sent = engine.call(put(&plan.directory).stream(upload::pieces(packing))).await;
        self.report(cli, given.load(Ordering::Relaxed), &format!("{container}:{}", destination.path));
        Ok(sent?)
    }

    /// Says how much was copied, to those who watch.
    fn report(&self, cli: &Cli, bytes: u64, to: &str) {
        if !self.quiet.unwrap_or(!terminal::output_is_terminal()) {
            cli.warn(&format!("Successfully copied {} to {to}", human::size(bytes as f64)));
        }
    }
}

async fn stat(engine: &Client, container: &str, path: &str) -> Result<PathStat> {
    let request = Request::head(format!("/containers/{}/archive", escape(container))).query("path", path);
    described(engine.send(request).await?.headers())
}

fn described(headers: &HeaderMap) -> Result<PathStat> {
    let malformed = || Failure::message("the engine does not say what is at the path");
    let header = headers.get("x-docker-container-path-stat").ok_or_else(malformed)?;
    let document = STANDARD.decode(header.as_bytes()).map_err(|_| malformed())?;
    serde_json::from_slice(&document).map_err(|_| malformed())
}
