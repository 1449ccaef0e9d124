//! Contexts as tar streams, in docker's layout: `meta.json` and `tls/ENDPOINT/FILE`. Zip files of it are read, too.
//!
//! A stream comes from somebody else: it has nothing but files of these names, none twice, within a limit.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
};

use wharf_archive::tar::{Kind, Reader, Writer};

use super::{Files, Meta, zip};
use crate::failure::{Failure, Result};

/// How much a context may be in all.
const LIMIT: u64 = 10 << 20;

/// What completes a block, and the two empty blocks behind the last.
const ENDING: u64 = 511 + 2 * 512;

/// Writes a context.
pub(crate) fn export(meta: &Meta, files: &BTreeMap<String, Files>, out: impl Write) -> Result {
    let mut tar = Writer::new(out);
    let document = serde_json::to_vec(meta).map_err(io::Error::from)?;
    tar.file("meta.json", 0o644, 0, &document)?;
    for (endpoint, files) in files {
        for (name, bytes) in files {
            tar.file(&format!("tls/{endpoint}/{name}"), 0o600, 0, bytes)?;
        }
    }
    tar.finish()?.flush()?;
    Ok(())
}

/// Reads a context, which gets the name it is imported under.
pub(crate) fn import(name: &str, input: impl Read) -> Result<(Meta, BTreeMap<String, Files>)> {
    let mut input = BufReader::new(input);
    let mut found = Found::default();
    if input.fill_buf()?.starts_with(zip::MAGIC) {
        let mut bytes = Vec::new();
        if input.take(LIMIT + 1).read_to_end(&mut bytes)? as u64 > LIMIT {
            return Err(Failure::message("the context is larger than 10 MiB"));
        }
        for (path, bytes) in zip::files(&bytes, LIMIT).map_err(Failure::message)? {
            found.add(name, &path, bytes)?;
        }
    } else {
        read_tar(name, input, &mut found)?;
    }
    let meta = found.meta.ok_or_else(|| Failure::message("invalid context: no metadata found"))?;
    Ok((meta, found.files))
}

/// What was found in a stream.
#[derive(Default)]
struct Found {
    meta: Option<Meta>,
    files: BTreeMap<String, Files>,
}

impl Found {
    fn add(&mut self, name: &str, path: &str, bytes: Vec<u8>) -> Result {
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            ["meta.json"] => {
                let parsed: Meta =
                    serde_json::from_slice(&bytes).map_err(|error| Failure::message(error.to_string()))?;
                if self.meta.replace(Meta { name: name.to_owned(), ..parsed }).is_some() {
                    return Err(Failure::message("meta.json is there twice"));
                }
            }
            ["tls", endpoint, file] if [endpoint, file].iter().all(|part| is_plain(part)) => {
                self.files.entry((*endpoint).to_owned()).or_default().insert((*file).to_owned(), bytes);
            }
            ["tls", ..] => return Err(Failure::message("archive format is invalid")),
            _ => return Err(Failure::message(format!("{path}: unexpected context file"))),
        }
        Ok(())
    }
}

fn read_tar(name: &str, input: impl Read, found: &mut Found) -> Result {
    // Docker's own streams end with the last byte of the last file: without what fills its block, and without an end.
    let mut tar = Reader::new(BufReader::new(input.chain(io::repeat(0).take(ENDING))));
    let mut total = 0;
    let wrong = |error: &dyn std::fmt::Display| Failure::message(error.to_string());
    while let Some(entry) = tar.next_entry().map_err(|error| wrong(&error))? {
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        let path = path.trim_end_matches('/');
        match entry.kind {
            Kind::Directory => continue,
            Kind::File { pieces: None, .. } => {}
            _ => return Err(Failure::message(format!("{path}: unexpected context file"))),
        }
        let mut bytes = Vec::new();
        loop {
            let chunk = tar.chunk().map_err(|error| wrong(&error))?;
            if chunk.is_empty() {
                break;
            }
            let length = chunk.len();
            total += length as u64;
            if total > LIMIT {
                return Err(Failure::message("the context is larger than 10 MiB"));
            }
            bytes.extend_from_slice(chunk);
            tar.advance(length);
        }
        found.add(name, path, bytes)?;
    }
    Ok(())
}

/// Whether a name is that of a file and leads nowhere.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contexts::DockerEndpoint;

    #[test]
    fn what_was_exported_is_imported() {
        let meta = Meta::new("aa", "d", &DockerEndpoint { host: "unix:///x".into(), skip_tls_verify: true });
        let files =
            BTreeMap::from([("docker".to_owned(), Files::from([("ca.pem".to_owned(), vec![7; 5000])]))]);
        let mut bytes = Vec::new();
        export(&meta, &files, &mut bytes).unwrap();
        let (imported, imported_files) = import("bb", bytes.as_slice()).unwrap();
        assert_eq!(imported, Meta { name: "bb".into(), ..meta });
        assert_eq!(imported_files, files);
    }

    #[test]
    fn nothing_but_a_contexts_files_is_taken() {
        let refusal = |names: &[&str]| {
            let mut tar = Writer::new(Vec::new());
            for name in names {
                tar.file(name, 0o644, 0, b"{}").unwrap();
            }
            import("x", tar.finish().unwrap().as_slice()).unwrap_err().to_string()
        };
        assert_eq!(refusal(&["meta.json", "evil"]), "evil: unexpected context file");
        assert_eq!(refusal(&["meta.json", "tls/ca.pem"]), "archive format is invalid");
        assert_eq!(refusal(&["meta.json", "tls/../x"]), "archive format is invalid");
        assert_eq!(refusal(&["meta.json", "meta.json"]), "meta.json is there twice");
        assert_eq!(refusal(&["tls/docker/ca.pem"]), "invalid context: no metadata found");
    }
}
