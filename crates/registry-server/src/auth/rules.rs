//! Who may do what with which repository: the rules file.
//!
//! ```toml
//! [groups]
//! developers = ["alice", "bob"]
//!
//! [[rule]]
//! who = "@developers"                 # a user, @group, "*" (everyone with a password), "anonymous" (everyone)
//! repositories = ["team/**", "base"]  # * stays within one component of the name, ** crosses them
//! may = ["pull", "push", "catalog"]   # or "everything"
//! ```
//!
//! Rules only ever add: what no rule grants is refused, so the order of rules means nothing. `push` alone does not
//! let one pull. `catalog` lets one list the repositories of the whole registry that one may pull.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::watched::{Refused, Watched, text};

/// What can be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    Pull,
    Push,
    Delete,
    /// Listing what one may pull.
    Catalog,
}

impl Verb {
    pub(crate) const ALL: [Self; 4] = [Self::Pull, Self::Push, Self::Delete, Self::Catalog];

    /// Its name in scopes of tokens and in the file.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Catalog => "catalog",
        }
    }
}

/// A set of verbs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rights(u8);

impl Rights {
    pub(crate) const EVERYTHING: Self = Self(0b1111);
    pub(crate) const PULL: Self = Self(1 << Verb::Pull as u8);

    pub(crate) fn may(self, verb: Verb) -> bool {
        self.0 & 1 << verb as u8 != 0
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<Verb> for Rights {
    fn from_iter<I: IntoIterator<Item = Verb>>(verbs: I) -> Self {
        Self(verbs.into_iter().fold(0, |bits, verb| bits | 1 << verb as u8))
    }
}

/// The rules in force.
pub(crate) enum Rules {
    /// No file: everyone with a password may everything; others what is given.
    Default { anonymous: Rights },
    /// What the file says.
    File(Watched<Table>),
}

impl Rules {
    /// Reads the file.
    pub(crate) fn open(path: &Path) -> Result<Self, Refused> {
        let file = path.to_owned();
        Ok(Self::File(Watched::open(vec![path.to_owned()], move || Table::parse(&file, &text(&file)?))?))
    }

    /// What `user` (or somebody unknown) may do with `repository`.
    pub(crate) fn rights(&self, user: Option<&str>, repository: &str) -> Rights {
        match self {
            Self::Default { .. } if user.is_some() => Rights::EVERYTHING,
            Self::Default { anonymous } => *anonymous,
            Self::File(table) => table.current().rights(user, repository),
        }
    }

    /// Whether `user` may list repositories.
    pub(crate) fn may_list(&self, user: Option<&str>) -> bool {
        match self {
            Self::Default { anonymous } => user.is_some() || anonymous.may(Verb::Catalog),
            Self::File(table) => {
                let table = table.current();
                table.granting(user).any(|rule| rule.may.may(Verb::Catalog))
            }
        }
    }
}

/// A parsed rules file.
#[derive(Debug)]
pub(crate) struct Table {
    groups: BTreeMap<String, BTreeSet<String>>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    who: Vec<Who>,
    repositories: Vec<Pattern>,
    may: Rights,
}

#[derive(Debug, PartialEq, Eq)]
enum Who {
    Anonymous,
    AnyUser,
    Group(String),
    User(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    groups: BTreeMap<String, BTreeSet<String>>,
    #[serde(default, rename = "rule")]
    rules: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    who: OneOrMany,
    repositories: OneOrMany,
    may: May,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum May {
    Word(String),
    Verbs(Vec<Verb>),
}

impl Table {
    fn parse(path: &Path, text: &str) -> Result<Self, Refused> {
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Refused::Invalid { path: path.to_owned(), line, why: error.message().to_owned() }
        })?;
        let refused = |number: usize, why: String| Refused::file(path, format!("rule {}: {why}", number + 1));
        let mut rules = Vec::new();
        for (number, raw) in file.rules.into_iter().enumerate() {
            let mut who = Vec::new();
            for name in raw.who.into_vec() {
                who.push(match name.as_str() {
                    "anonymous" => Who::Anonymous,
                    "*" => Who::AnyUser,
                    name => match name.strip_prefix('@') {
                        Some(group) if file.groups.contains_key(group) => Who::Group(group.to_owned()),
                        Some(group) => {
                            return Err(refused(
                                number,
                                format!("there is no group {group:?}: add it to [groups]"),
                            ));
                        }
                        None => Who::User(name.to_owned()),
                    },
                });
            }
            let patterns = raw.repositories.into_vec();
            let repositories =
                patterns.iter().map(|pattern| Pattern::parse(pattern)).collect::<Result<_, _>>();
            let may = match raw.may {
                May::Verbs(verbs) => verbs.into_iter().collect(),
                May::Word(word) if word == "everything" => Rights::EVERYTHING,
                May::Word(word) => match Verb::ALL.into_iter().find(|verb| verb.name() == word) {
                    Some(verb) => Rights::from_iter([verb]),
                    None => {
                        let why =
                            format!("may = {word:?}: expected pull, push, delete, catalog or everything");
                        return Err(refused(number, why));
                    }
                },
            };
            rules.push(Rule { who, repositories: repositories.map_err(|why| refused(number, why))?, may });
        }
        Ok(Self { groups: file.groups, rules })
    }

    fn rights(&self, user: Option<&str>, repository: &str) -> Rights {
        self.granting(user)
            .filter(|rule| rule.repositories.iter().any(|pattern| pattern.matches(repository)))
            .fold(Rights::default(), |rights, rule| rights.or(rule.may))
    }

    /// The rules that are about this user.
    fn granting<'a>(&'a self, user: Option<&'a str>) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(move |rule| rule.who.iter().any(|who| self.covers(who, user)))
    }

    fn covers(&self, who: &Who, user: Option<&str>) -> bool {
        match (who, user) {
            (Who::Anonymous, _) | (Who::AnyUser, Some(_)) => true,
            (Who::Group(group), Some(user)) => {
                self.groups.get(group).is_some_and(|group| group.contains(user))
            }
            (Who::User(name), Some(user)) => name == user,
            (_, None) => false,
        }
    }
}

/// Repositories by name, with wildcards.
#[derive(Debug)]
struct Pattern(Vec<Piece>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Byte(u8),
    /// `*`
    Within,
    /// `**`
    Across,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/*".contains(&byte);
        if text.is_empty() || text.len() > 255 || !text.bytes().all(legal) {
            return Err(format!(
                "{text:?} cannot match a repository: names have a-z, 0-9, '.', '_', '-' and '/', and wildcards are * and **"
            ));
        }
        let mut pieces = Vec::new();
        for byte in text.bytes() {
            match (byte, pieces.last()) {
                (b'*', Some(Piece::Within | Piece::Across)) => {
                    pieces.pop();
                    pieces.push(Piece::Across);
                }
                (b'*', _) => pieces.push(Piece::Within),
                (byte, _) => pieces.push(Piece::Byte(byte)),
            }
        }
        Ok(Self(pieces))
    }

    /// Follows all ways to match at once: the work is bounded by the product of both lengths.
    fn matches(&self, name: &str) -> bool {
        let end = self.0.len();
        let mut at = vec![false; end + 1];
        at[0] = true;
        let skip_wildcards = |at: &mut [bool]| {
            for (index, piece) in self.0.iter().enumerate() {
                if at[index] && !matches!(piece, Piece::Byte(_)) {
                    at[index + 1] = true;
                }
            }
        };
        skip_wildcards(&mut at);
        for byte in name.bytes() {
            let mut next = vec![false; end + 1];
            for (index, piece) in self.0.iter().enumerate().filter(|(index, _)| at[*index]) {
                match piece {
                    Piece::Byte(wanted) => next[index + 1] |= *wanted == byte,
                    Piece::Within => next[index] |= byte != b'/',
                    Piece::Across => next[index] = true,
                }
            }
            at = next;
            skip_wildcards(&mut at);
        }
        at[end]
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_rules(path: &Path, text: &str, user: &str, repository: &str) -> bool {
    Table::parse(path, text).is_ok_and(|table| {
        // Who is not known has no more rights than who is.
        let (known, unknown) = (table.rights(Some(user), repository), table.rights(None, repository));
        assert!(Verb::ALL.into_iter().all(|verb| known.may(verb) || !unknown.may(verb)));
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [groups]
        developers = ["alice", "bob"]

        [[rule]]
        who = "@developers"
        repositories = ["team/**", "base"]
        may = ["pull", "push"]

        [[rule]]
        who = ["bob"]
        repositories = "team/tools"
        may = ["delete", "catalog"]

        [[rule]]
        who = "*"
        repositories = "**"
        may = "catalog"

        [[rule]]
        who = "anonymous"
        repositories = "public/*"
        may = "pull"

        [[rule]]
        who = "root"
        repositories = "**"
        may = "everything"
    "#;

    fn table() -> Table {
        Table::parse(Path::new("rules.toml"), FILE).unwrap()
    }

    #[test]
    fn rules_add_up() {
        use Verb::{Catalog, Delete, Pull, Push};
        for (user, repository, wanted) in [
            (Some("alice"), "team/app", &[Pull, Push, Catalog][..]),
            (Some("alice"), "team/a/b/c", &[Pull, Push, Catalog]),
            (Some("alice"), "team", &[Catalog]),
            (Some("alice"), "base", &[Pull, Push, Catalog]),
            (Some("alice"), "base/x", &[Catalog]),
            (Some("alice"), "public/x", &[Pull, Catalog]),
            (Some("bob"), "team/tools", &[Pull, Push, Delete, Catalog]),
            (Some("root"), "anything/at/all", &[Pull, Push, Delete, Catalog]),
            (Some("eve"), "team/app", &[Catalog]),
            (Some("@developers"), "team/app", &[Catalog]),
            (Some("developers"), "team/app", &[Catalog]),
            (Some("anonymous"), "secret", &[Catalog]),
            (None, "public/x", &[Pull]),
            (None, "public/x/y", &[]),
            (None, "team/app", &[]),
        ] {
            let wanted: Rights = wanted.iter().copied().collect();
            assert_eq!(table().rights(user, repository), wanted, "{user:?} on {repository}");
        }
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, wanted) in [
            ("a/*", "a/b", true),
            ("a/*", "a/b/c", false),
            ("a/*", "a/", true),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("**/x", "a/b/x", true),
            ("**/x", "x", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("**", "a/b", true),
            ("***", "a/b", true),
            ("a*c", "abbbc", true),
            ("a*c", "ab/c", false),
            ("a*b*c", "axbxbxc", true),
            ("a", "ab", false),
            ("ab", "a", false),
            ("lib-*/app", "lib-2/app", true),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(name), wanted, "{pattern} on {name}");
        }
        let costly = Pattern::parse(&"*a".repeat(127)).unwrap();
        assert!(!costly.matches(&format!("{}b", "a".repeat(254))), "and it ends");
    }

    #[test]
    fn a_bad_file_is_refused_with_the_place() {
        for (text, wanted) in [
            ("[[rule]]\nwho = 'a'\nrepositories = 'x'\nmay = 'eat'", "rule 1: may = \"eat\": expected pull"),
            ("[[rule]]\nwho = '@g'\nrepositories = 'x'\nmay = 'pull'", "there is no group \"g\""),
            ("[[rule]]\nwho = 'a'\nrepositories = 'X'\nmay = 'pull'", "\"X\" cannot match a repository"),
            ("[[rule]]\nwho = 'a'\nrepository = 'x'\nmay = 'pull'", "unknown field `repository`"),
            ("rules = 1", "rules.toml:1:"),
            ("[[rule]]\nwho =", "rules.toml:2:"),
        ] {
            let message = Table::parse(Path::new("rules.toml"), text).unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        }
    }
}
