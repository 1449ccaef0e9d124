//! The user's settings: Docker's `config.json`, of which only these parts mean anything here.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// Settings of the client. A file that cannot be read counts as empty, with a warning.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Config {
    /// Where the settings are.
    #[serde(skip)]
    directory: PathBuf,
    /// Headers for every request.
    #[serde(rename = "HttpHeaders")]
    pub(crate) http_headers: BTreeMap<String, String>,
    /// The context in use, unless flags or the environment say another.
    pub(crate) current_context: String,
    /// More directories with programs that add verbs.
    #[serde(rename = "cliPluginsExtraDirs")]
    pub(crate) plugin_directories: Vec<PathBuf>,
    /// The keys that detach from a container.
    pub(crate) detach_keys: String,
    /// Default formats of listings.
    pub(crate) ps_format: String,
    pub(crate) images_format: String,
    pub(crate) networks_format: String,
    pub(crate) volumes_format: String,
    pub(crate) stats_format: String,
    /// Proxies to tell containers about, by engine or `default`.
    proxies: BTreeMap<String, Proxy>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Proxy {
    http_proxy: String,
    https_proxy: String,
    no_proxy: String,
    ftp_proxy: String,
    all_proxy: String,
}

impl Config {
    /// Reads the settings in `directory`, or where Docker's are.
    pub(crate) fn read(directory: Option<&str>) -> Self {
        let directory = match directory {
            Some(directory) => PathBuf::from(directory),
            None => match std::env::var_os("DOCKER_CONFIG") {
                Some(directory) => PathBuf::from(directory),
                None => PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".docker"),
            },
        };
        let path = directory.join("config.json");
        let config = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                let _ = std::io::Write::write_all(
                    &mut std::io::stderr(),
                    format!("WARNING: Error parsing config file ({}): {error}\n", path.display()).as_bytes(),
                );
                Self::default()
            }),
            Err(_) => Self::default(),
        };
        Self { directory, ..config }
    }

    /// Where the settings are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The proxy settings a container inherits, as `NAME=value`, for the engine at `host`.
    pub(crate) fn proxy_environment(&self, host: &str) -> Vec<(String, String)> {
        let Some(proxy) = self.proxies.get(host).or_else(|| self.proxies.get("default")) else {
            return Vec::new();
        };
        let settings = [
            ("HTTP_PROXY", &proxy.http_proxy),
            ("HTTPS_PROXY", &proxy.https_proxy),
            ("NO_PROXY", &proxy.no_proxy),
            ("FTP_PROXY", &proxy.ftp_proxy),
            ("ALL_PROXY", &proxy.all_proxy),
        ];
        let given = settings.into_iter().filter(|(_, value)| !value.is_empty());
        given
            .flat_map(|(name, value)| {
                [(name.to_owned(), value.clone()), (name.to_lowercase(), value.clone())]
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_given_in_both_spellings() {
        let text = r#"{"proxies":{"default":{"httpProxy":"http://p:1","noProxy":"x"}},"auths":{},"psFormat":"table"}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.ps_format, "table");
        let names: Vec<String> =
            config.proxy_environment("unix:///x").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"]);
    }
}
