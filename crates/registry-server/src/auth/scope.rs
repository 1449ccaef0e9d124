//! Scopes: what a client asks a token for, and what the token then says.
//!
//! `repository:team/app:pull,push` or `registry:catalog:*`, several of them separated by spaces.

use std::collections::BTreeMap;

use super::jwt;
use super::rules::{Rights, Rules, Verb};
use crate::access::Wanted;

/// The most scopes a token is asked for.
const MAX_SCOPES: usize = 64;
/// The longest name of a repository.
const MAX_NAME: usize = 255;

/// What somebody asks for, or was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scopes {
    repositories: BTreeMap<String, Rights>,
    catalog: bool,
}

impl Scopes {
    /// Reads what a client asks for. What is not understood is not granted; too much of it is an error.
    pub(super) fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut scopes = Self::default();
        for (count, text) in texts.into_iter().flat_map(str::split_whitespace).enumerate() {
            if count >= MAX_SCOPES {
                return None;
            }
            // A name may have a colon, where it begins with a host and port.
            if let Some((kind, rest)) = text.split_once(':')
                && let Some((name, actions)) = rest.rsplit_once(':')
            {
                scopes.add(kind, name, actions.split(','));
            }
        }
        Some(scopes)
    }

    /// Reads what a verified token says.
    pub(super) fn of_claims(access: &[jwt::Access]) -> Self {
        let mut scopes = Self::default();
        for access in access {
            scopes.add(&access.kind, &access.name, access.actions.iter().map(String::as_str));
        }
        scopes
    }

    fn add<'a>(&mut self, kind: &str, name: &str, mut actions: impl Iterator<Item = &'a str>) {
        match kind {
            "registry" => self.catalog |= name == "catalog" && actions.any(|action| action == "*"),
            "repository" if name.len() <= MAX_NAME => {
                let verbs = actions.flat_map(|action| match action {
                    "pull" => &[Verb::Pull][..],
                    "push" => &[Verb::Push],
                    "delete" => &[Verb::Delete],
                    "*" => &[Verb::Pull, Verb::Push, Verb::Delete],
                    _ => &[],
                });
                let rights = self.repositories.entry(name.to_owned()).or_default();
                *rights = rights.or(verbs.copied().collect());
            }
            _ => {}
        }
    }

    /// The part of it that `user` may have.
    pub(super) fn granted(mut self, rules: &Rules, user: Option<&str>) -> Self {
        for (name, rights) in &mut self.repositories {
            *rights = rights.and(rules.rights(user, name));
        }
        self.repositories.retain(|_, rights| *rights != Rights::default());
        self.catalog &= rules.may_list(user);
        self
    }

    /// In the form of a token's claims.
    pub(super) fn claims(&self) -> Vec<jwt::Access> {
        let repositories = self.repositories.iter().map(|(name, rights)| jwt::Access {
            kind: "repository".to_owned(),
            name: name.clone(),
            actions: names(*rights).map(str::to_owned).collect(),
        });
        let catalog = self.catalog.then(|| jwt::Access {
            kind: "registry".to_owned(),
            name: "catalog".to_owned(),
            actions: vec!["*".to_owned()],
        });
        repositories.chain(catalog).collect()
    }

    pub(super) fn may(&self, repository: &str, verb: Verb) -> bool {
        self.repositories.get(repository).is_some_and(|rights| rights.may(verb))
    }

    pub(super) fn catalog(&self) -> bool {
        self.catalog
    }
}

impl std::fmt::Display for Scopes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let repositories = self.repositories.iter().map(|(name, rights)| {
            format!("repository:{name}:{}", names(*rights).collect::<Vec<_>>().join(","))
        });
        let catalog = self.catalog.then(|| "registry:catalog:*".to_owned());
        f.write_str(&repositories.chain(catalog).collect::<Vec<_>>().join(" "))
    }
}

fn names(rights: Rights) -> impl Iterator<Item = &'static str> {
    Verb::ALL.into_iter().filter(move |verb| rights.may(*verb)).map(Verb::name)
}

/// What a token needs for a request, for the challenge.
pub(super) fn of_wanted(wanted: &[Wanted<'_>]) -> String {
    let mut scopes = Scopes::default();
    for wanted in wanted {
        match *wanted {
            Wanted::Ping => {}
            Wanted::Catalog | Wanted::Listed(_) => scopes.catalog = true,
            Wanted::Pull(name) => scopes.add("repository", name, ["pull"].into_iter()),
            // Whoever pushes asks first what is there already.
            Wanted::Push(name) => scopes.add("repository", name, ["pull", "push"].into_iter()),
            Wanted::Delete(name) => scopes.add("repository", name, ["pull", "delete"].into_iter()),
        }
    }
    scopes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_written_and_never_invented() {
        for (text, wanted) in [
            ("repository:a/b:pull", "repository:a/b:pull"),
            ("repository:a:push,pull repository:a:delete", "repository:a:pull,push,delete"),
            ("repository:a:*", "repository:a:pull,push,delete"),
            ("repository:a:catalog", "repository:a:"),
            ("repository:localhost:5000/a:pull", "repository:localhost:5000/a:pull"),
            ("registry:catalog:*", "registry:catalog:*"),
            ("registry:catalog:pull", ""),
            ("registry:other:*", ""),
            ("repository(plugin):a:pull repository:a repository", ""),
        ] {
            assert_eq!(Scopes::parse([text]).unwrap().to_string(), wanted, "{text}");
        }
        assert_eq!(Scopes::parse([&*"repository:a:pull ".repeat(65)]), None);
    }

    #[test]
    fn nothing_is_granted_that_the_rules_do_not_grant() {
        let rules = Rules::Default { anonymous: Rights::PULL };
        let asked =
            Scopes::parse(["repository:a:pull,push", "repository:b:push", "registry:catalog:*"]).unwrap();
        assert_eq!(asked.clone().granted(&rules, None).to_string(), "repository:a:pull");
        assert_eq!(asked.clone().granted(&rules, Some("alice")), asked);
        assert_eq!(Scopes::of_claims(&asked.claims()), asked);
    }

    #[test]
    fn a_challenge_names_what_the_request_needs() {
        let wanted = [Wanted::Push("to"), Wanted::Pull("from")];
        assert_eq!(of_wanted(&wanted), "repository:from:pull repository:to:pull,push");
        assert_eq!(of_wanted(&[Wanted::Ping]), "");
    }
}
