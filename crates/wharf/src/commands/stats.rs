//! `stats`: shows what running containers use, once or live.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use futures_util::{
    StreamExt,
    stream::{FuturesOrdered, FuturesUnordered},
};
use tokio::time::{MissedTickBehavior, interval};
use wharf_api::client::{Client, Documents, Request, escape};

use crate::{
    cli::Cli,
    failure::Result,
    format::{Format, Row, human},
    template::Value,
    verb::{Arity, Verb},
};

const TABLE: &str = "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";

/// How often a live table is drawn.
const REFRESH: Duration = Duration::from_millis(500);

/// The raw arguments of `stats`.
#[derive(Debug, clap::Args)]
pub(crate) struct Stats {
    /// Show all containers, not only running ones
    #[arg(short = 'a', long)]
    all: bool,
    /// How to show it: table, json, or a template
    #[arg(long)]
    format: Option<String>,
    /// Show the first numbers only and do not stay
    #[arg(long)]
    no_stream: bool,
    /// Show everything in full
    #[arg(long)]
    no_trunc: bool,
    #[arg(hide = true)]
    containers: Vec<String>,
}

impl Verb for Stats {
    const ABOUT: &'static str = "Show what running containers use";
    const USAGE: &'static str = "[OPTIONS] [CONTAINER...]";
    const ARITY: Arity = Arity::AtLeast(0);

    async fn run(self, cli: &Cli) -> Result {
        let configured = cli.config().stats_format.as_str();
        let format = Format::parse::<Usage>(self.format.as_deref().unwrap_or(configured), TABLE)?;
        let client = cli.engine().await?;
        if self.no_stream {
            self.once(cli, client, &format).await
        } else {
            self.live(cli, client, &format).await
        }
    }
}

impl Stats {
    /// The containers to show: those named, or all there are.
    async fn names(&self, client: &Client) -> Result<Vec<String>> {
        if !self.containers.is_empty() {
            return Ok(self.containers.clone());
        }
        let request = Request::get("/containers/json").flag("all", self.all);
        let list: Vec<Value> = client.send(request).await?.json().await?;
        Ok(list.iter().map(|container| human::short_id(container.text("Id")).to_owned()).collect())
    }

    async fn once(&self, cli: &Cli, client: &Client, format: &Format) -> Result {
        let names = self.names(client).await?;
        let mut samples: FuturesOrdered<_> = names
            .iter()
            .map(async |name| {
                let response = client.send(stats_request(name, false)).await?;
                Ok::<_, crate::failure::Failure>((name.clone(), response.json::<Value>().await?))
            })
            .collect();
        let mut rows = Vec::new();
        while let Some(sample) = samples.next().await {
            let (name, sample) = sample?;
            rows.push(Usage::new(&name, Some(&sample), !self.no_trunc));
        }
        cli.print(&format.render(rows)?)
    }

    async fn live(&self, cli: &Cli, client: &Client, format: &Format) -> Result {
        /// What is known of each container, in the order they came.
        type Samples = BTreeMap<usize, (String, Option<Value>)>;
        let samples: RefCell<Samples> = RefCell::default();
        let follow = async |index: usize, mut documents: Documents| {
            while let Ok(Some(sample)) = documents.next::<Value>().await {
                if let Some((_, last)) = samples.borrow_mut().get_mut(&index) {
                    *last = Some(sample);
                }
            }
            samples.borrow_mut().remove(&index);
        };
        let watch_new = self.containers.is_empty();
        let mut events = match watch_new {
            true => Some(client.send(start_events(self.all)).await?.documents()),
            false => None,
        };
        let mut next = 0;
        let mut streams = FuturesUnordered::new();
        let mut waiting = self.names(client).await?;
        let mut ticks = interval(REFRESH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            for name in waiting.drain(..) {
                if samples.borrow().values().any(|(known, _)| *known == name) {
                    continue;
                }
                match client.send(stats_request(&name, true)).await {
                    Ok(response) => {
                        samples.borrow_mut().insert(next, (name, None));
                        streams.push(follow(next, response.documents()));
                        next += 1;
                    }
                    // It may be gone again; a name of the user's may not.
                    Err(error) if !watch_new => return Err(error.into()),
                    Err(_) => {}
                }
            }
            tokio::select! {
                _ = ticks.tick() => {
                    let rows: Vec<Usage> = samples
                        .borrow()
                        .values()
                        .map(|(name, sample)| Usage::new(name, sample.as_ref(), !self.no_trunc))
                        .collect();
                    cli.print(&screen(&format.render(rows)?, format.is_table()))?;
                    if !watch_new && streams.is_empty() {
                        return Ok(());
                    }
                }
                Some(()) = streams.next() => {}
                Some(name) = next_start(&mut events) => waiting.push(name),
            }
        }
    }
}

