//! `history`: shows how an image came to be.

use wharf_api::client::{Request, escape};

use crate::{
    cli::Cli,
    failure::Result,
    format::{Format, Row, human},
    template::Value,
    verb::{Arity, Verb},
};

/// The raw arguments of `history`.
#[derive(Debug, clap::Args)]
pub(crate) struct History {
    /// How to show it: table, json, or a template
    #[arg(long)]
    format: Option<String>,
    /// Show sizes and times as people read them
    #[arg(short = 'H', long, default_value = "true")]
    human: bool,
    /// Show everything in full
    #[arg(long)]
    no_trunc: bool,
    /// Show the history of this platform's image
    #[arg(long)]
    platform: Option<String>,
    /// Show IDs only
    #[arg(short = 'q', long)]
    quiet: bool,
    #[arg(hide = true)]
    image: Vec<String>,
}

impl Verb for History {
    const ABOUT: &'static str = "Show how an image came to be";
    const USAGE: &'static str = "[OPTIONS] IMAGE";
    const ARITY: Arity = Arity::Exactly(1);

    async fn run(self, cli: &Cli) -> Result {
        let created = if self.human { "{{.CreatedSince}}" } else { "{{.CreatedAt}}" };
        let table = match self.quiet {
            true => "{{.ID}}".to_owned(),
            false => {
                format!("table {{{{.ID}}}}\t{created}\t{{{{.CreatedBy}}}}\t{{{{.Size}}}}\t{{{{.Comment}}}}")
            }
        };
        let format = Format::parse::<Step>(self.format.as_deref().unwrap_or(""), &table)?;
        let mut request = Request::get(format!("/images/{}/history", escape(&self.image[0])));
        if let Some(platform) = super::platform(self.platform.as_deref(), "invalid platform: ")? {
            request = request.query("platform", platform.document());
        }
        let list: Vec<Value> = cli.engine().await?.send(request).await?.json().await?;
        let row = |step| Step { step, truncate: !self.no_trunc, human: self.human };
        cli.print(&format.render(list.into_iter().map(row))?)
    }
}

struct Step {
    step: Value,
    truncate: bool,
    human: bool,
}

impl Row for Step {
    const TYPE: &'static str = "*image.historyContext";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("Comment", "COMMENT"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("CreatedSince", "CREATED"),
        ("ID", "IMAGE"),
        ("Size", "SIZE"),
    ];

    fn column(&self, name: &str) -> Value {
        let step = &self.step;
        let text = match name {
            "Comment" => step.text("Comment").to_owned(),
            "CreatedAt" => human::rfc3339(step.int("Created")),
            "CreatedBy" => {
                let command = step.text("CreatedBy").replace('\t', " ");
                if self.truncate { human::ellipsis(&command, 45) } else { command }
            }
            // What is older than all images has no time.
            "CreatedSince" if step.int("Created") <= -62_135_596_800 => String::new(),
            "CreatedSince" => format!("{} ago", human::since(step.int("Created"))),
            "ID" if self.truncate => human::short_id(step.text("Id")).to_owned(),
            "ID" => step.text("Id").to_owned(),
            _ if self.human => human::size(step.int("Size") as f64),
            _ => step.int("Size").to_string(),
        };
        text.into()
    }
}
