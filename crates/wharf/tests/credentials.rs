//! Credentials: where they come from, where they go, and where they never go.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod support;

use std::{
    fs,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use support::{
    Run,
    fake::{FakeEngine, Reply},
    run, run_with_input,
};

/// Settings of a user, helpers to keep their secrets, and an engine that writes down what it is told.
struct User {
    directory: PathBuf,
    engine: FakeEngine,
    told: Arc<Mutex<Vec<String>>>,
}

impl User {
    fn new(name: &str, settings: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("wharf-cli-user-{}-{name}", std::process::id()));
        fs::create_dir_all(directory.join("bin")).unwrap();
        fs::write(directory.join("config.json"), settings).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let engine = FakeEngine::start(name, move |request| {
            let header = request.headers.lines().find_map(|line| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case("x-registry-auth").then(|| value.to_owned())
            });
            let header = header.map(|text| String::from_utf8(URL_SAFE.decode(text).unwrap()).unwrap());
            tell.lock().unwrap().push(header.unwrap_or_else(|| request.body.clone()));
            match request.path.as_str() {
                "/auth" if request.body.contains("wrong") => Reply::Json(401, r#"{"message":"no"}"#.into()),
                "/auth" if request.body.contains("exchange") => {
                    Reply::Json(200, r#"{"IdentityToken":"t0ken","Status":"Login Succeeded"}"#.into())
                }
                "/auth" => Reply::Json(200, r#"{"Status":"Login Succeeded"}"#.into()),
                _ => Reply::Json(200, String::new()),
            }
        });
        Self { directory, engine, told }
    }

    /// A helper program of the user's.
    fn helper(&self, name: &str, script: &str) {
        let path = self.directory.join("bin").join(format!("docker-credential-{name}"));
        // Written under another name: a program that is open for writing cannot be run, and a fork elsewhere may hold it.
        let mut options = fs::OpenOptions::new();
        let part = path.with_extension("part");
        let mut file = options.write(true).create_new(true).mode(0o755).open(&part).unwrap();
        std::io::Write::write_all(&mut file, format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
        drop(file);
        fs::rename(part, path).unwrap();
    }

    fn wharf(&self) -> Command {
        let mut command = self.engine.wharf();
        let path = format!("{}:{}", self.directory.join("bin").display(), std::env::var("PATH").unwrap());
        command.env("DOCKER_CONFIG", &self.directory).env("PATH", path).env_remove("DOCKER_AUTH_CONFIG");
        command
    }

    /// Pulls from the registry `reg:1`, and returns what the engine was told about the user.
    fn pull(&self, setup: impl FnOnce(&mut Command)) -> (Run, String) {
        let mut command = self.wharf();
        setup(&mut command);
        let run = run(command.args(["pull", "-q", "reg:1/x"]));
        (run, self.told.lock().unwrap().pop().unwrap_or_default())
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.directory.join("config.json")).unwrap()).unwrap()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

const NOTHING: &str = "{}";
const OTHERS: &str = r#""auths":{"https://index.docker.io/v1/":{"auth":"aHViOmh1YnNlY3JldA=="},"reg:1":{"auth":"YWxpY2U6aW5maWxl"}}"#;

#[test]
fn the_engine_is_told_what_the_settings_have_for_the_registry() {
    let user = User::new("settings", &format!("{{{OTHERS}}}"));
    let (run, told) = user.pull(|_| {});
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (0, "reg:1/x:latest\n", ""));
    assert_eq!(told, r#"{"username":"alice","password":"infile","serveraddress":"reg:1"}"#);
    support::run(user.wharf().args(["pull", "-q", "reg:2/x"]));
    support::run(user.wharf().args(["push", "-q", "me/x"]));
    let hub = r#"{"username":"hub","password":"hubsecret","serveraddress":"https://index.docker.io/v1/"}"#;
    assert_eq!(*user.told.lock().unwrap(), [NOTHING, hub]);
}

#[test]
fn a_variable_goes_before_the_settings() {
    let user = User::new("variable", &format!("{{{OTHERS}}}"));
    let (_, told) = user.pull(|command| {
        command.env("DOCKER_AUTH_CONFIG", r#"{"auths":{"reg:1":{"auth":"Ym9iOnZhcg=="}}}"#);
    });
    assert_eq!(told, r#"{"username":"bob","password":"var","serveraddress":"reg:1"}"#);
    let (_, told) = user.pull(|command| {
        command.env("DOCKER_AUTH_CONFIG", r#"{"auths":{"reg:9":{"auth":"Ym9iOnZhcg=="}}}"#);
    });
    assert!(told.contains("infile"), "{told}");
}

#[test]
fn a_helper_is_asked_through_its_input() {
    let user = User::new("helper", r#"{"credHelpers":{"reg:1":"one"},"credsStore":"all"}"#);
    user.helper("one", r#"read server; test "$server $*" = "reg:1 get" && echo '{"ServerURL":"reg:1","Username":"<token>","Secret":"t0ken"}'"#);
    user.helper("all", "echo 'credentials not found in native keychain'; exit 1");
    let (run, told) = user.pull(|_| {});
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert_eq!(told, r#"{"serveraddress":"reg:1","identitytoken":"t0ken"}"#);
    let run = support::run(user.wharf().args(["pull", "-q", "reg:2/x"]));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert_eq!(*user.told.lock().unwrap(), [NOTHING]);
}

/// Whatever is wrong with the helper that is configured, nobody's credentials go anywhere: not those of the file, not
/// those of another registry or another helper. The user is told why, without a secret.
#[test]
fn rc_02_a_helper_that_fails_means_no_credentials() {
    let cases = [
        ("missing", None, r#"exec: "docker-credential-missing": executable file not found in $PATH"#),
        ("broken", Some("echo 'the vault is locked'; exit 3"), "exit status 3, out: `the vault is locked`"),
        ("silent", Some("exit 0"), "answered nonsense"),
        ("garbage", Some("echo s3cret"), "answered nonsense"),
        ("partial", Some(r#"echo '{"ServerURL":"reg:1","Username":"alice"'"#), "answered nonsense"),
        (
            "typed",
            Some(r#"echo '{"ServerURL":"reg:1","Username":["s3cret"],"Secret":1}'"#),
            "answered nonsense",
        ),
        (
            "other",
            Some(r#"echo '{"ServerURL":"https://index.docker.io/v1/","Username":"hub","Secret":"s3cret"}'"#),
            "answered with the credentials of another registry",
        ),
        (
            "leaky",
            Some(r#"echo '{"ServerURL":"reg:1","Username":"a","Secret":"s3cret"}'; exit 1"#),
            "exit status 1, out: ``",
        ),
        ("endless", Some("exec cat /dev/zero"), "it said more than 65536 bytes"),
        ("slow", Some("exec sleep 600"), "did not answer within 1 s"),
        ("killed", Some("kill -9 $$"), "signal 9"),
        ("../bin/escape", None, "is no name of a credential helper"),
    ];
    for (name, script, reason) in cases {
        let file = name.replace(['/', '.'], "_");
        let user = User::new(
            &format!("rc02{file}"),
            &format!("{{\"credHelpers\":{{\"reg:1\":\"{name}\"}},{OTHERS}}}"),
        );
        if let Some(script) = script {
            user.helper(name, script);
        }
        let (run, told) = user.pull(|command| {
            let deadline = if name == "slow" { "1" } else { "100" };
            command.env("WHARF_CREDENTIAL_HELPER_TIMEOUT", deadline);
        });
        assert_eq!(told, NOTHING, "{name}");
        assert_eq!((run.code, run.stdout.as_str()), (0, "reg:1/x:latest\n"), "{name}: {}", run.stderr);
        assert!(
            run.stderr.starts_with("WARNING: No credentials for reg:1 are used: error "),
            "{}",
            run.stderr
        );
        assert!(run.stderr.contains(reason), "{name}: {}", run.stderr);
        assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
    }
}

#[test]
fn rc_02_settings_that_cannot_be_read_mean_no_credentials() {
    for (index, text) in ["{broken", "[]", r#"{"auths":{"reg:1":{"auth":"s3cret"}}}"#].into_iter().enumerate()
    {
        let user = User::new(&format!("unreadable{index}"), text);
        let (run, told) = user.pull(|_| {});
        assert_eq!((run.code, told.as_str()), (0, NOTHING));
        assert!(run.stderr.contains("WARNING: No credentials for reg:1 are used: "), "{}", run.stderr);
        assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
        // Nor is anything lost that a program newer than this one may have written.
        let login =
            run_with_input(user.wharf().args(["login", "-u", "a", "--password-stdin", "reg:2"]), b"p");
        let after = fs::read_to_string(user.directory.join("config.json")).unwrap();
        assert_eq!((login.code == 0, after == text), (index == 2, index != 2), "{}", login.stderr);
    }
}

#[test]
fn a_login_is_kept_and_forgotten() {
    let user = User::new("login", r#"{"zzz":{"deep":[1]},"psFormat":"x"}"#);
    let login = run_with_input(
        user.wharf().args(["login", "-u", "alice", "--password-stdin", "https://reg:1/v2/"]),
        b"s3cret\r\n",
    );
    assert_eq!((login.code, login.stdout.as_str()), (0, "Login Succeeded\n"), "{}", login.stderr);
    let path = user.directory.join("config.json");
    assert_eq!(
        login.stderr,
        format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n\n",
            path.display()
        )
    );
    assert_eq!(
        user.told.lock().unwrap().pop().unwrap(),
        r#"{"username":"alice","password":"s3cret","serveraddress":"reg:1"}"#
    );
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        user.settings(),
        serde_json::json!({"zzz": {"deep": [1]}, "psFormat": "x", "auths": {"reg:1": {"auth": "YWxpY2U6czNjcmV0"}}})
    );
    // Again, with what is kept: nothing changes, so there is nothing to warn of.
    let again = run(user.wharf().args(["login", "reg:1"]));
    assert_eq!((again.code, again.stdout.as_str()), (0, "Login Succeeded\n"));
    assert_eq!(
        again.stderr,
        "Authenticating with existing credentials... [Username: alice]\n\n Info -> To login with a different account, run 'wharf logout' followed by 'wharf login'\n\n\n"
    );
    let refused =
        run_with_input(user.wharf().args(["login", "-u", "alice", "--password-stdin", "reg:1"]), b"wrong");
    assert_eq!((refused.code, refused.stderr.as_str()), (1, "Error response from daemon: no\n"));
    assert!(user.settings()["auths"]["reg:1"]["auth"].is_string(), "a refused login changes nothing");
    let logout = run(user.wharf().args(["logout", "reg:1"]));
    assert_eq!((logout.code, logout.stdout.as_str()), (0, "Removing login credentials for reg:1\n"));
    assert_eq!(user.settings(), serde_json::json!({"zzz": {"deep": [1]}, "psFormat": "x", "auths": {}}));
}

#[test]
fn a_token_is_kept_in_place_of_the_password() {
    let user = User::new("token", "{}");
    let login = run_with_input(user.wharf().args(["login", "-u", "alice", "--password-stdin"]), b"exchange");
    assert_eq!((login.code, login.stderr.as_str()), (0, ""));
    let expected =
        serde_json::json!({"https://index.docker.io/v1/": {"auth": "YWxpY2U6", "identitytoken": "t0ken"}});
    assert_eq!(user.settings()["auths"], expected);
    run(user.wharf().args(["pull", "-q", "x"]));
    assert_eq!(
        user.told.lock().unwrap().pop().unwrap(),
        r#"{"username":"alice","serveraddress":"https://index.docker.io/v1/","identitytoken":"t0ken"}"#
    );
}

#[test]
fn a_helper_keeps_what_the_settings_then_do_not() {
    let user = User::new("store", r#"{"credsStore":"vault","zzz":1}"#);
    let log = user.directory.join("log");
    user.helper("vault", &format!("echo \"$* $(cat)\" >> {}", log.display()));
    let login =
        run_with_input(user.wharf().args(["login", "-u", "alice", "--password-stdin", "reg:1"]), b"s3cret");
    assert_eq!((login.code, login.stderr.as_str()), (0, ""));
    assert_eq!(user.settings(), serde_json::json!({"auths": {"reg:1": {}}, "credsStore": "vault", "zzz": 1}));
    let logout = run(user.wharf().args(["logout", "reg:1"]));
    assert_eq!((logout.code, logout.stderr.as_str()), (0, ""));
    assert_eq!(
        fs::read_to_string(log).unwrap(),
        "store {\"ServerURL\":\"reg:1\",\"Username\":\"alice\",\"Secret\":\"s3cret\"}\nerase reg:1\nerase http://reg:1\nerase https://reg:1\n"
    );
    user.helper("vault", "echo 'it is locked'; exit 3");
    let login =
        run_with_input(user.wharf().args(["login", "-u", "alice", "--password-stdin", "reg:1"]), b"s3cret");
    assert_eq!(
        (login.code, login.stderr.as_str()),
        (
            1,
            "Error saving credentials: error storing credentials - err: exit status 3, out: `it is locked`\n"
        )
    );
    let logout = run(user.wharf().args(["logout", "reg:1"]));
    assert_eq!(
        logout.stderr,
        "WARNING: could not erase credentials:\nreg:1: error erasing credentials - err: exit status 3, out: `it is locked`\n"
    );
}
