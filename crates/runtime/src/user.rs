//! Who the process is: Docker's `user[:group]` looked up in the container's own files.
//!
//! Digits are always a number between 0 and 2^31-1 and never a name; a name is plain ASCII. Files of the container
//! are read only if they are regular, and only a bounded part of them (see [`MAX_FILE`]).

use crate::error::{Error, Result};
use crate::root::Root;
use crate::spec::User;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// A passwd or group file beyond this is refused.
const MAX_FILE: u64 = 8 << 20;
/// A line beyond this is not a user's or a group's.
const MAX_LINE: u64 = 64 << 10;
const MAX_ID: u32 = i32::MAX as u32;

/// Numbers to run under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Home directory in the passwd file.
    pub(crate) home: Option<String>,
}

/// Finds out who to run as: `requested` if given, else `user` of the configuration; plus `extra_groups`.
pub(crate) fn identify(
    root: &Root,
    user: &User,
    requested: Option<&str>,
    extra_groups: &[String],
    want_home: bool,
) -> Result<Identity> {
    let files = Files { root };
    let mut identity = match requested {
        Some(text) => files.resolve(text)?,
        None => Identity {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            home: if want_home { files.home_of(user.uid()) } else { None },
        },
    };
    for group in extra_groups {
        let gid = files.group(group)?;
        if !identity.groups.contains(&gid) {
            identity.groups.push(gid);
        }
    }
    Ok(identity)
}

struct Passwd {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Files<'a> {
    root: &'a Root,
}

fn user_error(message: impl Into<String>) -> Error {
    Error::User { message: message.into() }
}

/// A number, a name, or an error.
enum Word<'a> {
    Number(u32),
    Name(&'a str),
}

fn word<'a>(text: &'a str, what: &str) -> Result<Word<'a>> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let number = text.parse().ok().filter(|n| *n <= MAX_ID);
        return number
            .map(Word::Number)
            .ok_or_else(|| user_error("uids and gids must be in range 0-2147483647"));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-@$\\".contains(&b);
    if text.is_empty() || text.len() > 256 || text.starts_with(['-', '+']) || !text.bytes().all(plain) {
        return Err(user_error(format!("unable to find {what} {text:?}: not a name and not a number")));
    }
    Ok(Word::Name(text))
}

impl Files<'_> {
    fn resolve(&self, text: &str) -> Result<Identity> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
            None => (text, None),
        };
        let user = if user.is_empty() { Word::Number(0) } else { word(user, "user")? };
        let group = group.map(|g| word(g, "group")).transpose()?;
        let found = match user {
            Word::Number(uid) => self.passwd(|entry| entry.uid == uid)?,
            Word::Name(name) => Some(self.passwd(|entry| entry.name == name)?.ok_or_else(|| {
                user_error(format!("unable to find user {name}: no matching entries in passwd file"))
            })?),
        };
        let mut identity = match (&found, user) {
            (Some(entry), _) => Identity {
                uid: entry.uid,
                gid: entry.gid,
                groups: Vec::new(),
                home: Some(entry.home.clone()),
            },
            (None, Word::Number(uid)) => Identity { uid, gid: 0, groups: Vec::new(), home: None },
            (None, Word::Name(_)) => return Err(user_error("unable to find user")),
        };
        let mut members = Vec::new();
        match (group, &found) {
            (Some(Word::Number(gid)), _) => identity.gid = gid,
            (Some(Word::Name(name)), _) => identity.gid = self.group(name)?,
            (None, Some(entry)) => members = self.groups_of(&entry.name)?,
            (None, None) => {}
        }
        // The primary group is one of the groups, or files closed to it would open when the process changes its gid.
        identity.groups.push(identity.gid);
        for gid in members {
            if !identity.groups.contains(&gid) {
                identity.groups.push(gid);
            }
        }
        Ok(identity)
    }

    fn home_of(&self, uid: u32) -> Option<String> {
        self.passwd(|entry| entry.uid == uid).ok().flatten().map(|entry| entry.home)
    }

    fn passwd(&self, matches: impl Fn(&Passwd) -> bool) -> Result<Option<Passwd>> {
        let mut found = None;
        self.lines("/etc/passwd", &mut |line| {
            let mut fields = line.split(':');
            let (Some(name), Some(uid), Some(gid)) =
                (fields.next(), number(fields.nth(1)), number(fields.next()))
            else {
                return false;
            };
            let home = fields.nth(1).unwrap_or_default().to_owned();
            let entry = Passwd { name: name.to_owned(), uid, gid, home };
            let hit = matches(&entry);
            if hit {
                found = Some(entry);
            }
            hit
        })?;
        Ok(found)
    }

    fn group(&self, text: &str) -> Result<u32> {
        let name = match word(text, "group")? {
            Word::Number(gid) => return Ok(gid),
            Word::Name(name) => name,
        };
        let mut found = None;
        self.lines("/etc/group", &mut |line| {
            let mut fields = line.split(':');
            if fields.next() == Some(name) {
                found = number(fields.nth(1));
            }
            found.is_some()
        })?;
        found.ok_or_else(|| {
            user_error(format!("unable to find group {name}: no matching entries in group file"))
        })
    }

    fn groups_of(&self, user: &str) -> Result<Vec<u32>> {
        let mut groups = Vec::new();
        self.lines("/etc/group", &mut |line| {
            let mut fields = line.split(':').skip(2);
            if let (Some(gid), Some(members)) = (number(fields.next()), fields.next())
                && members.split(',').any(|m| m == user)
                && groups.len() < 65_536
            {
                groups.push(gid);
            }
            false
        })?;
        Ok(groups)
    }

    /// Feeds the lines of a file until `line` says stop. A file that is not there has none.
    fn lines(&self, path: &str, line: &mut dyn FnMut(&str) -> bool) -> Result<()> {
        let failed =
            |e: &dyn std::fmt::Display| user_error(format!("unable to read {path} of the container: {e}"));
        let file = match self.root.open_regular(Path::new(path)) {
            Ok(file) => std::fs::File::from(file),
            Err(e)
                if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
            {
                return Ok(());
            }
            Err(e) => return Err(failed(&e)),
        };
        if file.metadata().map_err(|e| failed(&e))?.len() > MAX_FILE {
            return Err(failed(&format!("it is larger than {MAX_FILE} bytes")));
        }
        let mut reader = BufReader::new(file.take(MAX_FILE));
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            let length =
                reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut buffer).map_err(|e| failed(&e))?;
            if length == 0 || line(String::from_utf8_lossy(&buffer).trim_end_matches('\n')) {
                return Ok(());
            }
        }
    }
}

fn number(field: Option<&str>) -> Option<u32> {
    field?.parse().ok().filter(|n| *n <= MAX_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rt_16_digits_are_numbers_and_nothing_else_is() {
        assert!(matches!(word("1", "user"), Ok(Word::Number(1))));
        assert!(matches!(word("00", "user"), Ok(Word::Number(0))));
        assert!(matches!(word("2147483647", "user"), Ok(Word::Number(2_147_483_647))));
        assert!(matches!(word("www-data", "user"), Ok(Word::Name("www-data"))));
        for bad in [
            "-1",
            "+1",
            " 1",
            "1 ",
            "2147483648",
            "4294967295",
            "4294967296",
            "18446744073709551616",
            "١",
            "",
            "a b",
            "a\n",
        ] {
            assert!(word(bad, "user").is_err(), "{bad:?}");
        }
    }
}
