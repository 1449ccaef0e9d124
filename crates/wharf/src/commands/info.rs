//! `info`: shows what the engine knows about itself and its machine.

use wharf_api::client::Request;

use super::inspect::named_record;
use crate::{
    cli::Cli,
    failure::{Failure, Result},
    format::human,
    template::{Template, Value, to_json},
    verb::{Arity, Verb},
};

/// The raw arguments of `info`.
#[derive(Debug, clap::Args)]
pub(crate) struct Info {
    /// How to show it: json or a template
    #[arg(short = 'f', long)]
    format: Option<String>,
}

impl Verb for Info {
    const ABOUT: &'static str = "Show what the engine knows about itself and its machine";
    const USAGE: &'static str = "[OPTIONS]";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        let template = match self.format.as_deref() {
            None | Some("" | "json") => None,
            Some(source) => Some(
                Template::parse("", source)
                    .map_err(|error| Failure::status(64, format!("template parsing error: {error}")))?,
            ),
        };
        let answer = async {
            let info: Value = cli.engine().await?.send(Request::get("/info")).await?.json().await?;
            Ok::<_, Failure>(info)
        };
        let (info, failure) = match answer.await {
            Ok(info) => (info, None),
            Err(failure) => (Value::Nil, Some(failure)),
        };
        match (&template, self.format.as_deref()) {
            (Some(template), _) => {
                let mut text = String::new();
                let rendered = template.render(&named_record("system.dockerInfo", info), &mut text);
                cli.line(&text)?;
                rendered.map_err(|error| Failure::message(error.to_string()))?;
            }
            (None, Some("json")) => cli.line(&to_json(&info))?,
            (None, _) => {
                let client = format!(
                    "Client:\n Version:    {}\n Context:    {}\n Debug Mode: false\n\nServer:\n",
                    env!("CARGO_PKG_VERSION"),
                    cli.context()
                );
                cli.print(&client)?;
                if failure.is_none() {
                    cli.print(&format!("{}\n", describe(&info)))?;
                    for warning in info.list("Warnings") {
                        cli.warn(warning.as_str());
                    }
                }
            }
        }
        match failure {
            None => Ok(()),
            Some(failure) if self.format.is_none() => {
                Err(Failure::message(format!("ERROR: {failure}\nerrors pretty printing info")))
            }
            Some(failure) => Err(failure),
        }
    }
}

/// Collects the lines of the description.
struct Lines(String);

impl Lines {
    fn add(&mut self, indent: usize, name: &str, value: &str) {
        self.0.push_str(&format!("{:indent$}{name}: {value}\n", "", indent = indent));
    }

    fn text(&mut self, indent: usize, name: &str, info: &Value, key: &str) {
        match info.text(key) {
            "" => {}
            value => self.add(indent, name, value),
        }
    }
}

fn words(list: &[Value]) -> String {
    list.iter().map(Value::as_str).collect::<Vec<_>>().join(" ")
}

fn describe(info: &Value) -> String {
    let mut lines = Lines(String::new());
    for (indent, name, key) in [
        (1, "Containers", "Containers"),
        (2, "Running", "ContainersRunning"),
        (2, "Paused", "ContainersPaused"),
        (2, "Stopped", "ContainersStopped"),
        (1, "Images", "Images"),
    ] {
        lines.add(indent, name, &info.int(key).to_string());
    }
    lines.text(1, "Server Version", info, "ServerVersion");
    lines.text(1, "Storage Driver", info, "Driver");
    for pair in info.list("DriverStatus") {
        if let Value::List(items) = pair
            && let [name, value] = &**items
        {
            lines.add(2, name.as_str(), value.as_str());
        }
    }
    for (name, key) in [
        ("Logging Driver", "LoggingDriver"),
        ("Cgroup Driver", "CgroupDriver"),
        ("Cgroup Version", "CgroupVersion"),
    ] {
        lines.text(1, name, info, key);
    }
    plugins(info, &mut lines);
    if let Some(swarm) = info.get("Swarm") {
        lines.add(1, "Swarm", swarm.text("LocalNodeState"));
    }
    runtimes(info, &mut lines);
    security(info, &mut lines);
    for (name, key) in [
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
    ] {
        lines.text(1, name, info, key);
    }
    lines.add(1, "CPUs", &info.int("NCPU").to_string());
    lines.add(1, "Total Memory", &human::binary_size(info.int("MemTotal") as f64));
    for (name, key) in [("Name", "Name"), ("ID", "ID"), ("Docker Root Dir", "DockerRootDir")] {
        lines.text(1, name, info, key);
    }
    lines.add(1, "Debug Mode", &info.is_set("Debug").to_string());
    for (name, key) in [("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy")] {
        lines.text(1, name, info, key);
    }
    if !info.list("Labels").is_empty() {
        lines.0.push_str(" Labels:\n");
        info.list("Labels").iter().for_each(|label| lines.0.push_str(&format!("  {}\n", label.as_str())));
    }
    lines.add(1, "Experimental", &info.is_set("ExperimentalBuild").to_string());
    registries(info, &mut lines);
    lines.add(1, "Live Restore Enabled", &info.is_set("LiveRestoreEnabled").to_string());
    lines.text(1, "Product License", info, "ProductLicense");
    lines.0
}

