//! `images`: lists images.

mod tree;

use std::collections::BTreeMap;

use wharf_api::client::Request;

use crate::{
    cli::Cli,
    failure::{Failure, Result},
    format::{Format, Row, human},
    syntax::filter::{self, Filter},
    template::Value,
    verb::{Arity, Verb},
};

const CREATED: &str = "{{if .CreatedSince}}{{.CreatedSince}}{{else}}N/A{{end}}";

/// The raw arguments of `images`.
#[derive(Debug, clap::Args)]
pub(crate) struct Images {
    /// Show intermediate images too
    #[arg(short = 'a', long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Show only what matches (name=value)
    #[arg(short = 'f', long, value_parser = filter::parse, value_name = "filter")]
    filter: Vec<Filter>,
    /// How to show it: table, json, or a template
    #[arg(long)]
    format: Option<String>,
    /// Show everything in full
    #[arg(long)]
    no_trunc: bool,
    /// Show IDs only
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Show the images of each platform below their index
    #[arg(long)]
    tree: bool,
    #[arg(hide = true)]
    name: Vec<String>,
}

impl Verb for Images {
    const ABOUT: &'static str = "List images";
    const USAGE: &'static str = "[OPTIONS] [REPOSITORY[:TAG]]";
    const ARITY: Arity = Arity::AtMost(1);

    async fn run(mut self, cli: &Cli) -> Result {
        if let Some(name) = self.name.pop() {
            self.filter.push(Filter { key: "reference".into(), value: name });
        }
        if self.tree {
            return self.as_tree(cli).await;
        }
        let digest = if self.digests { "{{.Digest}}\t" } else { "" };
        let table = match self.quiet {
            true => "{{.ID}}".to_owned(),
            false => format!(
                "table {{{{.Repository}}}}\t{{{{.Tag}}}}\t{digest}{{{{.ID}}}}\t{CREATED}\t{{{{.Size}}}}"
            ),
        };
        let spec = match &self.format {
            Some(format) if !format.is_empty() => format.clone(),
            _ if self.quiet => String::new(),
            _ => cli.config().images_format.clone(),
        };
        let format = Format::parse::<Image>(&spec, &table)?;
        let request = Request::get("/images/json")
            .flag("all", self.all)
            .flag("digests", self.digests)
            .query_if("filters", filter::to_query(&self.filter));
        let list: Vec<Value> = cli.engine().await?.send(request).await?.json().await?;
        let with_digests = self.digests || format.mentions("Digest");
        let rows = list.iter().flat_map(|summary| rows(summary, with_digests, !self.no_trunc));
        cli.print(&format.render(rows.collect::<Vec<_>>())?)
    }
}

impl Images {
    async fn as_tree(&self, cli: &Cli) -> Result {
        let given = [
            ("quiet", self.quiet),
            ("no-trunc", self.no_trunc),
            ("show-digest", self.digests),
            ("format", self.format.as_deref().is_some_and(|format| !format.is_empty())),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Failure::message(format!("--{flag} is not yet supported with --tree")));
        }
        let request = Request::get("/images/json")
            .flag("all", self.all)
            .flag("manifests", true)
            .query_if("filters", filter::to_query(&self.filter));
        let list: Vec<Value> = cli.engine().await?.send(request).await?.json().await?;
        cli.print(&tree::render(&list))
    }
}

/// A line of the listing: an image by one of its names.
pub(super) struct Image {
    summary: Value,
    repository: String,
    tag: String,
    digest: String,
    truncate: bool,
}

