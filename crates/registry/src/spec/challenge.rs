//! The `WWW-Authenticate` header.
//!
//! Challenges and their parameters are both separated by commas, so a new challenge begins where a word is followed by
//! another word instead of `=`. Quoted strings may hold anything, with backslash escapes.

use std::fmt::Write as _;

/// A header of more bytes is not looked at.
pub const MAX_CHALLENGE: usize = 8 << 10;
const MAX_CHALLENGES: usize = 8;
const MAX_PARAMETERS: usize = 16;

/// What a registry wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// User name and password with each request.
    Basic {
        /// Where they belong.
        realm: String,
    },
    /// A token of a token service.
    Bearer {
        /// The address of the token service.
        realm: String,
        /// How the token service knows the registry.
        service: Option<String>,
        /// What the request would have needed, words separated by spaces.
        scope: Option<String>,
        /// `insufficient_scope`, `invalid_token`.
        error: Option<String>,
    },
    /// A scheme that is not known here.
    Other(String),
}

impl Challenge {
    /// Every challenge of one header; what follows something malformed is not believed.
    #[must_use]
    pub fn parse(header: &str) -> Vec<Self> {
        let mut challenges = Vec::new();
        if header.len() > MAX_CHALLENGE {
            return challenges;
        }
        let mut input = Input(header);
        while challenges.len() < MAX_CHALLENGES {
            input.skip(|b| b == b',' || is_space(b));
            let Some(scheme) = input.token() else { break };
            let Some(parameters) = input.parameters() else { break };
            challenges.push(Self::new(scheme, parameters));
        }
        challenges
    }

    fn new(scheme: &str, mut parameters: Vec<(String, String)>) -> Self {
        let mut take = |wanted: &str| {
            let at = parameters.iter().position(|(name, _)| name == wanted)?;
            Some(parameters.swap_remove(at).1)
        };
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => Self::Basic { realm: take("realm").unwrap_or_default() },
            "bearer" => match take("realm") {
                Some(realm) => Self::Bearer {
                    realm,
                    service: take("service"),
                    scope: take("scope"),
                    error: take("error"),
                },
                None => Self::Other(scheme.to_owned()),
            },
            _ => Self::Other(scheme.to_owned()),
        }
    }

    /// The header a server sends.
    #[must_use]
    pub fn print(&self) -> String {
        let mut text = String::new();
        let mut parameter = |scheme: &str, name: &str, value: &str| {
            text.push_str(if text.is_empty() { scheme } else { "," });
            let _ = write!(text, "{name}=\"");
            for char in value.chars().filter(|char| !char.is_control()) {
                if matches!(char, '"' | '\\') {
                    text.push('\\');
                }
                text.push(char);
            }
            text.push('"');
        };
        match self {
            Self::Basic { realm } => parameter("Basic ", "realm", realm),
            Self::Bearer { realm, service, scope, error } => {
                parameter("Bearer ", "realm", realm);
                for (name, value) in [("service", service), ("scope", scope), ("error", error)] {
                    if let Some(value) = value {
                        parameter("", name, value);
                    }
                }
            }
            Self::Other(scheme) => text.push_str(scheme),
        }
        text
    }
}

/// What is left of the header.
struct Input<'a>(&'a str);

impl<'a> Input<'a> {
    fn skip(&mut self, what: impl Fn(u8) -> bool) {
        self.0 =
            self.0.trim_start_matches(|char: char| u8::try_from(char).is_ok_and(|b| b.is_ascii() && what(b)));
    }

    fn token(&mut self) -> Option<&'a str> {
        let end = self.0.bytes().position(|b| !is_token(b)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    /// The parameters up to the next challenge; `None` when they are malformed.
    fn parameters(&mut self) -> Option<Vec<(String, String)>> {
        let mut parameters = Vec::new();
        loop {
            let before = self.0;
            self.skip(|b| b == b',' || is_space(b));
            let Some(name) = self.token() else {
                return self.0.is_empty().then_some(parameters);
            };
            self.skip(is_space);
            let Some(rest) = self.0.strip_prefix('=') else {
                // A scheme: the next challenge begins here.
                self.0 = before;
                return Some(parameters);
            };
            self.0 = rest;
            self.skip(is_space);
            let value = if self.0.starts_with('"') { self.quoted()? } else { self.bare() };
            if parameters.len() < MAX_PARAMETERS {
                parameters.push((name.to_ascii_lowercase(), value));
            }
        }
    }

    /// An unquoted value: some registries do not quote addresses, so anything up to a comma or a space.
    fn bare(&mut self) -> String {
        let end = self.0.bytes().position(|b| b == b',' || is_space(b)).unwrap_or(self.0.len());
        let (value, rest) = self.0.split_at(end);
        self.0 = rest;
        value.to_owned()
    }

    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut chars = self.0.char_indices().skip(1);
        while let Some((at, char)) = chars.next() {
            match char {
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(chars.next()?.1),
                other => value.push(other),
            }
        }
        None
    }
}

fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: &str, scope: &str) -> Challenge {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Challenge::Bearer { realm: realm.to_owned(), service: some(service), scope: some(scope), error: None }
    }

    #[test]
    fn challenges_as_registries_send_them() {
        for (header, wanted) in [
            (
                "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:a:pull,push\"",
                vec![bearer("https://auth.docker.io/token", "registry.docker.io", "repository:a:pull,push")],
            ),
            ("Basic realm=\"a \\\"b\\\", c\"", vec![Challenge::Basic { realm: "a \"b\", c".into() }]),
            ("basic", vec![Challenge::Basic { realm: String::new() }]),
            ("BEARER Realm=https://a/t , Service = s", vec![bearer("https://a/t", "s", "")]),
            (
                "Negotiate, Basic realm=\"x\", Bearer realm=\"y\"",
                vec![
                    Challenge::Other("Negotiate".into()),
                    Challenge::Basic { realm: "x".into() },
                    bearer("y", "", ""),
                ],
            ),
            ("Bearer service=\"s\"", vec![Challenge::Other("Bearer".into())]),
            ("Bearer realm=\"open", vec![]),
            ("=,\"", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(Challenge::parse(header), wanted, "{header}");
        }
    }

    #[test]
    fn hostile_headers_are_bounded() {
        assert!(Challenge::parse(&format!("Bearer realm=\"{}\"", "a".repeat(MAX_CHALLENGE))).is_empty());
        assert_eq!(Challenge::parse(&"Basic x=1,".repeat(700)).len(), MAX_CHALLENGES);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(realm in "[ -~]{1,30}", service in "[ -~é]{1,30}", scope in "[a-z:, /]{1,30}") {
            let challenge = bearer(&realm, &service, &scope);
            prop_assert_eq!(Challenge::parse(&challenge.print()), vec![challenge]);
        }

        #[test]
        fn any_header_is_read_without_panic(header in "\\PC{0,200}|[a-zA-Z=\",\\\\ é]{0,100}") {
            let _ = Challenge::parse(&header);
        }
    }
}
