//! The way from the command line's words to a verb, and what every verb shares: settings and the engine.

use std::{cell::OnceCell, ffi::OsString, io::Write as _};

use clap::{Args as _, Command, FromArgMatches as _};
use tokio::sync::OnceCell as AsyncOnceCell;
use wharf_api::client::Client;
use wharf_model::Reference;

use crate::{
    commands::{self, Lookup},
    config::Config,
    connection::DEFAULT_HOST,
    contexts,
    credentials::{self, Auth, Credentials},
    engine,
    failure::{Failure, Result},
    help, plugins,
    verb::usage_error,
};

/// The flags in front of the verb.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Globals {
    /// Directory of the client's settings
    #[arg(long, value_name = "string")]
    pub(crate) config: Option<String>,
    /// Name of the context that says where the engine is
    #[arg(short = 'c', long, value_name = "string")]
    pub(crate) context: Option<String>,
    /// Show what goes on inside
    #[arg(short = 'D', long)]
    pub(crate) debug: bool,
    /// Socket of the engine to connect to
    #[arg(short = 'H', long, value_name = "list")]
    pub(crate) host: Vec<String>,
    /// How much to log: debug, info, warn, error or fatal
    #[arg(short = 'l', long, value_name = "string", default_value = "info")]
    log_level: String,
    /// Encrypt the connection; implied by --tlsverify
    #[arg(long)]
    pub(crate) tls: Option<bool>,
    /// Certificates of authorities to trust
    #[arg(long, value_name = "string")]
    pub(crate) tlscacert: Option<String>,
    /// Certificate of this client
    #[arg(long, value_name = "string")]
    pub(crate) tlscert: Option<String>,
    /// Key of this client's certificate
    #[arg(long, value_name = "string")]
    pub(crate) tlskey: Option<String>,
    /// Encrypt the connection and check the engine's certificate
    #[arg(long)]
    pub(crate) tlsverify: Option<bool>,
    /// Print the version and quit
    #[arg(short = 'v', long)]
    version: bool,
    /// Print usage
    #[arg(long)]
    help: bool,
    #[arg(hide = true, trailing_var_arg = true)]
    words: Vec<OsString>,
}

impl Globals {
    /// The clap command of the global flags.
    pub(crate) fn command() -> Command {
        let command =
            Command::new("wharf").no_binary_name(true).disable_help_flag(true).disable_version_flag(true);
        help::polished(Self::augment_args(command.args_override_self(true)))
    }

    fn check(&self) -> Result {
        const LEVELS: [&str; 5] = ["debug", "info", "warn", "error", "fatal"];
        if !LEVELS.contains(&self.log_level.as_str()) {
            return Err(Failure::message(format!("unable to parse logging level: {}", self.log_level)));
        }
        if !self.host.is_empty() && self.context.is_some() {
            return Err(Failure::message("conflicting options: cannot specify both --host and --context"));
        }
        Ok(())
    }
}

/// What every verb is given.
#[derive(Debug)]
pub(crate) struct Cli {
    globals: Globals,
    config: OnceCell<Config>,
    client: AsyncOnceCell<Client>,
}

impl Cli {
    fn new(globals: Globals) -> Self {
        Self { globals, config: OnceCell::new(), client: AsyncOnceCell::new() }
    }

    /// The user's settings.
    pub(crate) fn config(&self) -> &Config {
        self.config.get_or_init(|| Config::read(self.globals.config.as_deref()))
    }

    /// The engine, connected; started first if it is ours to start.
    pub(crate) async fn engine(&self) -> Result<&Client> {
        self.client.get_or_try_init(|| engine::connect(&self.globals, self.config())).await
    }

    /// The name of the context in use.
    pub(crate) fn context(&self) -> String {
        contexts::current(&self.globals, self.config())
    }

    /// Where the engine is by flags and environment, without contexts.
    pub(crate) fn default_host(&self) -> String {
        let flag = self.globals.host.first().cloned();
        flag.or_else(|| contexts::variable("DOCKER_HOST")).unwrap_or_else(|| DEFAULT_HOST.to_owned())
    }

