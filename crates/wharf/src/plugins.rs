//! Verbs that other programs add: docker's plugins (`docker-compose`, `docker-buildx`), which are asked for their
//! description and then take over with the whole command line.

use std::{
    ffi::OsString,
    io::Read as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;

use crate::{
    cli::Globals,
    config::Config,
    connection::DEFAULT_HOST,
    contexts,
    failure::{Failure, Result},
    trusted,
};

/// What the names of plugins begin with.
const PREFIX: &str = "docker-";
/// The word that asks for a description.
const DESCRIBE: &str = "docker-cli-plugin-metadata";
/// How long a description may be.
const LIMIT: u64 = 64 << 10;
/// Where docker looks, after the directories of the settings.
const DIRECTORIES: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// A verb of another program.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) name: String,
    pub(crate) about: String,
    path: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    schema_version: String,
    vendor: String,
    #[serde(default)]
    short_description: String,
}

/// All there are, for help.
pub(crate) fn all(config: &Config) -> Vec<Plugin> {
    let mut found: Vec<Plugin> = Vec::new();
    for directory in directories(config) {
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            let Some(verb) = name.strip_prefix(PREFIX).filter(|verb| is_verb(verb)) else { continue };
            if !found.iter().any(|known| known.name == verb)
                && let Some(plugin) = plugin(&directory, verb)
            {
                found.push(plugin);
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Lets the plugin that has this verb take over. Returns if there is none.
pub(crate) fn take_over(verb: &str, args: &[OsString], globals: &Globals, config: &Config) -> Result {
    if !is_verb(verb) {
        return Ok(());
    }
    let Some(plugin) = directories(config).iter().find_map(|directory| plugin(directory, verb)) else {
        return Ok(());
    };
    let program = std::env::args_os().next().unwrap_or_else(|| "wharf".into());
    let mut command = Command::new(&plugin.path);
    command.args(args).env("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", program);
    // A plugin knows only docker's own place, where ours is not.
    if globals.host.is_empty() && contexts::current(globals, config) == contexts::DEFAULT {
        let host = contexts::variable("DOCKER_HOST").unwrap_or_else(|| DEFAULT_HOST.to_owned());
        command.env("DOCKER_HOST", host);
    }
    let error = command.exec();
    Err(Failure::message(format!("cannot run {}: {error}", plugin.path.display())))
}

/// The directories that are searched and may be.
fn directories(config: &Config) -> Vec<PathBuf> {
    let own = std::iter::once(config.directory().join("cli-plugins"));
    let all = own.chain(config.plugin_directories.clone()).chain(DIRECTORIES.map(PathBuf::from));
    all.filter(|directory| match trusted::objection(directory) {
        Ok(None) => true,
        Ok(Some(why)) => {
            let text = format!("WARNING: plugins in {} are not used: {why}\n", directory.display());
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
            false
        }
        // It is not there.
        Err(_) => false,
    })
    .collect()
}

fn plugin(directory: &Path, verb: &str) -> Option<Plugin> {
    let path = directory.join(format!("{PREFIX}{verb}"));
    if !path.is_file() || trusted::objection_to_program(&path).ok()?.is_some() {
        return None;
    }
    let mut child = Command::new(&path)
        .arg(DESCRIBE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut text = Vec::new();
    child.stdout.take()?.take(LIMIT).read_to_end(&mut text).ok()?;
    // It has said what it has to say.
    let _ = child.kill();
    let _ = child.wait();
    let metadata: Metadata = serde_json::from_slice(&text).ok()?;
    (metadata.schema_version.starts_with("0.") && !metadata.vendor.is_empty()).then(|| Plugin {
        name: verb.to_owned(),
        about: metadata.short_description,
        path,
    })
}

fn is_verb(verb: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    verb.starts_with(|letter: char| letter.is_ascii_lowercase()) && verb.bytes().all(plain)
}
