//! `version`: shows the versions of the command line and of the engine.

use jiff::{Timestamp, tz::TimeZone};
use wharf_api::client::{Client, Request};

use super::inspect::named_record;
use crate::{
    cli::Cli,
    failure::{Failure, Result},
    template::{Template, Value, to_json},
    verb::{Arity, Verb},
};

/// The raw arguments of `version`.
#[derive(Debug, clap::Args)]
pub(crate) struct Version {
    /// How to show it: json or a template
    #[arg(short = 'f', long)]
    format: Option<String>,
}

impl Verb for Version {
    const ABOUT: &'static str = "Show the versions of the command line and the engine";
    const USAGE: &'static str = "[OPTIONS]";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        let template = match self.format.as_deref() {
            None | Some("" | "json") => None,
            Some(source) => Some(
                Template::parse("version", source)
                    .map_err(|error| Failure::status(64, format!("template parsing error: {error}")))?,
            ),
        };
        // The client's part is shown even if there is no engine.
        let answer = async {
            let client = cli.engine().await?;
            let version: Value = client.send(Request::get("/version")).await?.json().await?;
            Ok::<_, Failure>((client.version(), version))
        };
        let (api, server, failure) = match answer.await {
            Ok((api, server)) => (api, server, None),
            Err(failure) => (Client::NEWEST_VERSION.to_owned(), Value::Nil, Some(failure)),
        };
        let both = Value::map([("Client", own(&api, &cli.context())), ("Server", server)]);
        match (&template, self.format.as_deref()) {
            (Some(template), _) => {
                let mut text = String::new();
                let rendered = template.render(&typed(&both), &mut text);
                cli.line(&text)?;
                rendered.map_err(|error| Failure::message(error.to_string()))?;
            }
            (None, Some("json")) => cli.line(&to_json(&both))?,
            (None, _) => cli.print(&describe(&both))?,
        }
        failure.map_or(Ok(()), Err)
    }
}

/// The document with the types that errors of templates name.
fn typed(both: &Value) -> Value {
    let part = |key| both.get(key).cloned().unwrap_or_default();
    let client = named_record("system.clientVersion", part("Client"));
    let server = named_record("*types.Version", part("Server"));
    named_record("system.versionInfo", Value::map([("Client", client), ("Server", server)]))
}

/// What this program says about itself.
fn own(api: &str, context: &str) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Value::map([
        ("Version", env!("CARGO_PKG_VERSION").into()),
        ("ApiVersion", api.into()),
        ("DefaultAPIVersion", Client::NEWEST_VERSION.into()),
        ("Os", "linux".into()),
        ("Arch", architecture.into()),
        ("Context", context.into()),
    ])
}

/// The time of a build as C writes it.
fn built(text: &str) -> String {
    let Ok(timestamp) = text.parse::<Timestamp>() else { return text.to_owned() };
    timestamp.to_zoned_datetime(TimeZone::UTC).strftime("%a %b %e %H:%M:%S %Y").to_string()
}

fn describe(both: &Value) -> String {
    let mut text = String::from("Client:\n");
    let mut line = |indent: usize, name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("{:indent$}{:<19}{value}\n", "", format!("{name}:"), indent = indent));
        }
    };
    if let Some(client) = both.get("Client") {
        line(1, "Version", client.text("Version"));
        line(1, "API version", client.text("ApiVersion"));
        line(1, "OS/Arch", &format!("{}/{}", client.text("Os"), client.text("Arch")));
        line(1, "Context", client.text("Context"));
    }
    let Some(server @ Value::Map(_)) = both.get("Server") else { return text };
    text.push_str("\nServer:");
    let platform = server.get("Platform").map_or("", |platform| platform.text("Name"));
    if !platform.is_empty() {
        text.push_str(&format!(" {platform}"));
    }
    text.push('\n');
    for component in server.list("Components") {
        text.push_str(&format!(" {}:\n", component.text("Name")));
        let details = component.get("Details").unwrap_or(&Value::Nil);
        let mut line = |name: &str, value: &str| {
            text.push_str(&format!("  {:<18}{value}\n", format!("{name}:")));
        };
        line("Version", component.text("Version"));
        let api = details.text("ApiVersion");
        if !api.is_empty() {
            line("API version", &format!("{api} (minimum version {})", details.text("MinAPIVersion")));
        }
        // An engine that is not written in Go says nothing here.
        if !details.text("GoVersion").is_empty() {
            line("Go version", details.text("GoVersion"));
        }
        if details.get("GitCommit").is_some() {
            line(if api.is_empty() { "GitCommit" } else { "Git commit" }, details.text("GitCommit"));
        }
        if !details.text("BuildTime").is_empty() {
            line("Built", &built(details.text("BuildTime")));
        }
        if details.get("Os").is_some() {
            line("OS/Arch", &format!("{}/{}", details.text("Os"), details.text("Arch")));
        }
        if details.get("Experimental").is_some() {
            line("Experimental", details.text("Experimental"));
        }
    }
    text
}
