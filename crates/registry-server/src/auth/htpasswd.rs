//! Users and their passwords: an htpasswd file with bcrypt hashes.
//!
//! Cost: a check by bcrypt takes some 50 ms of a core, on purpose. So checks run beside the reactor, a few at a time,
//! with a bounded queue in front ([`Busy`] when it is full), and one that succeeded is remembered for
//! [`REMEMBERED`] under a keyed hash of user, password and stored hash. The stored hash is part of the key, so a
//! changed file forgets by itself; the key is random and of this process, so what is in memory is worth nothing elsewhere.
//!
//! Secrecy: a user who is not in the file costs as much time as one who is.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::str::FromStr as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

use crate::watched::{Refused, Watched, text};

/// How long a password that was right is not checked again.
const REMEMBERED: Duration = Duration::from_secs(300);
/// The most passwords remembered at once.
const MAX_REMEMBERED: usize = 4096;
/// Checks at the same time.
const CONCURRENT: usize = 2;
/// Requests that may wait for a check.
const MAX_WAITING: usize = 256;
/// A check of higher cost takes longer than a client waits.
const MAX_COST: u32 = 16;
/// The cost of new hashes, as `htpasswd -B` of today's Apache and the registries' manuals have it.
const COST: u32 = 10;
/// bcrypt looks at no more bytes of a password.
const MAX_PASSWORD: usize = 72;

/// Too many passwords are being checked: come back later.
#[derive(Debug, thiserror::Error)]
#[error("too many passwords are being checked at once: try again")]
pub(crate) struct Busy;

/// Who may come in.
pub(crate) struct Htpasswd {
    file: Watched<Passwords>,
    slots: Semaphore,
    waiting: Semaphore,
    key: hmac::Key,
    verified: Mutex<HashMap<[u8; 32], Instant>>,
}

impl Htpasswd {
    /// Reads the file.
    pub(crate) fn open(path: &Path) -> Result<Self, Refused> {
        let file = path.to_owned();
        let file = Watched::open(vec![path.to_owned()], move || Passwords::parse(&file, &text(&file)?))?;
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| Refused::file(path, "the kernel gives no random numbers"))?;
        Ok(Self {
            file,
            slots: Semaphore::new(CONCURRENT),
            waiting: Semaphore::new(MAX_WAITING),
            key,
            verified: Mutex::default(),
        })
    }

    /// Whether this is the user's password.
    pub(crate) async fn verify(&self, user: &str, password: &str) -> Result<bool, Busy> {
        let passwords = self.file.current();
        let stored = passwords.users.get(user);
        let hash = stored.unwrap_or(&passwords.nobody).clone();
        let ticket = self.ticket(user, password, &hash);
        if self.remembers(&ticket) {
            return Ok(true);
        }
        let _queued = self.waiting.try_acquire().map_err(|_| Busy)?;
        let _slot = self.slots.acquire().await.map_err(|_| Busy)?;
        // Whoever was before in the queue may have asked the same.
        if self.remembers(&ticket) {
            return Ok(true);
        }
        let password = password.to_owned();
        let right = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false));
        let right = right.await.unwrap_or(false) && stored.is_some();
        if right {
            self.remember(ticket);
        }
        Ok(right)
    }

    /// Something that is the same as long as the user's password is: what long-lived tokens are bound to.
    pub(crate) fn fingerprint(&self, user: &str) -> Option<String> {
        let passwords = self.file.current();
        let hash = passwords.users.get(user)?;
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for part in [b"wharf-registry password of ", user.as_bytes(), b"\0", hash.as_bytes()] {
            context.update(part);
        }
        Some(super::jwt::encode(&context.finish().as_ref()[..16]))
    }

    fn ticket(&self, user: &str, password: &str, hash: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [user, password, hash] {
            // The length keeps `a` + `bc` and `ab` + `c` apart.
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut ticket = [0; 32];
        ticket.copy_from_slice(context.sign().as_ref());
        ticket
    }

    fn remembers(&self, ticket: &[u8; 32]) -> bool {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        verified.get(ticket).is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    fn remember(&self, ticket: [u8; 32]) {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= MAX_REMEMBERED {
            verified.retain(|_, since| since.elapsed() < REMEMBERED);
        }
        if verified.len() >= MAX_REMEMBERED {
            verified.clear();
        }
        verified.insert(ticket, Instant::now());
    }
}

/// The file's content.
#[derive(Debug)]
struct Passwords {
    users: BTreeMap<String, String>,
    /// A hash that no password has, as costly as the users'.
    nobody: String,
}

impl Passwords {
    fn parse(path: &Path, text: &str) -> Result<Self, Refused> {
        let mut users = BTreeMap::new();
        let mut highest = None;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let refused = |why: String| Refused::line(path, number, why);
            let (user, hash) =
                line.split_once(':').ok_or_else(|| refused("expected USER:HASH".to_owned()))?;
            let parts = Some(hash)
                .filter(|hash| ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| hash.starts_with(prefix)))
                .and_then(|hash| bcrypt::HashParts::from_str(hash).ok());
            let Some(parts) = parts else {
                return Err(refused(format!(
                    "the hash of user {user:?} is not bcrypt, the only kind that is safe: make one by `wharf-registry \
                     hash-password {user}` or `htpasswd -B`"
                )));
            };
            let cost = parts.get_cost();
            if cost > MAX_COST {
                return Err(refused(format!(
                    "the hash of user {user:?} has the cost {cost}, which takes longer to check than clients wait: \
                     make one of at most {MAX_COST}"
                )));
            }
            highest = highest.max(Some(cost));
            if users.insert(user.to_owned(), hash.to_owned()).is_some() {
                return Err(refused(format!("user {user:?} is there twice: remove one of the lines")));
            }
        }
        let cost = highest.unwrap_or(COST);
        Ok(Self { users, nobody: format!("$2y${cost:02}${:.<53}", "") })
    }
}