/// The lines of one image.
pub(super) fn rows(summary: &Value, with_digests: bool, truncate: bool) -> Vec<Image> {
    const NONE: &str = "<none>";
    let row = |repository: &str, tag: &str, digest: &str| Image {
        summary: summary.clone(),
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        digest: digest.to_owned(),
        truncate,
    };
    let names = |key: &str, separator: char| {
        let mut by_repository: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in summary.list(key) {
            if let Some((repository, last)) = name.as_str().rsplit_once(separator)
                && repository != NONE
            {
                by_repository.entry(repository.to_owned()).or_default().push(last.to_owned());
            }
        }
        by_repository
    };
    let (tags, mut digests) = (names("RepoTags", ':'), names("RepoDigests", '@'));
    let mut rows = Vec::new();
    for (repository, tags) in &tags {
        let own = digests.remove(repository).unwrap_or_default();
        for tag in tags {
            match with_digests && !own.is_empty() {
                true => rows.extend(own.iter().map(|digest| row(repository, tag, digest))),
                false => rows.push(row(repository, tag, NONE)),
            }
        }
    }
    for (repository, own) in &digests {
        match with_digests {
            true => rows.extend(own.iter().map(|digest| row(repository, NONE, digest))),
            false => rows.push(row(repository, NONE, "")),
        }
    }
    if rows.is_empty() {
        rows.push(row(NONE, NONE, NONE));
    }
    rows
}

impl Row for Image {
    const TYPE: &'static str = "*formatter.imageContext";
    const RAW: &'static str = "repository: {{.Repository}}\ntag: {{.Tag}}\nimage_id: {{.ID}}\ncreated_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("Containers", "CONTAINERS"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedSince", "CREATED"),
        ("Digest", "DIGEST"),
        ("ID", "IMAGE ID"),
        ("Repository", "REPOSITORY"),
        ("SharedSize", "SHARED SIZE"),
        ("Size", "SIZE"),
        ("Tag", "TAG"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("VirtualSize", "VIRTUAL SIZE"),
    ];

    fn column(&self, name: &str) -> Value {
        let summary = &self.summary;
        let size = summary.int("Size");
        let shared = summary.get("SharedSize").map_or(-1, Value::as_int);
        let text = match name {
            "Containers" => match summary.get("Containers").map_or(-1, Value::as_int) {
                -1 => "N/A".to_owned(),
                count => count.to_string(),
            },
            "CreatedAt" => human::local_time(summary.int("Created")),
            "CreatedSince" => match summary.int("Created") {
                created if created <= 0 => String::new(),
                created => format!("{} ago", human::since(created)),
            },
            "Digest" => self.digest.clone(),
            "ID" if self.truncate => human::short_id(summary.text("Id")).to_owned(),
            "ID" => summary.text("Id").to_owned(),
            "Repository" => self.repository.clone(),
            "SharedSize" if shared >= 0 => human::size_exact(shared as f64),
            "UniqueSize" if shared >= 0 => human::size_exact((size - shared) as f64),
            "SharedSize" | "UniqueSize" => "N/A".to_owned(),
            "Size" => human::size(size as f64),
            "Tag" => self.tag.clone(),
            _ => human::size_exact(size as f64),
        };
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(json: &str, with_digests: bool) -> Vec<String> {
        let summary = Value::parse_json(json.as_bytes()).unwrap();
        let show = |image: &Image| format!("{} {} {}", image.repository, image.tag, image.digest);
        rows(&summary, with_digests, true).iter().map(show).collect()
    }

    #[test]
    fn every_name_has_its_line() {
        let image = r#"{"RepoTags":["a:1","reg:5000/b:2"],"RepoDigests":["a@sha256:x","c@sha256:y"]}"#;
        assert_eq!(names(image, false), ["a 1 <none>", "reg:5000/b 2 <none>", "c <none> "]);
        assert_eq!(names(image, true), ["a 1 sha256:x", "reg:5000/b 2 <none>", "c <none> sha256:y"]);
        assert_eq!(names(r#"{"RepoTags":[],"RepoDigests":null}"#, false), ["<none> <none> <none>"]);
        assert_eq!(names(r#"{"RepoTags":["<none>:<none>"]}"#, false), ["<none> <none> <none>"]);
    }
}
