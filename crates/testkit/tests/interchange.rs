//! Images, artifacts and signatures travel between Wharf, its registry and the other tools of the field, with the same
//! digests everywhere. Needs the peers: `WHARF_TEST_REFERENCE=1`.

#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

use std::path::PathBuf;
use std::process::{Command, Stdio};

use wharf_testkit::image;
use wharf_testkit::{Cli, DockerRegistry, Engine, Reference, Registry, workspace_root};

/// A tool inside the peers' root, which sees this directory under another name.
struct Peers {
    dir: tempfile::TempDir,
    inside: PathBuf,
}

impl Peers {
    fn new(reference: &Reference) -> Self {
        let dir = tempfile::Builder::new().prefix("wharf-interchange-").tempdir().unwrap();
        let inside = reference.path(dir.path());
        Self { dir, inside }
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(workspace_root().join("../shared/peers"));
        command.arg("sh").args(line).env("COSIGN_PASSWORD", "").stdin(Stdio::null());
        command
    }

    /// Runs a tool and returns what it printed.
    fn run(&self, line: &[&str]) -> String {
        let output = self.command(line).output().unwrap();
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line:?}: {}\n{stdout}{stderr}", output.status);
        stdout.into_owned()
    }

    /// The name of a file of ours inside.
    fn file(&self, name: &str) -> String {
        self.inside.join(name).display().to_string()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap().trim().to_owned()
    }

    fn digest(&self, name: &str) -> String {
        let line = [
            "skopeo",
            "inspect",
            "--tls-verify=false",
            "--format",
            "{{.Digest}}",
            &format!("docker://{name}"),
        ];
        self.run(&line).trim().to_owned()
    }

    fn copy(&self, from: &str, to: &str) {
        let tls = ["--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests"];
        self.run(&[&["skopeo", "copy", "-q"], &tls[..], &[from, to]].concat());
    }
}

fn said(text: &str) -> String {
    let digest = text.split_whitespace().find(|word| word.starts_with("sha256:"));
    digest.unwrap_or_else(|| panic!("no digest in {text}")).to_owned()
}

/// Pulls with Wharf, runs it, and returns its digest.
fn pulled(wharf: &Cli, name: &str) -> String {
    let text = wharf.ok(&["pull", name]);
    assert_eq!(wharf.ok(&["run", "--rm", name, "echo", "runs"]), "runs");
    said(&text)
}

#[test]
fn the_real_docker_and_its_neighbours_exchange_images_with_us() {
    let Some(reference) = Reference::find() else { return };
    let peers = Peers::new(&reference);
    let registry = Registry::scratch();
    let (maker, taker) = (Engine::with_image(), Engine::scratch());
    let (maker, taker) = (maker.wharf(), taker.wharf());
    let name = registry.name("box:1");
    maker.ok(&["tag", image::NAME, &name]);
    let digest = said(&maker.ok(&["push", &name]));
    assert_eq!(peers.digest(&name), digest);

    docker(&reference, &registry, &name, &digest, &taker);
    podman(&peers, &registry, &name, &digest, &taker);

    let copy = registry.name("skopeo:1");
    peers.copy(&format!("docker://{name}"), &format!("docker://{copy}"));
    assert_eq!(pulled(&taker, &copy), digest);

    umoci(&peers, &registry, &name, &taker);
    oras(&peers, &registry, &digest);
    cosign(&peers, &registry, &digest);
}

fn docker(reference: &Reference, registry: &Registry, name: &str, digest: &str, taker: &Cli) {
    let docker = reference.docker();
    assert_eq!(said(&docker.ok(&["pull", name])), digest);
    let copy = registry.name("docker:1");
    docker.ok(&["tag", name, &copy]);
    let pushed = said(&docker.ok(&["push", &copy]));
    docker.ok(&["rmi", "-f", name, &copy]);
    assert_eq!(pulled(taker, &copy), pushed);
    // And once more through us, to another repository: still the manifest that Docker made.
    let again = registry.name("docker/again:1");
    taker.ok(&["tag", &copy, &again]);
    assert_eq!(said(&taker.ok(&["push", &again])), pushed);
}

