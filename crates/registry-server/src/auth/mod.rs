//! Who may do what: passwords, rules and tokens behind the seam [`crate::Access`].
//!
//! A request's caller is somebody with a password (Basic), somebody with a token (Bearer) or nobody in particular. What
//! a caller may do is decided by the rules at the moment of each question, also for the bearer of a token of ours: a
//! token can only take rights away, so a right that is taken back is gone at once, not when the token ends. For tokens
//! of an external service, that service alone decides.

pub mod htpasswd;
mod jwt;
mod rules;
mod scope;
mod service;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;

use crate::Refused;
use crate::access::{Access, Caller, Refusal, Wanted};
use crate::listen::Peer;
use htpasswd::{Busy, Htpasswd};
use jwt::{Key, Signer, Verifier};
use rules::{Rights, Rules, Verb};
use scope::Scopes;

pub use htpasswd::{BadPassword, line as htpasswd_line};
#[cfg(feature = "fuzzing")]
pub(crate) use jwt::fuzz_token;
#[cfg(feature = "fuzzing")]
pub(crate) use rules::fuzz_rules;

/// The name under which our own tokens are made and accepted.
const SERVICE: &str = "wharf-registry";
/// The most bytes of a user's name and password together, encoded.
const MAX_BASIC: usize = 4 << 10;
/// The longest name of a host.
const MAX_HOST: usize = 300;

/// How callers prove who they are, and what they may do.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Users and their passwords.
    pub htpasswd: Option<PathBuf>,
    /// Who may do what. Without it, everyone with a password may everything.
    pub rules: Option<PathBuf>,
    /// Without rules: everyone may pull.
    pub anonymous: bool,
    /// Who makes tokens.
    pub tokens: Tokens,
    /// What clients call this registry, where that is not the `Host` they send: behind a proxy that ends TLS.
    pub public_url: Option<url::Url>,
}

/// Who makes tokens.
#[derive(Debug, Clone, Default)]
pub enum Tokens {
    /// Nobody: every request carries the password.
    #[default]
    None,
    /// This registry, at `/token`, with the key in this file, which is made when it is not there.
    Own(PathBuf),
    /// Another service.
    External {
        /// Where clients get tokens.
        realm: url::Url,
        /// What this registry is called there.
        service: String,
        /// What that service is called in its tokens.
        issuer: String,
        /// Its public keys.
        keys: PathBuf,
    },
}

/// The way in. Clones share it.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    passwords: Option<Htpasswd>,
    rules: Rules,
    tokens: Makers,
    public_url: Option<url::Url>,
}

enum Makers {
    None,
    Own { signer: Signer, access: Verifier, refresh: Verifier },
    External { verifier: Verifier, realm: url::Url },
}

impl Gate {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be used; the text names it and the reason.
    pub fn open(config: Config) -> Result<Self, Refused> {
        let rules = match &config.rules {
            Some(path) => Rules::open(path)?,
            None => {
                Rules::Default { anonymous: if config.anonymous { Rights::PULL } else { Rights::default() } }
            }
        };
        let tokens = match config.tokens {
            Tokens::None => Makers::None,
            Tokens::Own(path) => {
                let signer = Signer::open(&path)?;
                let verifier = |audience: String| Verifier {
                    keys: vec![signer.key()],
                    issuer: SERVICE.to_owned(),
                    audience,
                };
                let (access, refresh) = (verifier(SERVICE.to_owned()), verifier(service::refresh_audience()));
                Makers::Own { signer, access, refresh }
            }
            Tokens::External { realm, service, issuer, keys } => {
                let verifier = Verifier { keys: Key::read(&keys)?, issuer, audience: service };
                Makers::External { verifier, realm }
            }
        };
        let passwords = config.htpasswd.as_deref().map(Htpasswd::open).transpose()?;
        Ok(Self(Arc::new(Inner { passwords, rules, tokens, public_url: config.public_url })))
    }

    /// The token service's endpoint, where tokens are made here.
    pub fn token_service(&self) -> axum::Router {
        service::router(self.clone())
    }

    /// Whether this is the user's password.
    async fn verify(&self, user: &str, password: &str) -> Result<bool, Busy> {
        match &self.0.passwords {
            Some(passwords) => passwords.verify(user, password).await,
            None => Ok(false),
        }
    }

    async fn caller(&self, head: &Parts) -> Result<Somebody, Refusal> {
        let somebody = |user, proof| Somebody { gate: self.clone(), base: self.base(head), user, proof };
        let wrong = |reason: &str| {
            let caller = somebody(None, Proof::None);
            Refusal::Challenge {
                header: caller.challenge(&[], Some("invalid_token")),
                reason: reason.to_owned(),
            }
        };
        let credential = Credential::of(head).map_err(|()| wrong("the credentials are malformed"))?;
        match credential {
            Credential::None => Ok(somebody(None, Proof::None)),
            Credential::Password(user, password) => match self.verify(&user, &password).await {
                Ok(true) => Ok(somebody(Some(user), Proof::Password)),
                Ok(false) => Err(wrong("wrong user name or password")),
                Err(busy) => Err(Refusal::Busy(busy.to_string())),
            },
            Credential::Token(token) => {
                let claims = match &self.0.tokens {
                    Makers::None => {
                        return Err(wrong("this registry takes no tokens: use a user name and password"));
                    }
                    Makers::Own { access, .. } => access.verify(&token, now()),
                    Makers::External { verifier, .. } => verifier.verify(&token, now()),
                };
                let claims = claims.map_err(|reason| wrong(&reason.to_string()))?;
                let scopes = Scopes::of_claims(&claims.access);
                let user = Some(claims.sub).filter(|user| !user.is_empty());
                Ok(somebody(user, Proof::Token(scopes)))
            }
        }
    }

