//! RS-02: every user, every repository, every route, against a model.

use std::path::Path;

use wharf_content::digest_of;
use wharf_testkit::wait_until;

use crate::world::{Answer, PATIENCE, Server, basic, scratch, user};

const REPOSITORIES: [&str; 3] = ["team/app", "public/base", "secret/x"];
const USERS: [Option<&str>; 4] = [Some("alice"), Some("bob"), Some("eve"), None];
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const BLOB: &[u8] = b"{}";

const RULES: &str = r#"
    groups.developers = ["alice"]
    rule = [
        { who = "root", repositories = "**", may = "everything" },
        { who = "@developers", repositories = "team/*", may = ["pull", "push"] },
        { who = "bob", repositories = "team/app", may = ["pull", "catalog"] },
        { who = "bob", repositories = "secret/*", may = ["pull", "push", "delete"] },
        { who = "anonymous", repositories = "public/*", may = "pull" },
    ]
"#;

/// The model: the rules above once more, by hand.
fn may(user: Option<&str>, verb: &str, repository: &str) -> bool {
    let everyone = repository == "public/base" && verb == "pull";
    everyone
        || match (user, repository) {
            (Some("alice"), "team/app") => verb != "delete",
            (Some("bob"), "team/app") => verb == "pull",
            (Some("bob"), "secret/x") => true,
            _ => false,
        }
}

/// What a request needs, by method.
fn needs(method: &str) -> &'static [&'static str] {
    match method {
        "GET" | "HEAD" => &["pull"],
        "DELETE" => &["delete"],
        _ => &["pull", "push"],
    }
}

fn manifest(note: &str) -> Vec<u8> {
    let config = format!(
        r#"{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}}"#,
        digest_of(BLOB)
    );
    format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config},"layers":[],"annotations":{{"note":"{note}"}}}}"#)
        .into_bytes()
}

/// A registry with the rules, and something in each repository.
struct World {
    dir: tempfile::TempDir,
    server: Server,
}

impl World {
    fn new(more: &[&str]) -> Self {
        let dir = scratch();
        let users: String = ["root", "alice", "bob", "eve"].iter().map(|name| user(name, name)).collect();
        std::fs::write(dir.path().join("users"), users).unwrap();
        std::fs::write(dir.path().join("rules"), RULES).unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let server = Server::start(
            dir.path(),
            &[&["--htpasswd", &path("users"), "--rules", &path("rules")], more].concat(),
        );
        let world = Self { dir, server };
        for repository in REPOSITORIES {
            world.fill(repository);
        }
        world
    }

    /// Puts back what a test may have removed.
    fn fill(&self, repository: &str) {
        let root = basic("root", "root");
        let digest = digest_of(BLOB);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let octets = [("Authorization", &*root), ("Content-Type", "application/octet-stream")];
        assert_eq!(self.server.request("POST", &path, &octets, BLOB).status, 201);
        for tag in ["old", "gone"] {
            let path = format!("/v2/{repository}/manifests/{tag}");
            let headers = [("Authorization", &*root), ("Content-Type", MANIFEST)];
            assert_eq!(self.server.request("PUT", &path, &headers, &manifest(tag)).status, 201);
        }
    }

    /// A token with everything `user` gets for asking for everything.
    fn token(&self, user: Option<&str>) -> String {
        let scopes: String =
            REPOSITORIES.iter().map(|name| format!("&scope=repository:{name}:pull,push,delete")).collect();
        let path = format!("/token?service=wharf-registry{scopes}&scope=registry:catalog:*");
        let basic = user.map(|user| basic(user, user));
        let headers: Vec<_> = basic.iter().map(|basic| ("Authorization", basic.as_str())).collect();
        let answer = self.server.request("GET", &path, &headers, b"").json();
        format!("Bearer {}", answer["token"].as_str().unwrap())
    }

    fn ask(&self, credential: Option<&str>, method: &str, path: &str) -> Answer {
        let mut headers: Vec<_> = credential.iter().map(|value| ("Authorization", *value)).collect();
        let body = if path.contains("/manifests/") && method == "PUT" { manifest("new") } else { Vec::new() };
        if !body.is_empty() {
            headers.push(("Content-Type", MANIFEST));
        }
        self.server.request(method, path, &headers, &body)
    }