    /// The credentials the user has.
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::of(self.config().directory())
    }

    /// Those for the registry of `reference`. If they cannot be had the user is told why, and there are none.
    pub(crate) async fn auth(&self, reference: &Reference) -> Auth {
        let server = credentials::server_of(reference);
        self.credentials().get(server).await.unwrap_or_else(|error| {
            self.warn(&format!("WARNING: No credentials for {server} are used: {error}"));
            Auth::default()
        })
    }

    /// Writes to standard output.
    pub(crate) fn print(&self, text: &str) -> Result {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Writes a line to standard output.
    pub(crate) fn line(&self, text: &str) -> Result {
        self.print(&format!("{text}\n"))
    }

    /// Writes a line to standard error; that nobody reads it is no reason to stop.
    pub(crate) fn warn(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// Runs the whole command line and returns the exit status.
pub(crate) fn main(args: Vec<OsString>) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::message(format!("cannot start: {error}"))),
    };
    let result = runtime.block_on(dispatch(args));
    // A thread that reads standard input may never come back; nothing waits for it.
    runtime.shutdown_background();
    match result {
        Ok(()) => 0,
        Err(failure) => report(&failure),
    }
}

fn report(failure: &Failure) -> u8 {
    if let Some(text) = failure.text() {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
    failure.code()
}

async fn dispatch(args: Vec<OsString>) -> Result {
    let mut command = Globals::command();
    let parsed = command.try_get_matches_from_mut(&args);
    let globals = parsed.and_then(|mut matches| Globals::from_arg_matches_mut(&mut matches));
    let mut globals = match globals {
        Ok(globals) => globals,
        Err(error) => {
            let usage = "Usage:  wharf [OPTIONS] COMMAND [ARG...]";
            return Err(usage_error(&command, &error, &args, usage, "wharf"));
        }
    };
    let mut words = std::mem::take(&mut globals.words);
    let cli = Cli::new(globals);
    if cli.globals.version {
        return cli.line(concat!("Wharf version ", env!("CARGO_PKG_VERSION")));
    }
    let asks_for_help = words.first().is_some_and(|word| word == "help");
    if asks_for_help {
        words.remove(0);
        if words.first().is_some_and(|word| word == "--help") {
            return cli.print("Usage:  wharf help [command]\n\nHelp about the command\n");
        }
        words.push("--help".into());
    }
    if cli.globals.help || (asks_for_help && words.len() == 1) {
        return cli.print(&help::top(&command, &plugins::all(cli.config())));
    }
    if words.is_empty() {
        cli.warn(help::top(&command, &plugins::all(cli.config())).trim_end());
        return Ok(());
    }
    cli.globals.check()?;
    let topic = asks_for_help.then(|| words[0].to_string_lossy().into_owned());
    match commands::lookup(&words) {
        Lookup::Verb { entry, words: count, spelled } => {
            entry.invoke(&cli, &spelled, words.split_off(count)).await
        }
        Lookup::Group { group, spelled } => match words.get(1).and_then(|word| word.to_str()) {
            Some("--help" | "help") => cli.print(&help::group(group, &spelled)),
            None => {
                cli.warn(help::group(group, &spelled).trim_end());
                Ok(())
            }
            Some(word) if word.starts_with('-') => Err(Failure::status(
                125,
                format!(
                    "unknown flag: {word}\n\nUsage:  {spelled} COMMAND\n\nRun '{spelled} --help' for more information"
                ),
            )),
            Some(word) => Err(Failure::message(format!(
                "wharf: unknown command: {spelled} {word}\n\nUsage:  {spelled}{}\n\nRun '{spelled} --help' for more information",
                // Docker's usage lines of these groups alone say more.
                if ["manifest", "volume"].contains(&group) { " COMMAND" } else { "" }
            ))),
        },
        Lookup::Unknown(word) => {
            // As docker passes them on: `help VERB` stays so.
            plugins::take_over(topic.as_deref().unwrap_or(&word), &args, &cli.globals, cli.config())?;
            Err(Failure::message(match topic {
                Some(topic) => format!("unknown help topic: {topic}"),
                None => {
                    format!("wharf: unknown command: wharf {word}\n\nRun 'wharf --help' for more information")
                }
            }))
        }
    }
}