    /// What the client calls this registry: `https://registry.example.com`.
    fn base(&self, head: &Parts) -> String {
        if let Some(url) = &self.0.public_url {
            return url.as_str().trim_end_matches('/').to_owned();
        }
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
        let host =
            host.filter(|host| host.len() <= MAX_HOST && host.bytes().all(plain)).unwrap_or("localhost");
        let secure = head.extensions.get::<Peer>().is_some_and(|peer| peer.secure);
        format!("{}://{host}", if secure { "https" } else { "http" })
    }
}

impl Access for Gate {
    fn identify<'a>(&'a self, head: &'a Parts) -> BoxFuture<'a, Result<Arc<dyn Caller>, Refusal>> {
        Box::pin(async { Ok(Arc::new(self.caller(head).await?) as Arc<dyn Caller>) })
    }
}

/// What a request brings along.
enum Credential {
    None,
    Password(String, String),
    Token(String),
}

impl Credential {
    fn of(head: &Parts) -> Result<Self, ()> {
        let mut values = head.headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(Self::None) };
        if values.next().is_some() {
            return Err(());
        }
        let (scheme, rest) = value.to_str().map_err(|_| ())?.split_once(' ').ok_or(())?;
        let rest = rest.trim_start();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Ok(Self::Token(rest.to_owned()));
        }
        if !scheme.eq_ignore_ascii_case("basic") || rest.len() > MAX_BASIC {
            return Err(());
        }
        let decoded = String::from_utf8(STANDARD.decode(rest).map_err(|_| ())?).map_err(|_| ())?;
        match decoded.split_once(':').ok_or(())? {
            // What clients without credentials answer to a challenge.
            ("", "") => Ok(Self::None),
            (user, password) => Ok(Self::Password(user.to_owned(), password.to_owned())),
        }
    }
}

/// How a caller is known.
enum Proof {
    None,
    Password,
    Token(Scopes),
}

/// The one who made a request.
struct Somebody {
    gate: Gate,
    base: String,
    user: Option<String>,
    proof: Proof,
}

impl Somebody {
    fn by_rules(&self, wanted: Wanted<'_>) -> bool {
        let rules = &self.gate.0.rules;
        let user = self.user.as_deref();
        match parts(wanted) {
            // Asked without credentials, this is how clients learn what credentials are wanted.
            Part::Ping => !matches!(self.proof, Proof::None),
            Part::Catalog => rules.may_list(user),
            Part::Listed(name) => rules.rights(user, name).may(Verb::Pull),
            Part::Repository(name, verb) => rules.rights(user, name).may(verb),
        }
    }

    fn by_token(&self, wanted: Wanted<'_>) -> bool {
        match (&self.proof, parts(wanted)) {
            (Proof::Token(_), Part::Ping) | (Proof::None | Proof::Password, _) => true,
            (Proof::Token(scopes), Part::Catalog | Part::Listed(_)) => scopes.catalog(),
            (Proof::Token(scopes), Part::Repository(name, verb)) => scopes.may(name, verb),
        }
    }

    /// The value of `WWW-Authenticate`.
    fn challenge(&self, wanted: &[Wanted<'_>], error: Option<&str>) -> String {
        let (realm, service) = match &self.gate.0.tokens {
            Makers::None => return "Basic realm=\"Wharf registry\", charset=\"UTF-8\"".to_owned(),
            Makers::Own { .. } => (format!("{}/token", self.base), SERVICE),
            Makers::External { realm, verifier } => (realm.to_string(), verifier.audience.as_str()),
        };
        let mut header = format!("Bearer realm=\"{realm}\",service=\"{}\"", service.replace(['"', '\\'], ""));
        let scope = scope::of_wanted(wanted);
        if !scope.is_empty() {
            header.push_str(&format!(",scope=\"{scope}\""));
        }
        if let Some(error) = error {
            header.push_str(&format!(",error=\"{error}\""));
        }
        header
    }
}

impl Caller for Somebody {
    fn name(&self) -> Option<&str> {
        self.user.as_deref()
    }

    fn may(&self, wanted: Wanted<'_>) -> bool {
        let external =
            matches!((&self.gate.0.tokens, &self.proof), (Makers::External { .. }, Proof::Token(_)));
        self.by_token(wanted) && (external || self.by_rules(wanted))
    }

    fn refuse(&self, wanted: &[Wanted<'_>]) -> Refusal {
        let denied = || Refusal::Denied("requested access to the resource is denied".to_owned());
        let error = match &self.proof {
            Proof::None => None,
            Proof::Password => return denied(),
            // The token would do, but the rules do not grant it any more: no other token helps.
            Proof::Token(_) if wanted.iter().all(|wanted| self.by_token(*wanted)) => return denied(),
            Proof::Token(_) => Some("insufficient_scope"),
        };
        let reason = "authentication required".to_owned();
        Refusal::Challenge { header: self.challenge(wanted, error), reason }
    }
}

enum Part<'a> {
    Ping,
    Catalog,
    Listed(&'a str),
    Repository(&'a str, Verb),
}

fn parts(wanted: Wanted<'_>) -> Part<'_> {
    match wanted {
        Wanted::Ping => Part::Ping,
        Wanted::Catalog => Part::Catalog,
        Wanted::Listed(name) => Part::Listed(name),
        Wanted::Pull(name) => Part::Repository(name, Verb::Pull),
        Wanted::Push(name) => Part::Repository(name, Verb::Push),
        Wanted::Delete(name) => Part::Repository(name, Verb::Delete),
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