fn podman(peers: &Peers, registry: &Registry, name: &str, digest: &str, taker: &Cli) {
    peers.run(&["podman", "pull", "-q", "--tls-verify=false", name]);
    let inspected = peers.run(&["podman", "image", "inspect", "--format", "{{.Digest}}", name]);
    assert_eq!(inspected.trim(), digest);
    let copy = registry.name("podman:1");
    peers.run(&[
        "podman",
        "push",
        "-q",
        "--tls-verify=false",
        "--digestfile",
        &peers.file("digest"),
        name,
        &copy,
    ]);
    peers.run(&["podman", "rmi", "-f", name]);
    assert_eq!(pulled(taker, &copy), peers.read("digest"));
}

/// An image that umoci changed.
fn umoci(peers: &Peers, registry: &Registry, name: &str, taker: &Cli) {
    let layout = peers.file("layout");
    peers.copy(&format!("docker://{name}"), &format!("oci:{layout}:1"));
    peers.run(&["umoci", "config", "--image", &format!("{layout}:1"), "--config.env", "MADE=by-umoci"]);
    let copy = registry.name("umoci:1");
    peers.copy(&format!("oci:{layout}:1"), &format!("docker://{copy}"));
    assert_eq!(pulled(taker, &copy), peers.digest(&copy));
    assert_eq!(taker.ok(&["run", "--rm", &copy, "sh", "-c", "echo $MADE"]), "by-umoci");
}

/// Artifacts, and what refers to an image.
fn oras(peers: &Peers, registry: &Registry, digest: &str) {
    std::fs::write(peers.dir.path().join("note.txt"), "a note").unwrap();
    let note = format!("{}:text/plain", peers.file("note.txt"));
    let artifact = registry.name("artifact:1");
    let flags = ["--plain-http", "--disable-path-validation"];
    peers.run(&[&["oras", "push"], &flags[..], &[&artifact, &note]].concat());
    std::fs::remove_file(peers.dir.path().join("note.txt")).unwrap();
    let output = peers.file("");
    peers.run(&["oras", "pull", "--plain-http", "--allow-path-traversal", "--output", &output, &artifact]);
    assert_eq!(peers.read("note.txt"), "a note");

    let subject = registry.name(&format!("box@{digest}"));
    let kind = ["--artifact-type", "application/vnd.example.note"];
    peers.run(&[&["oras", "attach"], &flags[..], &kind[..], &[&subject, &note]].concat());
    let found = peers.run(&["oras", "discover", "--plain-http", "--format", "json", &subject]);
    assert!(found.contains("application/vnd.example.note"), "{found}");
}

/// A signature that is made and verified with nothing but a key pair.
fn cosign(peers: &Peers, registry: &Registry, digest: &str) {
    let subject = registry.name(&format!("box@{digest}"));
    let prefix = peers.file("key");
    peers.run(&["cosign", "generate-key-pair", "--output-key-prefix", &prefix]);
    let (private, public) = (format!("{prefix}.key"), format!("{prefix}.pub"));
    let flags = ["--allow-http-registry", "--allow-insecure-registry"];
    let sign =
        ["cosign", "sign", "--yes", "--tlog-upload=false", "--use-signing-config=false", "--key", &private];
    peers.run(&[&sign[..], &flags[..], &[&subject]].concat());
    let verify = ["cosign", "verify", "--insecure-ignore-tlog", "--key", &public];
    let verified = peers.run(&[&verify[..], &flags[..], &[&subject]].concat());
    assert!(verified.contains(digest), "{verified}");
}

#[test]
fn the_real_docker_registry_takes_and_gives_our_images() {
    let Some(reference) = Reference::find() else { return };
    let peers = Peers::new(&reference);
    let registry = DockerRegistry::start();
    let (maker, taker) = (Engine::with_image(), Engine::scratch());
    let (maker, taker) = (maker.wharf(), taker.wharf());
    let [name, other] = ["box:1", "other:1"].map(|path| format!("{}/{path}", registry.address()));
    maker.ok(&["tag", image::NAME, &name]);
    maker.ok(&["tag", image::NAME, &other]);
    let digest = said(&maker.ok(&["push", &name]));
    assert_eq!(peers.digest(&name), digest);
    assert_eq!(pulled(&taker, &name), digest);
    let mounted = maker.ok(&["push", &other]);
    assert!(mounted.contains("Mounted from box"), "{mounted}");
    assert_eq!(pulled(&taker, &other), digest);
}
