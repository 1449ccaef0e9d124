//! `why`: tells why containers ended or did not start, with the evidence.

use jiff::Timestamp;
use wharf_api::client::{Request, escape};

use crate::{
    cli::Cli,
    failure::{self, Failure, Result},
    format::human,
    template::{Template, Value, to_json},
    verb::{Arity, Verb},
};

/// The raw arguments of `why`.
#[derive(Debug, clap::Args)]
pub(crate) struct Why {
    /// How to show each ending: json or a template
    #[arg(long)]
    format: Option<String>,
    /// Show the last few endings
    #[arg(short = 'n', long, default_value_t = 1)]
    last: u32,
    #[arg(hide = true)]
    containers: Vec<String>,
}

impl Verb for Why {
    const ABOUT: &'static str = "Tell why containers ended or did not start";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        let template = match self.format.as_deref() {
            None | Some("" | "json") => None,
            Some(source) => Some(
                Template::parse("", source)
                    .map_err(|error| Failure::message(format!("template parsing error: {error}")))?,
            ),
        };
        let mut failures = Vec::new();
        for (index, name) in self.containers.iter().enumerate() {
            let request = Request::get(format!("/wharf/containers/{}/why", escape(name)))
                .query("limit", self.last.to_string());
            let view: Value = match cli.engine().await?.send(request).await {
                Ok(response) => response.json().await?,
                Err(error) if error.is_not_found() && error.to_string().contains("page not found") => {
                    return Err(Failure::message("this engine does not know why containers end"));
                }
                Err(error) => {
                    failures.push(error.into());
                    continue;
                }
            };
            let endings = view.list("Endings");
            if self.format.as_deref().is_none_or(str::is_empty) {
                if index > 0 {
                    cli.line("")?;
                }
                cli.print(&told(&view))?;
                continue;
            }
            for ending in endings {
                let line = match &template {
                    None => to_json(ending),
                    Some(template) => {
                        let mut line = String::new();
                        template
                            .render(ending, &mut line)
                            .map_err(|error| Failure::message(format!("template parsing error: {error}")))?;
                        line
                    }
                };
                cli.line(&line)?;
            }
        }
        failure::all(failures)
    }
}

/// Everything, for people.
fn told(view: &Value) -> String {
    let name = view.text("Name");
    let mut text = String::new();
    let status = view.text("Status");
    if let Ok(since) = view.text("RunningSince").parse::<Timestamp>() {
        text += &format!("{name} is {status} since {}.", ago(since));
        match view.int("OOMKills") {
            0 => {}
            1 => text += " The kernel has killed 1 process in it for want of memory.",
            kills => text += &format!(" The kernel has killed {kills} processes in it for want of memory."),
        }
        text.push('\n');
    }
    let endings = view.list("Endings");
    if endings.is_empty() {
        match (text.is_empty(), status) {
            (true, "created") => text += &format!("{name} was never started.\n"),
            (true, _) => text += &format!("Nothing is known of an end of {name}.\n"),
            (false, _) => {}
        }
    }
    for (index, ending) in endings.iter().enumerate() {
        if index > 0 || !text.is_empty() {
            text.push('\n');
        }
        let when = ending.text("FinishedAt").parse::<Timestamp>().map(ago).unwrap_or_default();
        let verb = if ending.text("StartedAt").is_empty() { "did not start" } else { "ended" };
        let gone = if status.is_empty() { " (removed)" } else { "" };
        let code = ending.int("ExitCode");
        let (name, kind) = (ending.text("Name"), ending.text("Kind"));
        text += &format!("{name}{gone} {verb}, {when} ago: {kind}, exit code {code}\n");
        text += &format!("{}\n", ending.text("Cause"));
        for line in ending.list("Evidence") {
            text += &format!("  - {}\n", line.as_str());
        }
        for line in ending.list("Try") {
            text += &format!("  try: {}\n", line.as_str());
        }
    }
    text
}

fn ago(time: Timestamp) -> String {
    human::since(time.as_second()).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_is_told_with_its_evidence() {
        let view = br#"{"Id":"ab","Name":"web","Status":"","RunningSince":null,"OOMKills":0,"Endings":[
            {"Name":"web","Kind":"out-of-memory","Cause":"The kernel killed it.","Evidence":["exit code 137"],
             "Try":["more memory"],"ExitCode":137,"StartedAt":"2026-01-01T00:00:00Z","FinishedAt":"2026-01-01T00:00:01Z"}]}"#;
        let text = told(&Value::parse_json(view).unwrap());
        assert!(text.starts_with("web (removed) ended, "), "{text}");
        assert!(text.ends_with(
            "ago: out-of-memory, exit code 137\nThe kernel killed it.\n  - exit code 137\n  try: more memory\n"
        ));
        let running = br#"{"Name":"web","Status":"running","RunningSince":"2026-01-01T00:00:00Z","OOMKills":2,"Endings":[]}"#;
        let text = told(&Value::parse_json(running).unwrap());
        assert!(text.contains("web is running since") && text.contains("killed 2 processes"), "{text}");
        let created = br#"{"Name":"web","Status":"created","OOMKills":0,"Endings":[]}"#;
        assert_eq!(told(&Value::parse_json(created).unwrap()), "web was never started.\n");
    }
}