    /// Every request there is, on one repository.
    fn requests(&self, repository: &str) -> Vec<(&'static str, String)> {
        let (blob, gone) = (digest_of(BLOB), digest_of(&manifest("gone")));
        // Somebody else's upload: to be looked at, added to, finished and cancelled.
        let begin = || {
            let path = format!("/v2/{repository}/blobs/uploads/");
            let answer = self.ask(Some(&basic("root", "root")), "POST", &path);
            let location = answer.header("location").unwrap();
            location[location.find("/v2/").unwrap()..].to_owned()
        };
        let finish = begin();
        let finish =
            format!("{finish}{}digest={}", if finish.contains('?') { '&' } else { '?' }, digest_of(b""));
        let in_repository = |method, rest: String| (method, format!("/v2/{repository}/{rest}"));
        vec![
            in_repository("GET", "manifests/old".into()),
            in_repository("HEAD", "manifests/old".into()),
            in_repository("GET", format!("manifests/{gone}")),
            in_repository("GET", format!("blobs/{blob}")),
            in_repository("HEAD", format!("blobs/{blob}")),
            in_repository("GET", "tags/list".into()),
            in_repository("GET", format!("referrers/{gone}")),
            in_repository("PUT", "manifests/new".into()),
            in_repository("PUT", "manifests/old".into()),
            in_repository("POST", "blobs/uploads/".into()),
            ("GET", begin()),
            ("PATCH", begin()),
            ("PUT", finish),
            in_repository("DELETE", "manifests/gone".into()),
            in_repository("DELETE", format!("manifests/{gone}")),
            in_repository("DELETE", format!("blobs/{blob}")),
        ]
    }
}

#[test]
fn rs_02_each_user_may_in_each_repository_exactly_what_the_rules_say() {
    let world = World::new(&["--tokens"]);
    let mut refused = 0;
    for user in USERS {
        let password = user.map(|user| basic(user, user));
        let token = world.token(user);
        for credential in [password.as_deref(), Some(&*token)] {
            for repository in REPOSITORIES {
                for (method, path) in world.requests(repository) {
                    world.fill(repository);
                    let status = world.ask(credential, method, &path).status;
                    let allowed = needs(method).iter().all(|verb| may(user, verb, repository));
                    // Another token may help; another request with the same password does not.
                    let refusal =
                        if credential.is_some_and(|value| value.starts_with("Basic")) { 403 } else { 401 };
                    let what = format!("{user:?} {method} {path} with {credential:.10?}: {status}");
                    assert_eq!(allowed, (200..300).contains(&status), "{what}");
                    assert!(allowed || status == refusal, "{what}");
                    refused += u32::from(!allowed);
                }
            }
        }
    }
    assert!(refused > 100, "the model refuses something");
}

#[test]
fn rs_02_a_mount_needs_the_right_to_read_its_source() {
    let world = World::new(&[]);
    for user in ["alice", "bob", "eve"] {
        let credential = basic(user, user);
        for to in REPOSITORIES {
            for from in REPOSITORIES.into_iter().filter(|from| *from != to) {
                let secret = format!("only in {from} for {to} and {user}");
                let root = basic("root", "root");
                let path = format!("/v2/{from}/blobs/uploads/?digest={}", digest_of(secret.as_bytes()));
                let headers = [("Authorization", &*root), ("Content-Type", "application/octet-stream")];
                assert_eq!(world.server.request("POST", &path, &headers, secret.as_bytes()).status, 201);

                let path =
                    format!("/v2/{to}/blobs/uploads/?mount={}&from={from}", digest_of(secret.as_bytes()));
                let status = world.ask(Some(&credential), "POST", &path).status;
                let pushes = may(Some(user), "push", to) && may(Some(user), "pull", to);
                let wanted = match (pushes, may(Some(user), "pull", from)) {
                    (true, true) => 201,
                    (true, false) => 202,
                    (false, _) => 403,
                };
                assert_eq!(status, wanted, "{user} mounts from {from} to {to}");
                let path = format!("/v2/{to}/blobs/{}", digest_of(secret.as_bytes()));
                let there = world.ask(Some(&root), "HEAD", &path).status;
                assert_eq!(there == 200, wanted == 201, "{user} mounted from {from} to {to}");
            }
        }
    }
}

