//! Credential helpers: programs named `docker-credential-NAME` that keep secrets, each asked by one word and a text on
//! its standard input.
//!
//! A helper may be slow, because it asks the user for a passphrase, but not endlessly; it may be broken, and then it is
//! as if it had said nothing.

use std::{env, io, path::Path, process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};

use super::{Auth, Error, host};
use crate::trusted;

/// What the names of helper programs begin with.
const PREFIX: &str = "docker-credential-";

/// How long a helper may take, unless [`DEADLINE_VARIABLE`] says otherwise.
const DEADLINE: Duration = Duration::from_secs(120);

/// Seconds a helper may take.
const DEADLINE_VARIABLE: &str = "WHARF_CREDENTIAL_HELPER_TIMEOUT";

/// How much a helper may say.
const LIMIT: u64 = 64 << 10;

/// The user name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// What a helper says about a server it does not know.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// A helper program.
#[derive(Debug)]
pub(super) struct Helper {
    program: String,
}

/// The document `get` answers with and `store` is given.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Record {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

/// What a helper answered.
struct Answer {
    succeeded: bool,
    status: String,
    output: Vec<u8>,
}

impl Helper {
    /// The helper the settings call `name`.
    pub(super) fn named(name: &str) -> Result<Self, Error> {
        // A name with a slash would be a path, and so run what lies in the directory one happens to be in.
        if name.contains(['/', '\0']) {
            let reason = format!("{name:?} is no name of a credential helper");
            return Err(Error::Helper { doing: "using", reason, output: String::new() });
        }
        Ok(Self { program: format!("{PREFIX}{name}") })
    }

    /// What the settings call it.
    pub(super) fn name(&self) -> &str {
        self.program.strip_prefix(PREFIX).unwrap_or(&self.program)
    }

    /// The credentials of `server`, if it has them.
    pub(super) async fn get(&self, server: &str) -> Result<Option<Auth>, Error> {
        const DOING: &str = "getting";
        let answer = self.ask("get", DOING, server.as_bytes()).await?;
        if !answer.succeeded {
            return match answer.message().as_str() {
                NOT_FOUND => Ok(None),
                _ => Err(answer.failure(DOING)),
            };
        }
        // What it said may be a secret, so it is not repeated.
        let nonsense = |reason: &str| {
            let reason = format!("{} answered {reason}", self.program);
            Error::Helper { doing: DOING, reason, output: String::new() }
        };
        let record: Record = serde_json::from_slice(&answer.output).map_err(|_| nonsense("nonsense"))?;
        if !record.server_url.is_empty() && host(&record.server_url) != host(server) {
            return Err(nonsense("with the credentials of another registry"));
        }
        let mut auth = Auth { server: server.to_owned(), ..Auth::default() };
        match record.username == TOKEN_USER {
            true => auth.identity_token = record.secret,
            false => (auth.username, auth.password) = (record.username, record.secret),
        }
        Ok(Some(auth))
    }

    /// Keeps credentials.
    pub(super) async fn store(&self, auth: &Auth) -> Result<(), Error> {
        const DOING: &str = "storing";
        let (username, secret) = match auth.identity_token.as_str() {
            "" => (auth.username.clone(), auth.password.clone()),
            token => (TOKEN_USER.to_owned(), token.to_owned()),
        };
        let record = Record { server_url: auth.server.clone(), username, secret };
        // A record of strings always has a JSON form.
        let input = serde_json::to_vec(&record).unwrap_or_default();
        let answer = self.ask("store", DOING, &input).await?;
        if answer.succeeded { Ok(()) } else { Err(answer.failure(DOING)) }
    }

    /// Forgets the credentials of `server`.
    pub(super) async fn erase(&self, server: &str) -> Result<(), Error> {
        const DOING: &str = "erasing";
        let answer = self.ask("erase", DOING, server.as_bytes()).await?;
        if answer.succeeded || answer.message() == NOT_FOUND { Ok(()) } else { Err(answer.failure(DOING)) }
    }

    /// Runs the helper with one word; secrets go through its input, never through its arguments.
    async fn ask(&self, word: &str, doing: &'static str, input: &[u8]) -> Result<Answer, Error> {
        let failed = |reason: String| Error::Helper { doing, reason, output: String::new() };
        if input.contains(&b'\n') || input.contains(&0) {
            return Err(failed("the address of the registry has a line break".into()));
        }
        let warn = |text: &str| {
            let _ = io::Write::write_all(&mut io::stderr(), format!("{text}\n").as_bytes());
        };
        let missing = || failed(format!("exec: {:?}: executable file not found in $PATH", self.program));
        let program = trusted::in_path(&self.program, &warn).ok_or_else(missing)?;
        let child = Command::new(program)
            .arg(word)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => missing(),
                _ => failed(format!("{}: {error}", self.program)),
            })?;
        let deadline = env::var(DEADLINE_VARIABLE).ok().and_then(|text| text.parse().ok());
        let deadline = deadline.map_or(DEADLINE, Duration::from_secs);
        match timeout(deadline, converse(child, input)).await {
            Ok(answer) => answer.map_err(|error| failed(format!("{}: {error}", self.program))),
            Err(_) => Err(failed(format!("{} did not answer within {} s", self.program, deadline.as_secs()))),
        }
    }
}

async fn converse(mut child: Child, input: &[u8]) -> io::Result<Answer> {
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input).await {
            // One that does not read may have an answer all the same.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(LIMIT + 1).read_to_end(&mut output).await?;
    }
    if output.len() as u64 > LIMIT {
        return Err(io::Error::other(format!("it said more than {LIMIT} bytes")));
    }
    let status = child.wait().await?;
    // Docker's word for it, `exit status 1`, is also Rust's but for the colon.
    Ok(Answer { succeeded: status.success(), status: status.to_string().replace(':', ""), output })
}

impl Answer {
    /// What a helper that failed says about it.
    fn message(&self) -> String {
        String::from_utf8_lossy(&self.output).trim().to_owned()
    }

    fn failure(&self, doing: &'static str) -> Error {
        let message = self.message();
        // One that fails after it wrote a record has said a secret.
        let line = message.lines().next().filter(|line| !line.contains(['{', '}'])).unwrap_or("");
        let output = line.chars().filter(|letter| !letter.is_control()).take(200).collect();
        Error::Helper { doing, reason: self.status.clone(), output }
    }
}

/// The helper that is used when nothing is configured, if it is installed.
pub(super) fn usual() -> Option<String> {
    let name = if in_path("pass") { "pass" } else { "secretservice" };
    in_path(&format!("{PREFIX}{name}")).then(|| name.to_owned())
}

fn in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| is_program(&directory.join(program)))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}
