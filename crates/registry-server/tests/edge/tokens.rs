//! The token service, as clients use it.

use serde_json::Value;
use wharf_testkit::wait_until;

use crate::world::{Answer, PATIENCE, Server, basic, scratch, user};

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

fn server(dir: &std::path::Path, more: &[&str]) -> Server {
    let users = dir.join("users");
    Server::start(dir, &[&["--tokens", "--htpasswd", users.to_str().unwrap()], more].concat())
}

fn post(server: &Server, form: &str) -> Answer {
    server.request("POST", "/token", &[FORM], form.as_bytes())
}

#[test]
fn a_password_gets_a_token_for_what_the_rules_grant() {
    let dir = scratch();
    let rules = dir.path().join("rules.toml");
    let text = r#"
        rule = [
            { who = "alice", repositories = "team/**", may = ["pull", "push"] },
            { who = "anonymous", repositories = "public/*", may = "pull" },
        ]
    "#;
    std::fs::write(&rules, text).unwrap();
    let server = server(dir.path(), &["--rules", rules.to_str().unwrap()]);
    let path = "/token?service=wharf-registry&scope=repository:team/a:pull,push,delete&scope=repository:public/x:pull,push%20repository:b:pull%20registry:catalog:*";
    let scope = |answer: &Answer| answer.json()["scope"].as_str().unwrap().to_owned();
    let alice = server.request("GET", path, &[("Authorization", &basic("alice", "wonder"))], b"");
    assert_eq!(scope(&alice), "repository:public/x:pull repository:team/a:pull,push");
    assert_eq!(alice.json()["token"], alice.json()["access_token"]);
    assert_eq!(alice.json()["refresh_token"], Value::Null, "nobody asked for one");
    assert_eq!(alice.header("cache-control"), Some("no-store"));
    assert_eq!(scope(&server.get(path)), "repository:public/x:pull");
    let bob = server.request("GET", path, &[("Authorization", &basic("bob", "builder"))], b"");
    assert_eq!(scope(&bob), "repository:public/x:pull");
    let key = std::fs::read_to_string(dir.path().join("data/token-key.pem")).unwrap();
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"));
}

#[test]
fn wrong_credentials_and_wishes_are_refused_in_both_dialects() {
    let dir = scratch();
    let server = server(dir.path(), &[]);
    for authorization in
        [&basic("alice", "wrong"), &basic("nobody", "wonder"), "Basic ???", "Bearer x", "alice"]
    {
        let answer = server.request("GET", "/token", &[("Authorization", authorization)], b"");
        assert_eq!(answer.status, 401, "{authorization}");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Basic "));
        assert_eq!(answer.json()["errors"][0]["code"], "UNAUTHORIZED");
    }
    for (form, status, error) in [
        ("grant_type=password&username=alice&password=wrong", 401, "invalid_grant"),
        ("grant_type=password&username=alice", 400, "invalid_request"),
        ("grant_type=password&username=alice&username=bob&password=wonder", 400, "invalid_request"),
        ("grant_type=client_credentials", 400, "invalid_request"),
        ("grant_type=refresh_token&refresh_token=x.y.z", 401, "invalid_grant"),
        ("grant_type=password&username=alice&password=wonder&service=other", 400, "invalid_request"),
        (&format!("grant_type=password&{}", "x".repeat(70_000)), 400, "invalid_request"),
        (&format!("grant_type=password&scope={}", "repository:a:pull+".repeat(65)), 400, "invalid_request"),
    ] {
        let answer = post(&server, form);
        assert_eq!((answer.status, &answer.json()["error"]), (status, &error.into()), "{form:.80}");
    }
}

#[test]
fn a_refresh_token_stands_for_the_password_until_that_changes() {
    let dir = scratch();
    let server = server(dir.path(), &[]);
    let login = post(
        &server,
        "grant_type=password&username=alice&password=wonder&access_type=offline&service=wharf-registry&client_id=docker",
    );
    assert_eq!(login.status, 200);
    let refresh = login.json()["refresh_token"].as_str().unwrap().to_owned();
    let access = login.json()["access_token"].as_str().unwrap().to_owned();
    let renew = |token: &str| {
        post(&server, &format!("grant_type=refresh_token&refresh_token={token}&scope=repository:a:pull"))
    };
    assert_eq!(renew(&refresh).json()["scope"], "repository:a:pull");
    assert_eq!(renew(&access).status, 401, "an access token is no refresh token");
    let by_get = server.request(
        "GET",
        "/token?offline_token=true",
        &[("Authorization", &basic("alice", "wonder"))],
        b"",
    );
    assert_eq!(renew(by_get.json()["refresh_token"].as_str().unwrap()).status, 200);

    std::fs::write(dir.path().join("users"), user("alice", "new")).unwrap();
    wait_until("the old token to end", PATIENCE, || renew(&refresh).status == 401);
}
