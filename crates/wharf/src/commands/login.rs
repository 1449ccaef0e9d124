//! `login`: has a registry check credentials, and keeps them.
//!
//! Those that are kept already are tried first, unless the command line says others. A password comes from standard
//! input, from the keyboard without being shown, or, against good advice, from the command line.

use std::io::Read as _;

use serde::Deserialize;
use wharf_api::client::{Error, Request};

use crate::{
    cli::Cli,
    credentials::{self, Auth, HUB, HUB_DOMAIN, Kept},
    failure::{Failure, Result},
    terminal::{self, note::Note, prompt},
    verb::{Arity, Verb},
};

/// How large a password may be; one that is larger is a file given by mistake.
const LIMIT: u64 = 1 << 20;

/// The raw arguments of `login`.
#[derive(clap::Args)]
pub(crate) struct Login {
    /// Password or personal access token
    #[arg(short = 'p', long)]
    password: Option<String>,
    /// Read the password or personal access token from standard input
    #[arg(long)]
    password_stdin: bool,
    /// User name
    #[arg(short = 'u', long)]
    username: Option<String>,
    #[arg(hide = true)]
    server: Vec<String>,
}

impl Verb for Login {
    const ABOUT: &'static str = "Authenticate to a registry, Docker Hub if none is named";
    const USAGE: &'static str = "[OPTIONS] [SERVER]";
    const ARITY: Arity = Arity::AtMost(1);

    async fn run(mut self, cli: &Cli) -> Result {
        self.check(cli)?;
        let server = match self.server.first().map(String::as_str) {
            None | Some("" | HUB_DOMAIN | HUB) => HUB.to_owned(),
            Some(address) => credentials::host(address).to_owned(),
        };
        let mut known = Auth::default();
        if self.username.is_none() && self.password.is_none() {
            known = self.stored(cli, &server).await;
            if !known.password.is_empty()
                && let Ok(status) = with_stored(cli, &known).await?
            {
                return cli.line(&status);
            }
        }
        let auth = self.asked(cli, &server, &known.username).await?;
        let status = log_in(cli, auth).await?;
        cli.line(&status)
    }
}

impl Login {
    /// Refuses what makes no sense, and reads the password if it comes from standard input.
    fn check(&mut self, cli: &Cli) -> Result {
        if self.password.is_some() && self.password_stdin {
            return Err(Failure::message(
                "conflicting options: cannot specify both --password and --password-stdin",
            ));
        }
        if self.username.as_deref() == Some("") {
            return Err(Failure::message("username is empty"));
        }
        if self.password.as_deref() == Some("") {
            return Err(Failure::message("password is empty"));
        }
        if self.password.is_some() {
            cli.warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        }
        if self.password_stdin {
            if self.username.is_none() {
                return Err(Failure::message("the --password-stdin option requires --username to be set"));
            }
            self.password = Some(password_from_input()?).filter(|password| !password.is_empty());
        }
        Ok(())
    }

    async fn stored(&self, cli: &Cli, server: &str) -> Auth {
        cli.credentials().get(server).await.unwrap_or_else(|error| {
            cli.warn(&format!("WARNING: No stored credentials for {server} are used: {error}"));
            Auth::default()
        })
    }

    /// What the command line and the keyboard say.
    async fn asked(self, cli: &Cli, server: &str, known: &str) -> Result<Auth> {
        let missing = self.username.is_none() || self.password.is_none();
        if missing && !terminal::input_is_terminal() {
            return Err(Failure::message("Error: Cannot perform an interactive login from a non TTY device"));
        }
        let username = match self.username {
            Some(username) => username,
            None => ask_username(cli, server, known).await?,
        };
        let password = match self.password {
            Some(password) => password,
            None => ask_password(cli, server).await?,
        };
        Ok(Auth { username, password, server: server.to_owned(), ..Auth::default() })
    }
}

async fn ask_username(cli: &Cli, server: &str, known: &str) -> Result<String> {
    if server == HUB {
        cli.line(
            "Log in with your Docker ID or email address to push and pull images from Docker Hub. If you don't have a Docker ID, head over to https://hub.docker.com/ to create one.\n\
             You can log in with your password or a Personal Access Token (PAT). Using a limited-scope PAT grants better security and is required for organizations using SSO. Learn more at https://docs.docker.com/go/access-tokens/\n",
        )?;
    }
    let question = match known {
        "" => "Username: ".to_owned(),
        known => format!("Username ({known}): "),
    };
    match prompt::line(&question).await?.trim() {
        "" if known.is_empty() => Err(Failure::message("Error: Non-null Username Required")),
        "" => Ok(known.to_owned()),
        name => Ok(name.to_owned()),
    }
}

async fn ask_password(cli: &Cli, server: &str) -> Result<String> {
    if server == HUB {
        let note = Note::new(terminal::output_is_terminal());
        let link = note.underlined("https://app.docker.com/settings");
        let remark =
            format!("A Personal Access Token (PAT) can be used instead.\nTo create a PAT, visit {link}\n\n");
        cli.print(&note.text(&remark))?;
    }
    match prompt::secret("Password: ").await? {
        password if password.is_empty() => Err(Failure::message("Error: Password Required")),
        password => Ok(password),
    }
}

fn password_from_input() -> Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Failure::message("what is on standard input is too large for a password"));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::message("what is on standard input is no password: it is not UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// Tries the credentials that are there. An outer error means that the user need not be asked.
async fn with_stored(cli: &Cli, auth: &Auth) -> Result<std::result::Result<String, ()>> {
    let note = Note::new(terminal::error_is_terminal());
    let remark =
        note.text("To login with a different account, run 'docker logout' followed by 'docker login'");
    let remark = remark.replace("'docker ", "'wharf ");
    cli.warn(&format!(
        "Authenticating with existing credentials... [Username: {}]\n{remark}\n",
        auth.username
    ));
    match log_in(cli, auth.clone()).await {
        Ok(status) => Ok(Ok(status)),
        Err(Failure::Engine(error @ Error::Api { .. })) => {
            match error.status() {
                Some(401) => cli.warn("Stored credentials invalid or expired"),
                _ => cli.warn(&format!("Login did not succeed, error: {}", Failure::from(error))),
            }
            Ok(Err(()))
        }
        Err(failure) => Err(failure),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Answer {
    identity_token: String,
    status: String,
}

/// Has the registry check the credentials, and keeps them if it accepts them.
async fn log_in(cli: &Cli, mut auth: Auth) -> Result<String> {
    let request = Request::post("/auth").json(&auth)?;
    let answer: Answer = cli.engine().await?.send(request).await?.json().await?;
    if !answer.identity_token.is_empty() {
        auth.password.clear();
        auth.identity_token = answer.identity_token;
    }
    let credentials = cli.credentials();
    match credentials.store(&auth).await {
        Ok(Kept::Safely) => {}
        Ok(Kept::InPlainText) => cli.warn(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\n\
             Configure a credential helper to remove this warning. See\n\
             https://docs.docker.com/go/credential-store/\n",
            credentials.path().display()
        )),
        Err(error) => return Err(Failure::message(format!("Error saving credentials: {error}"))),
    }
    Ok(answer.status)
}
