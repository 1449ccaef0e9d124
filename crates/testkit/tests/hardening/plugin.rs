//! An authorisation plugin of Docker's protocol, and a registry that lets nobody in.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};

use super::wire::from_base64;

/// How the plugin judges.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Judge {
    Everything,
    /// No body that asks for a privileged container, read as Go reads JSON: case does not matter, the last one counts.
    NoPrivileges,
    /// No answer to `/version`.
    NoVersion,
}

/// A plugin that answers until it is dropped.
pub(crate) struct Plugin {
    path: PathBuf,
    questions: Arc<Mutex<Vec<String>>>,
}

impl Plugin {
    pub(crate) fn start(path: &Path, judge: Judge) -> Self {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory of ours");
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).expect("a socket of ours");
        let questions = Arc::new(Mutex::new(Vec::new()));
        let seen = questions.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let seen = seen.clone();
                std::thread::spawn(move || answer(stream, judge, &seen));
            }
        });
        Self { path: path.to_path_buf(), questions }
    }

    /// How many questions had this text.
    pub(crate) fn saw(&self, text: &str) -> usize {
        let questions = self.questions.lock().expect("no thread panics with it");
        questions.iter().filter(|question| question.contains(text)).count()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn answer(mut stream: UnixStream, judge: Judge, seen: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !reader.read_line(&mut head).is_ok_and(|count| count > 0) {
            return;
        }
    }
    let length = head
        .to_lowercase()
        .split("content-length:")
        .nth(1)
        .and_then(|rest| rest.lines().next().and_then(|text| text.trim().parse::<usize>().ok()));
    let mut body = vec![0; length.unwrap_or(0)];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    seen.lock().expect("no thread panics with it").push(String::from_utf8_lossy(&body).into_owned());
    let verdict = if head.starts_with("POST /Plugin.Activate") {
        json!({"Implements": ["authz"]})
    } else {
        let question: Value = serde_json::from_slice(&body).unwrap_or_default();
        let is_answer = head.starts_with("POST /AuthZPlugin.AuthZRes");
        match judge {
            Judge::NoPrivileges if asks_for_privileges(&question) => {
                json!({"Allow": false, "Msg": "no privileges"})
            }
            Judge::NoVersion
                if is_answer
                    && question["RequestUri"].as_str().is_some_and(|uri| uri.ends_with("/version")) =>
            {
                json!({"Allow": false, "Msg": "not for you"})
            }
            _ => json!({"Allow": true}),
        }
    };
    let text = verdict.to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.plugins.v1.1+json\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
}

fn asks_for_privileges(question: &Value) -> bool {
    let body = from_base64(question["RequestBody"].as_str().unwrap_or_default());
    let text = String::from_utf8_lossy(&body).into_owned();
    // Of several documents Go's decoder reads the first.
    let mut documents = serde_json::Deserializer::from_str(&text).into_iter::<Pairs>();
    let Some(Ok(document)) = documents.next() else { return false };
    document
        .last("hostconfig")
        .and_then(|host| host.last("privileged"))
        .is_some_and(|value| value.0 == Some(Value::Bool(true)))
}

/// JSON with its keys folded, and all of them.
#[derive(Default)]
struct Pairs(Option<Value>, Vec<(String, Pairs)>);

impl Pairs {
    fn last(&self, key: &str) -> Option<&Self> {
        self.1.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        // Duplicates matter, which a map of serde_json would hide.
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Pairs;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("JSON")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Pairs>()? {
                    pairs.push((key.to_lowercase(), value));
                }
                Ok(Pairs(Some(Map::new().into()), pairs))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Pairs, E> {
                Ok(Pairs(Some(value.into()), Vec::new()))
            }
            fn visit_str<E>(self, _: &str) -> Result<Pairs, E> {
                Ok(Pairs::default())
            }
            fn visit_i64<E>(self, _: i64) -> Result<Pairs, E> {
                Ok(Pairs::default())
            }
            fn visit_u64<E>(self, _: u64) -> Result<Pairs, E> {
                Ok(Pairs::default())
            }
            fn visit_f64<E>(self, _: f64) -> Result<Pairs, E> {
                Ok(Pairs::default())
            }
            fn visit_unit<E>(self) -> Result<Pairs, E> {
                Ok(Pairs::default())
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Pairs, A::Error> {
                while list.next_element::<Pairs>()?.is_some() {}
                Ok(Pairs::default())
            }
        }
        reader.deserialize_any(Visitor)
    }
}

/// The address of a registry that wants a password and takes none.
pub(crate) fn refusing_registry() -> String {
    let listener = wharf_testkit::loopback::tcp();
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
            // TLS is not spoken here.
            if reader.fill_buf().is_ok_and(|bytes| bytes.first() == Some(&0x16)) {
                continue;
            }
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|count| count > 0) {}
            let _ = stream.write_all(
                b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
            );
        }
    });
    address
}
