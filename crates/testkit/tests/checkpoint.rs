//! Checkpoints are not there: this engine restores nothing, so no archive can bring mounts, devices or images along.

use serde_json::json;
use wharf_testkit::{Engine, Reference, image};

fn refuses(api: &wharf_testkit::Api, name: &str) {
    let body = json!({"Image": image::NAME, "Cmd": ["true"]});
    let made = api.request("POST", &format!("/v1.51/containers/create?name={name}"), Some(&body));
    assert_eq!(made.expect("an answer").status, 201);
    for checkpoint in ["one", "../../../etc", "%2e%2e%2fone", "a%00b"] {
        for directory in ["", "&checkpoint-dir=/", "&checkpoint-dir=../.."] {
            let path = format!("/v1.51/containers/{name}/start?checkpoint={checkpoint}{directory}");
            let answer = api.request("POST", &path, None).expect("an answer");
            assert!((400..600).contains(&answer.status), "{path}: {}", answer.status);
        }
    }
    let path = format!("/v1.51/containers/{name}/checkpoints");
    let wishes = json!({"CheckpointID": "../one", "CheckpointDir": "/", "Exit": true});
    assert!(api.request("POST", &path, Some(&wishes)).expect("an answer").status >= 400);
    let state = api.get(&format!("/v1.51/containers/{name}/json")).expect("the container is there");
    assert_eq!(state["State"]["Status"], "created");
    api.request("DELETE", &format!("/v1.51/containers/{name}?force=1"), None).expect("an answer");
}

#[test]
fn en_12_nothing_is_restored_from_a_checkpoint() {
    let engine = Engine::with_image();
    refuses(&engine.api(), "frozen");
}

#[test]
fn en_12_checkpoints_are_refused_on_the_real_docker_too() {
    let Some(reference) = Reference::find() else { return };
    let loaded = reference.docker().run_with_input(&["load"], &image::archive());
    assert_eq!(loaded.code, 0, "{}", loaded.stderr);
    refuses(&reference.api(), &format!("wharf-frozen-{}", std::process::id()));
}
