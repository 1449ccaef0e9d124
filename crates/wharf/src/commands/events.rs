//! `events`: shows what happens, as it happens.

use jiff::{Timestamp, tz::TimeZone};
use wharf_api::client::Request;

use crate::{
    cli::Cli,
    failure::{Failure, Result},
    format::human,
    syntax::{
        filter::{self, Filter},
        moment,
    },
    template::{Template, Value, to_json},
    verb::{Arity, Verb},
};

/// The raw arguments of `events`.
#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    /// Show only what matches (name=value)
    #[arg(short = 'f', long, value_parser = filter::parse, value_name = "filter")]
    filter: Vec<Filter>,
    /// How to show it: json or a template
    #[arg(long)]
    format: Option<String>,
    /// Show everything since then (a time, or how long ago)
    #[arg(long)]
    since: Option<String>,
    /// Stop then (a time, or how long ago)
    #[arg(long)]
    until: Option<String>,
}

impl Verb for Events {
    const ABOUT: &'static str = "Show what happens in the engine";
    const USAGE: &'static str = "[OPTIONS]";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        let template = match self.format.as_deref() {
            None | Some("" | "json") => None,
            Some(source) => Some(Template::parse("", source).map_err(bad_format)?),
        };
        let moment = |text: &Option<String>| match text.as_deref() {
            None | Some("") => Ok(String::new()),
            Some(text) => moment::parse(text, Timestamp::now()).map_err(Failure::Message),
        };
        let request = Request::get("/events")
            .query_if("since", moment(&self.since)?)
            .query_if("until", moment(&self.until)?)
            .query_if("filters", filter::to_query(&self.filter));
        let mut events = cli.engine().await?.send(request).await?.documents();
        while let Some(event) = events.next::<Value>().await? {
            let line = match (&template, self.format.as_deref()) {
                (None, Some("json")) => to_json(&event),
                (None, _) => plain(&event),
                (Some(template), _) => {
                    let mut line = String::new();
                    let event = super::inspect::named_record("*events.Message", named_as_in_go(&event));
                    template.render(&event, &mut line).map_err(bad_format)?;
                    line
                }
            };
            cli.line(&line)?;
        }
        Ok(())
    }
}

fn bad_format(error: crate::template::Error) -> Failure {
    Failure::status(64, format!("Error parsing format: {error}"))
}

fn plain(event: &Value) -> String {
    let nanos = i128::from(event.int("timeNano"));
    let time = match Timestamp::from_nanosecond(nanos) {
        Ok(timestamp) if nanos != 0 => {
            let zoned = timestamp.to_zoned_datetime(TimeZone::system());
            let offset = if zoned.offset().is_zero() { "Z" } else { "%:z" };
            zoned.strftime(&format!("%Y-%m-%dT%H:%M:%S.%9f{offset}")).to_string()
        }
        _ => human::rfc3339(event.int("time")),
    };
    let actor = event.get("Actor").unwrap_or(&Value::Nil);
    let attributes: Vec<String> = Value::sorted_members(actor.entries("Attributes"))
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str()))
        .collect();
    let mut line = format!("{time} {} {} {}", event.text("Type"), event.text("Action"), actor.text("ID"));
    if !attributes.is_empty() {
        line.push_str(&format!(" ({})", attributes.join(", ")));
    }
    line
}

/// The event with the names templates know, which are those of Go's struct.
fn named_as_in_go(event: &Value) -> Value {
    const NAMES: [(&str, &str); 9] = [
        ("Status", "status"),
        ("ID", "id"),
        ("From", "from"),
        ("Type", "Type"),
        ("Action", "Action"),
        ("Actor", "Actor"),
        ("Scope", "scope"),
        ("Time", "time"),
        ("TimeNano", "timeNano"),
    ];
    let member = |(go, json): &(&'static str, &str)| {
        let absent = || if json.starts_with("time") { Value::Int(0) } else { "".into() };
        let value = event.get(json).cloned().unwrap_or_else(absent);
        (*go, value)
    };
    Value::map(NAMES.iter().map(member).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = br#"{"status":"die","id":"ab","from":"i","Type":"container","Action":"die",
            "Actor":{"ID":"ab","Attributes":{"name":"x","image":"i"}},"scope":"local","time":1,"timeNano":1500000000}"#;
        let event = Value::parse_json(event).unwrap();
        assert!(plain(&event).ends_with(" container die ab (image=i, name=x)"), "{}", plain(&event));
        let template = Template::parse(
            "",
            "{{.Status}} {{.ID}} {{.Actor.Attributes.name}} {{.Actor.Attributes.no}} {{.Time}}",
        )
        .unwrap();
        let mut line = String::new();
        template
            .render(
                &super::super::inspect::named_record("*events.Message", named_as_in_go(&event)),
                &mut line,
            )
            .unwrap();
        assert_eq!(line, "die ab x <no value> 1");
    }
}
