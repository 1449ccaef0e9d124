//! `logs`: shows what a container wrote.

use std::io::{self, Write};

use jiff::Timestamp;
use wharf_api::{
    client::{Client, Request, Response, escape},
    stream::{Demultiplexer, MULTIPLEXED_MEDIA_TYPE, StreamKind},
};

use crate::{
    cli::Cli,
    failure::{Failure, Result},
    syntax::moment,
    template::Value,
    verb::{Arity, Verb},
};

/// The first API version whose answers say whether they are multiplexed.
const TELLS_MEDIA_TYPE: u32 = 42;

/// The raw arguments of `logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// Show the log driver's details of each line
    #[arg(long)]
    details: bool,
    /// Stay and show what is written from now on
    #[arg(short = 'f', long)]
    follow: bool,
    /// Show only what was written since (a time, or how long ago, as 42m)
    #[arg(long)]
    since: Option<String>,
    /// Show only the last lines
    #[arg(short = 'n', long, default_value = "all")]
    tail: String,
    /// Show the time of each line
    #[arg(short = 't', long)]
    timestamps: bool,
    /// Show only what was written before (a time, or how long ago)
    #[arg(long)]
    until: Option<String>,
    #[arg(hide = true)]
    container: Vec<String>,
}

impl Verb for Logs {
    const ABOUT: &'static str = "Show what a container wrote";
    const USAGE: &'static str = "[OPTIONS] CONTAINER";
    const ARITY: Arity = Arity::Exactly(1);

    async fn run(self, cli: &Cli) -> Result {
        let moment = |name: &str, text: &Option<String>| match text.as_deref() {
            None | Some("") => Ok(String::new()),
            Some(text) => moment::parse(text, Timestamp::now())
                .map_err(|reason| Failure::message(format!("invalid value for \"{name}\": {reason}"))),
        };
        let name = &self.container[0];
        let request = Request::get(format!("/containers/{}/logs", escape(name)))
            .flag("stdout", true)
            .flag("stderr", true)
            .flag("details", self.details)
            .flag("follow", self.follow)
            .flag("timestamps", self.timestamps)
            .query_if("since", moment("since", &self.since)?)
            .query_if("until", moment("until", &self.until)?)
            .query("tail", &self.tail);
        let client = cli.engine().await?;
        let response = client.send(request).await?;
        if is_multiplexed(client, name, &response).await? {
            demultiplexed(response).await
        } else {
            plain(response).await
        }
    }
}

async fn is_multiplexed(client: &Client, name: &str, response: &Response) -> Result<bool> {
    if client.at_least(TELLS_MEDIA_TYPE) {
        return Ok(response.media_type() == MULTIPLEXED_MEDIA_TYPE);
    }
    let container: Value =
        client.send(Request::get(format!("/containers/{}/json", escape(name)))).await?.json().await?;
    Ok(!container.get("Config").is_some_and(|config| config.is_set("Tty")))
}

async fn plain(mut response: Response) -> Result {
    let mut out = io::stdout();
    while let Some(bytes) = response.chunk().await? {
        out.write_all(&bytes)?;
        out.flush()?;
    }
    Ok(())
}

async fn demultiplexed(mut response: Response) -> Result {
    let mut demultiplexer = Demultiplexer::new();
    // Lines are short and many, so one write carries all neighbours of the same stream.
    let mut pending = Pending { kind: StreamKind::Stdout, bytes: Vec::with_capacity(128 << 10) };
    while let Some(bytes) = response.chunk().await? {
        demultiplexer.feed(&bytes, &mut |kind, piece| pending.push(kind, piece))?;
        pending.flush()?;
    }
    Ok(())
}

struct Pending {
    kind: StreamKind,
    bytes: Vec<u8>,
}

impl Pending {
    fn push(&mut self, kind: StreamKind, piece: &[u8]) -> io::Result<()> {
        if kind != self.kind {
            self.flush()?;
            self.kind = kind;
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        match self.kind {
            StreamKind::Stderr | StreamKind::SystemError => io::stderr().write_all(&self.bytes)?,
            StreamKind::Stdin | StreamKind::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(&self.bytes)?;
                out.flush()?;
            }
        }
        self.bytes.clear();
        Ok(())
    }
}