#[test]
fn rs_02_the_catalog_shows_what_one_may_pull() {
    let world = World::new(&["--tokens"]);
    let listed = |credential: &str| {
        let answer = world.ask(Some(credential), "GET", "/v2/_catalog");
        (answer.status == 200).then(|| answer.json()["repositories"].to_string())
    };
    let bobs = Some(r#"["public/base","secret/x","team/app"]"#.to_owned());
    assert_eq!(listed(&basic("bob", "bob")), bobs);
    assert_eq!(listed(&world.token(Some("bob"))), bobs);
    for other in ["alice", "eve"] {
        assert_eq!(listed(&basic(other, other)), None);
        assert_eq!(listed(&world.token(Some(other))), None);
    }
    assert_eq!(listed(&world.token(None)), None);
    let path = "/token?scope=registry:catalog:*";
    let answer = world.server.request("GET", path, &[("Authorization", &basic("bob", "bob"))], b"").json();
    let catalog_only = format!("Bearer {}", answer["token"].as_str().unwrap());
    assert_eq!(listed(&catalog_only), bobs);
    assert_eq!(
        world.ask(Some(&catalog_only), "GET", "/v2/secret/x/manifests/old").status,
        401,
        "lists, reads nothing"
    );
}

#[test]
fn rs_02_a_right_that_is_taken_back_is_gone_for_tokens_too() {
    let world = World::new(&["--tokens"]);
    let token = world.token(Some("alice"));
    let pull = |credential: &str| world.ask(Some(credential), "GET", "/v2/team/app/manifests/old").status;
    assert_eq!((pull(&token), pull(&basic("alice", "alice"))), (200, 200));
    let revoked = RULES.replace(r#"["alice"]"#, "[]");
    std::fs::write(world.dir.path().join("rules"), revoked).unwrap();
    wait_until("the group to be empty", PATIENCE, || pull(&basic("alice", "alice")) == 403);
    assert_eq!(pull(&token), 403, "and no new token would help");
}

#[test]
fn rs_02_deletion_can_be_switched_off_and_everything_be_read_only() {
    let delete_off = World::new(&["--no-delete"]);
    let root = basic("root", "root");
    assert_eq!(delete_off.ask(Some(&root), "DELETE", "/v2/team/app/manifests/gone").status, 405);
    assert_eq!(
        delete_off.ask(Some(&basic("alice", "alice")), "DELETE", "/v2/team/app/manifests/gone").status,
        403
    );
    assert_eq!(delete_off.ask(Some(&root), "GET", "/v2/team/app/manifests/gone").status, 200);
    let dir: &Path = delete_off.dir.path();
    let (users, rules) = (dir.join("users"), dir.join("rules"));
    drop(delete_off.server);
    let args = ["--read-only", "--htpasswd", users.to_str().unwrap(), "--rules", rules.to_str().unwrap()];
    let server = Server::start(dir, &args);
    let status =
        |method: &str, path: &str| server.request(method, path, &[("Authorization", &root)], b"").status;
    assert_eq!(status("GET", "/v2/team/app/manifests/old"), 200);
    assert_eq!(status("POST", "/v2/team/app/blobs/uploads/"), 405);
    assert_eq!(status("DELETE", "/v2/team/app/manifests/old"), 405);
}

#[test]
fn a_challenge_says_where_to_get_a_token_for_what() {
    let world = World::new(&["--tokens"]);
    let challenge = |headers: &[(&str, &str)], path: &str| {
        let answer = world.server.request("POST", path, headers, b"");
        assert_eq!(answer.status, 401);
        answer.header("www-authenticate").unwrap().to_owned()
    };
    let path = "/v2/team/app/blobs/uploads/";
    let wanted = r#"Bearer realm="http://registry.test/token",service="wharf-registry",scope="repository:team/app:pull,push""#;
    assert_eq!(challenge(&[], path), wanted);
    let token = world.token(None);
    assert_eq!(
        challenge(&[("Authorization", &token)], path),
        format!("{wanted},error=\"insufficient_scope\"")
    );
    let base = challenge(&[("Authorization", "Bearer x.y.z")], "/v2/");
    assert_eq!(
        base,
        r#"Bearer realm="http://registry.test/token",service="wharf-registry",error="invalid_token""#
    );
    let raw = "GET /v2/ HTTP/1.1\r\nHost: a\"b,realm=evil\r\nConnection: close\r\n\r\n";
    let answer = world.server.raw(raw.as_bytes());
    assert!(
        answer.contains("realm=\"http://localhost/token\"") || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );

    let plain = World::new(&[]);
    let answer = plain.server.get("/v2/");
    assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"Wharf registry\", charset=\"UTF-8\""));
    // What clients without credentials answer to that is nobody, not somebody with a wrong password.
    let nobody = [("Authorization", &*basic("", ""))];
    assert_eq!(plain.server.request("GET", "/v2/public/base/manifests/old", &nobody, b"").status, 200);
    assert_eq!(plain.server.request("GET", "/v2/secret/x/manifests/old", &nobody, b"").status, 401);
}
