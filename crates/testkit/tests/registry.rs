//! Images between an engine and a registry, as a user does it.

use wharf_testkit::image::{self, Builder, Tar};
use wharf_testkit::{Cli, Engine, EngineBuilder, Registry};

fn digest_of(cli: &Cli, name: &str) -> String {
    let digests = cli.ok(&["image", "inspect", "--format", "{{json .RepoDigests}}", name]);
    let repository = name.rsplit_once(':').map_or(name, |(repository, _)| repository);
    let digests: Vec<String> = serde_json::from_str(&digests).expect("a list");
    let of_this = digests.iter().find_map(|digest| digest.strip_prefix(&format!("{repository}@")));
    of_this.unwrap_or_else(|| panic!("no digest of {name} in {digests:?}")).to_owned()
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back_and_runs() {
    let registry = Registry::scratch();
    let (first, second) = (Engine::with_image(), Engine::scratch());
    let (first, second) = (first.wharf(), second.wharf());
    let name = registry.name("team/box:1");
    first.ok(&["tag", image::NAME, &name]);
    let pushed = first.ok(&["push", &name]);
    let digest = digest_of(&first, &name);
    assert!(pushed.contains(&format!("1: digest: {digest} size: ")), "{pushed}");

    let pulled = second.ok(&["pull", &name]);
    assert!(pulled.contains(&format!("Digest: {digest}")), "{pulled}");
    assert!(pulled.contains(&format!("Status: Downloaded newer image for {name}")), "{pulled}");
    assert_eq!(second.ok(&["run", "--rm", &name, "echo", "hello"]), "hello");
    let again = second.ok(&["pull", &name]);
    assert!(again.contains(&format!("Status: Image is up to date for {name}")), "{again}");

    // What was pulled is what is pushed, to another repository too.
    let other = registry.name("team/other:2");
    second.ok(&["tag", &name, &other]);
    let pushed = second.ok(&["push", &other]);
    assert!(pushed.contains("Mounted from team/box"), "{pushed}");
    assert!(pushed.contains(&format!("2: digest: {digest} size: ")), "{pushed}");

    // By digest, without a tag.
    second.ok(&["rmi", "-f", &name, &other]);
    let by_digest = format!("{}@{digest}", registry.name("team/box"));
    second.ok(&["pull", &by_digest]);
    assert_eq!(second.ok(&["run", "--rm", &by_digest, "echo", "again"]), "again");
}

#[test]
fn run_pulls_what_is_not_here() {
    let registry = Registry::scratch();
    let (first, second) = (Engine::with_image(), Engine::scratch());
    let name = registry.name("box:latest");
    first.wharf().ok(&["tag", image::NAME, &name]);
    first.wharf().ok(&["push", &name]);
    let output = second.wharf().run(&["run", "--rm", &registry.name("box"), "echo", "hello"]);
    assert_eq!((output.code, output.stdout.as_str()), (0, "hello\n"), "{}", output.stderr);
    assert!(output.stderr.contains("Unable to find image"), "{}", output.stderr);
}

#[test]
fn what_a_registry_does_not_have_is_said_in_dockers_words() {
    let registry = Registry::scratch();
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let present = registry.name("box:1");
    wharf.ok(&["tag", image::NAME, &present]);
    wharf.ok(&["push", &present]);
    let name = registry.name("box:2");
    let said = wharf.fails(1, &["pull", &name]);
    assert!(said.contains(&format!("manifest for {name} not found: manifest unknown")), "{said}");
    let repository = registry.name("nothing");
    let said = wharf.fails(1, &["pull", &repository]);
    assert!(
        said.contains(&format!("pull access denied for {repository}, repository does not exist")),
        "{said}"
    );
    let said = wharf.fails(1, &["push", &repository]);
    assert!(said.contains(&format!("An image does not exist locally with the tag: {repository}")), "{said}");
    // The address of a registry that was there a moment ago.
    let gone = registry.name("box:1");
    wharf.ok(&["tag", image::NAME, &gone]);
    drop(registry);
    let said = wharf.fails(1, &["push", &gone]);
    assert!(said.contains("connection refused"), "{said}");
}

#[test]
fn all_tags_go_and_come_together() {
    let registry = Registry::scratch();
    let (first, second) = (Engine::with_image(), Engine::scratch());
    let (first, second) = (first.wharf(), second.wharf());
    let repository = registry.name("many");
    for tag in ["a", "b", "c"] {
        first.ok(&["tag", image::NAME, &format!("{repository}:{tag}")]);
    }
    first.ok(&["push", "-a", &repository]);
    second.ok(&["pull", "-a", &repository]);
    let tags = second.ok(&["images", "--format", "{{.Tag}}", &repository]);
    let mut tags: Vec<&str> = tags.lines().collect();
    tags.sort_unstable();
    assert_eq!(tags, ["a", "b", "c"]);
}

#[test]
fn a_layer_that_is_here_is_not_fetched_again() {
    let registry = Registry::scratch();
    let (first, second) = (Engine::scratch(), Engine::scratch());
    let (base, top) = (registry.name("base:1"), registry.name("top:1"));
    let mut tar = Tar::new();
    tar.file("above", 0o644, b"one more layer");
    first.load(&Builder::new(&base, image::rootfs()).build());
    first.load(&Builder::new(&top, image::rootfs()).layer(tar.finish()).build());
    for name in [&base, &top] {
        first.wharf().ok(&["push", name]);
    }
    second.wharf().ok(&["pull", &base]);
    let pulled = second.wharf().ok(&["pull", &top]);
    assert_eq!(pulled.matches("Already exists").count(), 1, "{pulled}");
    assert_eq!(pulled.matches("Pull complete").count(), 2, "{pulled}");
    assert_eq!(second.wharf().ok(&["run", "--rm", &top, "cat", "/above"]), "one more layer");
}

#[test]
fn an_engine_serves_a_registry_when_asked() {
    let listener = wharf_testkit::loopback::tcp();
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let engine = EngineBuilder::default().argument("--registry-address").argument(&address).start();
    engine.load(&image::archive());
    let (wharf, name) = (engine.wharf(), format!("{address}/box:1"));
    wharf.ok(&["tag", image::NAME, &name]);
    let pushed = wharf.ok(&["push", &name]);
    wharf.ok(&["rmi", "-f", &name, image::NAME]);
    engine.kill();
    engine.start();
    let pulled = wharf.ok(&["pull", &name]);
    let digest = pulled.lines().find_map(|line| line.strip_prefix("Digest: ")).expect("a digest");
    assert!(pushed.contains(digest), "{pushed}{pulled}");
    assert_eq!(wharf.ok(&["run", "--rm", &name, "echo", "hello"]), "hello");
}
