//! A volume plugin in the test's own process: Docker's protocol on a unix socket, volumes that are real directories.
//!
//! It notes every call, counts mounts by their ids, and behaves badly when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// How a plugin behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// As the protocol says.
    Good,
    /// Takes every question and answers none.
    Silent,
    /// Answers with more bytes than anybody should take.
    Endless,
    /// Answers with something that is no JSON.
    Babbling,
}

#[derive(Debug, Default)]
struct Volume {
    options: Value,
    mounted: BTreeSet<String>,
}

#[derive(Debug)]
struct State {
    manners: Manners,
    volumes: BTreeMap<String, Volume>,
    calls: Vec<(String, Value)>,
    /// Connections that wait for an answer, kept open.
    waiting: Vec<UnixStream>,
    stop: bool,
}

/// The plugin. Dropping it ends it and removes its socket.
#[derive(Debug)]
pub struct VolumePlugin {
    socket: PathBuf,
    data: PathBuf,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl VolumePlugin {
    /// Listens on `socket` and keeps volumes in `data`, which the engine sees as `shown`.
    ///
    /// # Panics
    /// When the socket cannot be made.
    pub fn start(socket: &Path, data: &Path, shown: &Path) -> Self {
        std::fs::create_dir_all(data).expect("a directory for volumes");
        let _stale = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).expect("a socket for the plugin");
        let state = Arc::new(Mutex::new(State {
            manners: Manners::Good,
            volumes: BTreeMap::new(),
            calls: Vec::new(),
            waiting: Vec::new(),
            stop: false,
        }));
        let (shared, directory, shown) = (state.clone(), data.to_path_buf(), shown.to_path_buf());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.lock().expect("no panic while it is held").stop {
                    return;
                }
                let (shared, directory, shown) = (shared.clone(), directory.clone(), shown.clone());
                // Ends with its connection, which the other side closes.
                std::thread::spawn(move || drop(serve(stream, &shared, &directory, &shown)));
            }
        });
        Self { socket: socket.to_path_buf(), data: data.to_path_buf(), state, thread: Some(thread) }
    }

    /// Changes how it behaves from now on; connections that wait for an answer are closed.
    pub fn behave(&self, manners: Manners) {
        let mut state = self.state();
        state.manners = manners;
        state.waiting.clear();
    }

    /// The calls so far, each `/Interface.Method` with its body, and forgets them.
    pub fn calls(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.state().calls)
    }

    /// The ids under which a volume is mounted; `None` if there is no such volume.
    pub fn mounts(&self, name: &str) -> Option<Vec<String>> {
        let state = self.state();
        Some(state.volumes.get(name)?.mounted.iter().cloned().collect())
    }

    /// The options a volume was made with.
    pub fn options(&self, name: &str) -> Option<Value> {
        Some(self.state().volumes.get(name)?.options.clone())
    }

    /// Where a volume's files are.
    pub fn path(&self, name: &str) -> PathBuf {
        self.data.join(name)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }
}

impl Drop for VolumePlugin {
    fn drop(&mut self) {
        if let Ok(mut state) = self.state.lock() {
            state.stop = true;
            state.waiting.clear();
        }
        let _wakes_it = UnixStream::connect(&self.socket);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
        let _gone = std::fs::remove_file(&self.socket);
    }
}

fn serve(stream: UnixStream, state: &Mutex<State>, data: &Path, shown: &Path) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let header = header.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let answer = {
            let mut state = state.lock().expect("no panic while it is held");
            state.calls.push((path.clone(), body.clone()));
            match state.manners {
                Manners::Silent => {
                    state.waiting.push(stream);
                    return Ok(());
                }
                Manners::Endless => None,
                Manners::Babbling => Some("<html>not what you think</html>".to_owned()),
                Manners::Good => Some(answer(&mut state, &path, &body, data, shown).to_string()),
            }
        };
        let Some(answer) = answer else {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{{\"Err\": \"")?;
            loop {
                stream.write_all(&[b'x'; 65536])?;
            }
        };
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.plugins.v1.2+json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        )?;
    }
}

fn answer(state: &mut State, path: &str, body: &Value, data: &Path, shown: &Path) -> Value {
    let name = body["Name"].as_str().unwrap_or_default().to_owned();
    let id = body["ID"].as_str().unwrap_or_default().to_owned();
    let place = shown.join(&name);
    match path {
        "/Plugin.Activate" => return json!({"Implements": ["VolumeDriver"]}),
        "/VolumeDriver.Capabilities" => return json!({"Capabilities": {"Scope": "global"}}),
        "/VolumeDriver.List" => {
            let volumes: Vec<Value> = state
                .volumes
                .keys()
                .map(|name| json!({"Name": name, "Mountpoint": shown.join(name)}))
                .collect();
            return json!({"Volumes": volumes, "Err": ""});
        }
        "/VolumeDriver.Create" => {
            if body["Opts"]["fail"].is_string() {
                return json!({"Err": "told to fail"});
            }
            std::fs::create_dir_all(data.join(&name)).expect("room for a volume");
            state.volumes.insert(name, Volume { options: body["Opts"].clone(), ..Volume::default() });
            return json!({"Err": ""});
        }
        _ => {}
    }
    let Some(volume) = state.volumes.get_mut(&name) else {
        return json!({"Err": "no such volume in plugin"});
    };
    match path {
        "/VolumeDriver.Get" => json!({
            "Volume": {"Name": name, "Mountpoint": place, "CreatedAt": "2024-05-06T07:08:09Z",
                "Status": {"mounts": volume.mounted.len()}},
            "Err": "",
        }),
        "/VolumeDriver.Path" => json!({"Mountpoint": place, "Err": ""}),
        "/VolumeDriver.Mount" if volume.options["failmount"].is_string() => {
            json!({"Err": "mount told to fail"})
        }
        "/VolumeDriver.Mount" => {
            volume.mounted.insert(id);
            json!({"Mountpoint": place, "Err": ""})
        }
        "/VolumeDriver.Unmount" => match volume.mounted.remove(&id) {
            true => json!({"Err": ""}),
            false => json!({"Err": "not mounted under this id"}),
        },
        "/VolumeDriver.Remove" => {
            std::fs::remove_dir_all(data.join(&name)).expect("ours to remove");
            state.volumes.remove(&name);
            json!({"Err": ""})
        }
        _ => json!({"Err": "no such method"}),
    }
}
