//! The layer check: `layers.toml` against what cargo says each crate depends on.
//!
//! The graph that comes out is also kept as a text file under version control, so a new edge shows in the review of the
//! change that adds it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use wharf_testkit::workspace_root;

const GRAPH: &str = "docs/crate-graph.txt";

/// `layers.toml`.
#[derive(Debug, Deserialize)]
pub(crate) struct Rules {
    /// From the top down.
    layer: Vec<Layer>,
    #[serde(default)]
    sideways: Vec<Sideways>,
    #[serde(default)]
    home: Vec<Home>,
    synchronous: Synchronous,
    /// Files excused from the size limit.
    #[serde(default)]
    pub(crate) long: Vec<Long>,
}

#[derive(Debug, Deserialize)]
struct Layer {
    name: String,
    crates: Vec<String>,
    /// Beside the product rather than under it: may use anything, and nothing of the product may use it.
    #[serde(default)]
    tools: bool,
}

#[derive(Debug, Deserialize)]
struct Sideways {
    from: String,
    to: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Home {
    dependency: String,
    crates: Vec<String>,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Synchronous {
    crates: Vec<String>,
    never: Vec<String>,
}

/// A file that may be longer than the limit.
#[derive(Debug, Deserialize)]
pub(crate) struct Long {
    pub(crate) file: String,
    pub(crate) reason: String,
}

/// Crate name to the names it depends on (normal and build dependencies).
type Graph = BTreeMap<String, BTreeSet<String>>;

impl Rules {
    pub(crate) fn read() -> Result<Self> {
        let path = workspace_root().join("layers.toml");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        toml::from_str(&text).context("layers.toml")
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.layer.iter().position(|layer| layer.crates.iter().any(|member| member == name))
    }

    /// All broken rules, one line each.
    fn violations(&self, graph: &Graph) -> Vec<String> {
        let mut found = Vec::new();
        for (name, dependencies) in graph {
            let Some(place) = self.place(name) else {
                found.push(format!("{name} has no layer: add it to layers.toml"));
                continue;
            };
            for dependency in dependencies {
                found.extend(self.direction(name, place, dependency));
                found.extend(self.homeless(name, dependency));
                found.extend(self.coloured(name, dependency));
            }
        }
        found.extend(self.outdated(graph));
        found
    }

    fn direction(&self, name: &str, place: usize, dependency: &str) -> Option<String> {
        let below = self.place(dependency)?;
        let (upper, lower) = (&self.layer[place], &self.layer[below]);
        if lower.tools && !upper.tools {
            return Some(format!("{name} uses {dependency}, a developer tool"));
        }
        if upper.tools && !lower.tools || below > place {
            return None;
        }
        let allowed = self.sideways.iter().any(|edge| edge.from == name && edge.to == dependency);
        if below == place && allowed {
            return None;
        }
        let how = if below == place { "sideways" } else { "upwards" };
        Some(format!("{name} ({}) depends {how} on {dependency} ({})", upper.name, lower.name))
    }

    fn homeless(&self, name: &str, dependency: &str) -> Option<String> {
        let home = self.home.iter().find(|home| home.dependency == dependency)?;
        let allowed = home.crates.iter().any(|member| member == name);
        (!allowed).then(|| format!("{name} uses {dependency} itself, but {}", home.reason))
    }

    fn coloured(&self, name: &str, dependency: &str) -> Option<String> {
        let is = |list: &[String], what: &str| list.iter().any(|entry| entry == what);
        let broken = is(&self.synchronous.crates, name) && is(&self.synchronous.never, dependency);
        broken.then(|| format!("{name} is synchronous and may not use {dependency}"))
    }

    /// Permissions nobody uses any more.
    fn outdated(&self, graph: &Graph) -> Vec<String> {
        let edges = self.sideways.iter().filter(|edge| {
            !graph.get(&edge.from).is_some_and(|dependencies| dependencies.contains(&edge.to))
        });
        let crates =
            self.layer.iter().flat_map(|layer| &layer.crates).filter(|name| !graph.contains_key(*name));
        edges
            .map(|edge| {
                format!("the permission {} -> {} ({}) is not needed", edge.from, edge.to, edge.reason)
            })
            .chain(crates.map(|name| format!("layers.toml lists {name}, which does not exist")))
            .collect()
    }

    /// The graph as people read it: by layer, from the top, product crates only.
    fn render(&self, graph: &Graph) -> String {
        let mut text = String::from("# Who uses whom, written by `cargo xtask layers --write`.\n");
        for layer in &self.layer {
            let _ = writeln!(text, "\n{}", layer.name);
            for name in &layer.crates {
                let ours = graph
                    .get(name)
                    .into_iter()
                    .flatten()
                    .filter(|dependency| graph.contains_key(*dependency));
                let list: Vec<&str> = ours.map(String::as_str).collect();
                let _ = writeln!(
                    text,
                    "  {name} -> {}",
                    if list.is_empty() { "-".to_owned() } else { list.join(" ") }
                );
            }
        }
        text
    }
}

/// Checks the rules and that the graph in `docs/` is the real one.
pub(crate) fn check() -> Result<()> {
    let (rules, graph) = (Rules::read()?, graph()?);
    let violations = rules.violations(&graph);
    ensure!(violations.is_empty(), "the layers are broken:\n  {}", violations.join("\n  "));
    let path = workspace_root().join(GRAPH);
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    ensure!(
        recorded == rules.render(&graph),
        "{GRAPH} is out of date: run `cargo xtask layers --write` and read its diff"
    );
    println!("layers: {} crates, all dependencies point downwards", graph.len());
    Ok(())
}

/// Renews the graph in `docs/`.
pub(crate) fn write() -> Result<()> {
    let text = Rules::read()?.render(&graph()?);
    std::fs::write(workspace_root().join(GRAPH), text).with_context(|| format!("writing {GRAPH}"))
}

fn graph() -> Result<Graph> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps"])
        .current_dir(workspace_root())
        .output()
        .context("running cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata's answer")?;
    Ok(read_graph(&metadata))
}

fn read_graph(metadata: &Value) -> Graph {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .map(|package| {
            let all = package["dependencies"].as_array().into_iter().flatten();
            let used = all.filter(|dependency| dependency["kind"] != "dev");
            (text(&package["name"]), used.map(|dependency| text(&dependency["name"])).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
        layer = [
            { name = "top", crates = ["a"] },
            { name = "middle", crates = ["b", "c"] },
            { name = "tools", crates = ["t"], tools = true },
        ]
        home = [{ dependency = "raw", crates = ["b"], reason = "b hides it" }]
        synchronous = { crates = ["c"], never = ["tokio"] }
    "#;

    fn broken(edges: &[(&str, &[&str])]) -> Vec<String> {
        let rules: Rules = toml::from_str(RULES).unwrap();
        let mut graph: Graph = ["a", "b", "c", "t"].map(|name| (name.to_owned(), BTreeSet::new())).into();
        for (name, dependencies) in edges {
            graph.insert(
                (*name).to_owned(),
                dependencies.iter().map(|dependency| (*dependency).to_owned()).collect(),
            );
        }
        rules.violations(&graph)
    }

    #[test]
    fn downwards_is_allowed() {
        assert_eq!(broken(&[("a", &["b", "c"]), ("t", &["a"])]), Vec::<String>::new());
    }

    #[test]
    fn upwards_sideways_and_tools_are_not() {
        assert_eq!(broken(&[("b", &["a"])]), ["b (middle) depends upwards on a (top)"]);
        assert_eq!(broken(&[("b", &["c"])]), ["b (middle) depends sideways on c (middle)"]);
        assert_eq!(broken(&[("a", &["t"])]), ["a uses t, a developer tool"]);
    }

    #[test]
    fn homes_and_colours_are_kept() {
        assert_eq!(broken(&[("a", &["raw"])]), ["a uses raw itself, but b hides it"]);
        assert_eq!(broken(&[("c", &["tokio"])]), ["c is synchronous and may not use tokio"]);
    }

    #[test]
    fn a_crate_without_a_layer_is_reported() {
        assert_eq!(broken(&[("new", &[])]), ["new has no layer: add it to layers.toml"]);
    }
}
