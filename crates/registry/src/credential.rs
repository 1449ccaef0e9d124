//! Secrets. They have no `Debug` that shows them, and nothing here prints them.

use std::fmt;

/// Who we are to a registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// A user's name and password, or an access token used as one.
    Password {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// What a token service gave at login in exchange for the password: good for new tokens only.
    IdentityToken(String),
    /// Presented to the registry as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { username, .. } => write!(f, "Password({username:?})"),
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
            Self::RegistryToken(_) => f.write_str("RegistryToken"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        for credential in [
            Credential::Password { username: "me".into(), password: "hidden".into() },
            Credential::IdentityToken("hidden".into()),
            Credential::RegistryToken("hidden".into()),
        ] {
            assert!(!format!("{credential:?}").contains("hidden"));
        }
    }
}
