//! `search`: looks for images on Docker Hub, by way of the engine.

use wharf_api::client::Request;
use wharf_model::Reference;

use super::pull::AUTH_HEADER;
use crate::{
    cli::Cli,
    credentials::Auth,
    failure::Result,
    format::{Format, Row, human},
    syntax::filter::{self, Filter},
    template::Value,
    verb::{Arity, Verb},
};

/// The raw arguments of `search`.
#[derive(Debug, clap::Args)]
pub(crate) struct Search {
    /// Show only what matches (name=value)
    #[arg(short = 'f', long, value_parser = filter::parse, value_name = "filter")]
    filter: Vec<Filter>,
    /// How to show it: table, json, or a template
    #[arg(long)]
    format: Option<String>,
    /// How many results to show at most
    #[arg(long, default_value = "0")]
    limit: i64,
    /// Show everything in full
    #[arg(long)]
    no_trunc: bool,
    #[arg(hide = true)]
    term: Vec<String>,
}

impl Verb for Search {
    const ABOUT: &'static str = "Search Docker Hub for images";
    const USAGE: &'static str = "[OPTIONS] TERM";
    const ARITY: Arity = Arity::Exactly(1);

    async fn run(self, cli: &Cli) -> Result {
        let term = self.term[0].as_str();
        // A term may name the registry to ask, but need not be a name at all.
        let auth = match Reference::parse_normalized(term) {
            Ok(reference) => cli.auth(&reference).await,
            Err(_) => Auth::default(),
        };
        let limit = if self.limit > 0 { self.limit.to_string() } else { String::new() };
        let request = Request::get("/images/search")
            .query("term", term)
            .query_if("limit", limit)
            .query_if("filters", filter::to_query(&self.filter))
            .header(AUTH_HEADER, &auth.header());
        let mut found: Vec<Value> = cli.engine().await?.send(request).await?.json().await?;
        found.sort_by_key(|image| std::cmp::Reverse(image.int("star_count")));
        let table = "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}";
        let format = Format::parse::<Found>(self.format.as_deref().unwrap_or(""), table)?;
        cli.print(&format.render(found.into_iter().map(|image| Found { image, truncate: !self.no_trunc }))?)
    }
}

struct Found {
    image: Value,
    truncate: bool,
}

impl Row for Found {
    const TYPE: &'static str = "*search.Context";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("Description", "DESCRIPTION"),
        ("IsAutomated", "AUTOMATED"),
        ("IsOfficial", "OFFICIAL"),
        ("Name", "NAME"),
        ("StarCount", "STARS"),
    ];

    fn column(&self, name: &str) -> Value {
        let mark = |key: &str| if self.image.is_set(key) { "[OK]" } else { "" };
        match name {
            "Description" => {
                let text = self.image.text("description").replace(['\n', '\r'], " ");
                if self.truncate { human::ellipsis(&text, 45).into() } else { text.into() }
            }
            "IsAutomated" => mark("is_automated").into(),
            "IsOfficial" => mark("is_official").into(),
            "Name" => self.image.text("name").into(),
            _ => self.image.int("star_count").to_string().into(),
        }
    }
}