/// A drawing of the table over the last one.
fn screen(text: &str, table: bool) -> String {
    if !table {
        return text.to_owned();
    }
    // Every line is cleared to its end, and what is below the last line goes away.
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

fn stats_request(name: &str, stream: bool) -> Request {
    Request::get(format!("/containers/{}/stats", escape(name)))
        .query("stream", if stream { "1" } else { "0" })
}

fn start_events(all: bool) -> Request {
    let actions = if all { r#""create":true,"start":true"# } else { r#""start":true"# };
    let filters = format!(r#"{{"type":{{"container":true}},"event":{{{actions}}}}}"#);
    Request::get("/events").query("filters", filters)
}

async fn next_start(events: &mut Option<Documents>) -> Option<String> {
    let event: Value = events.as_mut()?.next().await.ok()??;
    Some(human::short_id(event.get("Actor")?.text("ID")).to_owned())
}

/// A line of the listing.
struct Usage {
    container: String,
    id: String,
    name: String,
    /// `None` until the first sample.
    numbers: Option<Numbers>,
}

#[derive(Debug, PartialEq)]
struct Numbers {
    cpu_percent: f64,
    memory: f64,
    limit: f64,
    received: f64,
    sent: f64,
    read: f64,
    written: f64,
    pids: i64,
}

impl Usage {
    fn new(name: &str, sample: Option<&Value>, truncate: bool) -> Self {
        let id = sample.map_or("", |sample| sample.text("id"));
        let own_name = sample.map_or("", |sample| sample.text("name"));
        Self {
            container: name.to_owned(),
            id: if truncate { human::short_id(id).to_owned() } else { id.to_owned() },
            name: own_name.trim_start_matches('/').to_owned(),
            numbers: sample.map(Numbers::of),
        }
    }
}

impl Numbers {
    fn of(sample: &Value) -> Self {
        let memory = sample.get("memory_stats").cloned().unwrap_or_default();
        let (mut received, mut sent) = (0, 0);
        for (_, network) in sample.entries("networks") {
            received += network.int("rx_bytes");
            sent += network.int("tx_bytes");
        }
        let (mut read, mut written) = (0, 0);
        let blkio = sample.get("blkio_stats").cloned().unwrap_or_default();
        for entry in blkio.list("io_service_bytes_recursive") {
            match entry.text("op").bytes().next() {
                Some(b'r' | b'R') => read += entry.int("value"),
                Some(b'w' | b'W') => written += entry.int("value"),
                _ => {}
            }
        }
        Self {
            cpu_percent: cpu_percent(sample),
            memory: used_memory(&memory) as f64,
            limit: memory.int("limit") as f64,
            received: received as f64,
            sent: sent as f64,
            read: read as f64,
            written: written as f64,
            pids: sample.get("pids_stats").map_or(0, |pids| pids.int("current")),
        }
    }

    fn memory_percent(&self) -> f64 {
        if self.limit > 0.0 { self.memory / self.limit * 100.0 } else { 0.0 }
    }
}

fn cpu_percent(sample: &Value) -> f64 {
    let part = |name: &str| sample.get(name).cloned().unwrap_or_default();
    let (now, before) = (part("cpu_stats"), part("precpu_stats"));
    let total = |stats: &Value| stats.get("cpu_usage").map_or(0, |usage| usage.int("total_usage"));
    let used = (total(&now) - total(&before)) as f64;
    let passed = (now.int("system_cpu_usage") - before.int("system_cpu_usage")) as f64;
    let cpus = match now.int("online_cpus") {
        0 => now.get("cpu_usage").map_or(1, |usage| usage.list("percpu_usage").len()) as f64,
        count => count as f64,
    };
    if used > 0.0 && passed > 0.0 { used / passed * cpus * 100.0 } else { 0.0 }
}

/// Memory without what the kernel would give back at once: cached files nobody used lately.
fn used_memory(memory: &Value) -> i64 {
    let usage = memory.int("usage");
    let details = memory.get("stats").cloned().unwrap_or_default();
    let cached = ["total_inactive_file", "inactive_file"]
        .iter()
        .find_map(|key| details.get(key))
        .map_or(0, Value::as_int);
    if cached < usage { usage - cached } else { usage }
}

impl Row for Usage {
    const TYPE: &'static str = "*container.statsContext";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("BlockIO", "BLOCK I/O"),
        ("CPUPerc", "CPU %"),
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("MemPerc", "MEM %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("Name", "NAME"),
        ("NetIO", "NET I/O"),
        ("PIDs", "PIDS"),
    ];

    fn column(&self, name: &str) -> Value {
        let or_dashes = |text: &str| if text.is_empty() { "--".to_owned() } else { text.to_owned() };
        let text = match (name, &self.numbers) {
            ("Container", _) => self.container.clone(),
            ("ID", _) => or_dashes(&self.id),
            ("Name", _) => or_dashes(&self.name),
            ("MemUsage", None) => "-- / --".to_owned(),
            (_, None) => "--".to_owned(),
            ("BlockIO", Some(n)) => format!("{} / {}", human::size(n.read), human::size(n.written)),
            ("CPUPerc", Some(n)) => format!("{:.2}%", n.cpu_percent),
            ("MemPerc", Some(n)) => format!("{:.2}%", n.memory_percent()),
            ("MemUsage", Some(n)) => {
                format!("{} / {}", human::binary_size(n.memory), human::binary_size(n.limit))
            }
            ("NetIO", Some(n)) => format!("{} / {}", human::size(n.received), human::size(n.sent)),
            (_, Some(n)) => n.pids.to_string(),
        };
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_from_two_samples() {
        let sample = br#"{"id":"0123456789abcdef","name":"/web",
            "cpu_stats":{"cpu_usage":{"total_usage":300},"system_cpu_usage":2000,"online_cpus":2},
            "precpu_stats":{"cpu_usage":{"total_usage":100},"system_cpu_usage":1000},
            "memory_stats":{"usage":3145728,"limit":1073741824,"stats":{"inactive_file":1048576}},
            "networks":{"eth0":{"rx_bytes":1000,"tx_bytes":2},"eth1":{"rx_bytes":500,"tx_bytes":1}},
            "blkio_stats":{"io_service_bytes_recursive":[{"op":"Read","value":5},{"op":"write","value":7},{"op":"Total","value":12}]},
            "pids_stats":{"current":3}}"#;
        let row = Usage::new("web", Some(&Value::parse_json(sample).unwrap()), true);
        let expected = [
            ("ID", "0123456789ab"),
            ("Name", "web"),
            ("CPUPerc", "40.00%"),
            ("MemUsage", "2MiB / 1GiB"),
            ("MemPerc", "0.20%"),
            ("NetIO", "1.5kB / 3B"),
            ("BlockIO", "5B / 7B"),
            ("PIDs", "3"),
        ];
        for (name, text) in expected {
            assert_eq!(row.column(name).as_str(), text, "{name}");
        }
        assert_eq!(Usage::new("web", None, true).column("MemUsage").as_str(), "-- / --");
    }
}
