//! Where an engine listens.

use std::{ffi::OsString, fmt, path::PathBuf, str::FromStr};

use super::Error;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// `host:port`; with encryption if the client was given settings for it.
    Tcp(String),
    /// A program whose standard streams lead to an engine, such as ssh.
    Command {
        /// What people call the place.
        name: String,
        /// The program and its arguments.
        words: Vec<OsString>,
    },
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Endpoint(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
        if rest.is_empty() {
            return Err(bad());
        }
        match scheme {
            "unix" => Ok(Self::Unix(PathBuf::from(rest))),
            "tcp" | "http" | "https" => {
                let authority = rest.trim_end_matches('/');
                let has_port =
                    authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
                Ok(Self::Tcp(if has_port { authority.to_owned() } else { format!("{authority}:2375") }))
            }
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(authority) => write!(f, "tcp://{authority}"),
            Self::Command { name, .. } => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_parse_and_print() {
        assert_eq!("unix:///run/x.sock".parse::<Endpoint>().unwrap().to_string(), "unix:///run/x.sock");
        assert_eq!("tcp://localhost".parse::<Endpoint>().unwrap().to_string(), "tcp://localhost:2375");
        assert_eq!("tcp://h:1/".parse::<Endpoint>().unwrap(), Endpoint::Tcp("h:1".into()));
        assert!("/run/x.sock".parse::<Endpoint>().is_err());
        assert!("ssh://host".parse::<Endpoint>().is_err());
    }
}