fn plugins(info: &Value, lines: &mut Lines) {
    let Some(plugins) = info.get("Plugins") else { return };
    lines.0.push_str(" Plugins:\n");
    for (name, key) in
        [("Volume", "Volume"), ("Network", "Network"), ("Authorization", "Authorization"), ("Log", "Log")]
    {
        let list = plugins.list(key);
        if !list.is_empty() || key == "Volume" || key == "Network" || key == "Log" {
            lines.add(2, name, &words(list));
        }
    }
    let directories = info.list("CDISpecDirs");
    if !directories.is_empty() {
        lines.0.push_str(" CDI spec directories:\n");
        directories.iter().for_each(|directory| lines.0.push_str(&format!("  {}\n", directory.as_str())));
    }
}

fn runtimes(info: &Value, lines: &mut Lines) {
    let mut names: Vec<&str> = info.entries("Runtimes").iter().map(|(name, _)| &**name).collect();
    if names.is_empty() {
        return;
    }
    names.sort_unstable();
    lines.add(1, "Runtimes", &names.join(" "));
    lines.text(1, "Default Runtime", info, "DefaultRuntime");
    lines.text(1, "Init Binary", info, "InitBinary");
    for (name, key) in [("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit")] {
        if let Some(commit) = info.get(key) {
            lines.add(1, &format!("{name} version"), commit.text("ID"));
        }
    }
}

/// Options look like `name=seccomp,profile=builtin`.
fn security(info: &Value, lines: &mut Lines) {
    let options = info.list("SecurityOptions");
    if options.is_empty() {
        return;
    }
    lines.0.push_str(" Security Options:\n");
    for option in options {
        for (index, part) in option.as_str().split(',').enumerate() {
            match (index, part.split_once('=')) {
                (0, Some((_, value))) => lines.0.push_str(&format!("  {value}\n")),
                (_, Some((key, value))) => {
                    let mut name = key.to_owned();
                    if let Some(first) = name.get_mut(..1) {
                        first.make_ascii_uppercase();
                    }
                    lines.add(3, &name, value);
                }
                (_, None) => lines.0.push_str(&format!("  {part}\n")),
            }
        }
    }
}

fn registries(info: &Value, lines: &mut Lines) {
    let Some(config) = info.get("RegistryConfig") else { return };
    let insecure = config
        .entries("IndexConfigs")
        .iter()
        .filter(|(_, index)| matches!(index.get("Secure"), Some(Value::Bool(false))));
    let insecure: Vec<&str> = insecure
        .map(|(name, _)| &**name)
        .chain(config.list("InsecureRegistryCIDRs").iter().map(Value::as_str))
        .collect();
    if !insecure.is_empty() {
        lines.0.push_str(" Insecure Registries:\n");
        insecure.iter().for_each(|name| lines.0.push_str(&format!("  {name}\n")));
    }
    let mirrors = config.list("Mirrors");
    if !mirrors.is_empty() {
        lines.0.push_str(" Registry Mirrors:\n");
        mirrors.iter().for_each(|name| lines.0.push_str(&format!("  {}\n", name.as_str())));
    }
}