/// Why there is no hash of a new password.
#[derive(Debug, thiserror::Error)]
pub enum BadPassword {
    /// It cannot be told from another that is longer.
    #[error(
        "the password has {0} bytes, and bcrypt looks at the first {MAX_PASSWORD} only: take a shorter one"
    )]
    TooLong(usize),
    /// Basic authentication cannot carry it.
    #[error("a user's name must not be empty or have a colon or a line break in it")]
    BadUser,
    /// Nobody wants that.
    #[error("the password is empty")]
    Empty,
    /// The hash function refused.
    #[error("hashing the password: {0}")]
    Hash(#[from] bcrypt::BcryptError),
}

/// A line for the file.
///
/// # Errors
/// When user or password cannot be used with basic authentication and bcrypt.
pub fn line(user: &str, password: &str) -> Result<String, BadPassword> {
    if user.is_empty() || user.starts_with('#') || user.trim() != user || user.contains([':', '\n', '\r']) {
        return Err(BadPassword::BadUser);
    }
    match password.len() {
        0 => return Err(BadPassword::Empty),
        length if length > MAX_PASSWORD => return Err(BadPassword::TooLong(length)),
        _ => {}
    }
    let hash = bcrypt::hash_with_result(password, COST)?.format_for_version(bcrypt::Version::TwoY);
    Ok(format!("{user}:{hash}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap(user: &str, password: &str) -> String {
        format!("{user}:{}", bcrypt::hash(password, 4).unwrap())
    }

    fn file(lines: &[String]) -> (tempfile::TempDir, Htpasswd) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, lines.join("\n")).unwrap();
        let htpasswd = Htpasswd::open(&path).unwrap();
        (dir, htpasswd)
    }

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_is_right() {
        let (_dir, htpasswd) =
            file(&["# people".into(), cheap("alice", "wonder"), String::new(), cheap("bob", "b")]);
        for (user, password, right) in [
            ("alice", "wonder", true),
            ("alice", "wonder", true),
            ("alice", "Wonder", false),
            ("alice", "", false),
            ("bob", "b", true),
            ("bob", "wonder", false),
            ("carol", "wonder", false),
            ("", "", false),
            ("alice\0", "wonder", false),
        ] {
            assert_eq!(htpasswd.verify(user, password).await.unwrap(), right, "{user}:{password}");
        }
    }

    #[tokio::test]
    async fn a_right_password_is_hashed_once_and_a_wrong_one_each_time() {
        let (_dir, htpasswd) = file(&[cheap("alice", "wonder")]);
        for _ in 0..1000 {
            assert!(htpasswd.verify("alice", "wonder").await.unwrap());
            // A second entry would be a second check.
            assert_eq!(htpasswd.verified.lock().unwrap().len(), 1);
        }
        assert!(!htpasswd.verify("alice", "wrong").await.unwrap());
        assert_eq!(htpasswd.verified.lock().unwrap().len(), 1);
        // Only a password that was checked gets past a queue that takes nobody.
        let _all = htpasswd.waiting.try_acquire_many(u32::try_from(MAX_WAITING).unwrap()).unwrap();
        assert!(htpasswd.verify("alice", "wonder").await.unwrap());
        assert!(matches!(htpasswd.verify("alice", "wrong").await, Err(Busy)));
    }

    #[tokio::test]
    async fn a_changed_password_is_forgotten_with_the_file() {
        let (dir, htpasswd) = file(&[cheap("alice", "old")]);
        assert!(htpasswd.verify("alice", "old").await.unwrap());
        let bound = htpasswd.fingerprint("alice").unwrap();
        std::fs::write(dir.path().join("htpasswd"), cheap("alice", "new")).unwrap();
        wharf_testkit::wait_until("the new file", Duration::from_secs(10), || {
            htpasswd.fingerprint("alice").unwrap() != bound
        });
        assert!(!htpasswd.verify("alice", "old").await.unwrap());
        assert!(htpasswd.verify("alice", "new").await.unwrap());
        assert_eq!(htpasswd.fingerprint("nobody"), None);
    }

    #[test]
    fn a_stranger_costs_as_much_as_the_most_careful_user() {
        let lines = [cheap("a", "x"), format!("b:{}", bcrypt::hash("y", 6).unwrap())].join("\n");
        let passwords = Passwords::parse(Path::new("f"), &lines).unwrap();
        assert_eq!(bcrypt::HashParts::from_str(&passwords.nobody).unwrap().get_cost(), 6);
        assert!(!bcrypt::verify("", &passwords.nobody).unwrap());
    }

    #[test]
    fn what_is_not_bcrypt_is_refused_by_line_with_the_way_out() {
        for (text, wanted) in [
            ("alice", "f:1: expected USER:HASH"),
            ("\nbob:$apr1$x$y", "f:2: the hash of user \"bob\" is not bcrypt"),
            ("bob:secret", "wharf-registry hash-password bob"),
            ("bob:{SHA}abc", "not bcrypt"),
            ("bob:$2y$31$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "has the cost 31"),
        ] {
            let message = Passwords::parse(Path::new("f"), text).unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        }
        let twice = format!("{}\n{}", cheap("a", "x"), cheap("a", "y"));
        assert!(
            Passwords::parse(Path::new("f"), &twice)
                .unwrap_err()
                .to_string()
                .contains("f:2: user \"a\" is there twice")
        );
    }

    #[test]
    fn a_new_line_is_one_the_file_takes() {
        let line = line("alice", "wonder").unwrap();
        assert!(line.starts_with("alice:$2y$10$"), "{line}");
        Passwords::parse(Path::new("f"), &line).unwrap();
        for (user, password) in
            [("a:b", "x"), ("", "x"), ("a\nb", "x"), ("#a", "x"), ("a", ""), ("a", &"x".repeat(73))]
        {
            assert!(super::line(user, password).is_err(), "{user:?}");
        }
    }
}
