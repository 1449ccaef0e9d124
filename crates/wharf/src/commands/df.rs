//! `system df`: shows what takes how much room.

use wharf_api::client::Request;

use super::{images, ps::Container, volume::Volume};
use crate::{
    cli::Cli,
    failure::{Failure, Result},
    format::{Format, Row, human},
    template::Value,
    verb::{Arity, Verb},
};

/// The raw arguments of `system df`.
#[derive(Debug, clap::Args)]
pub(crate) struct Df {
    /// How to show it: table, json, or a template
    #[arg(long)]
    format: Option<String>,
    /// Show each thing
    #[arg(short = 'v', long)]
    verbose: bool,
}

impl Verb for Df {
    const ABOUT: &'static str = "Show what takes how much room";
    const USAGE: &'static str = "[OPTIONS]";
    const ARITY: Arity = Arity::None;

    async fn run(self, cli: &Cli) -> Result {
        if self.verbose && self.format.as_deref().is_some_and(|format| format.starts_with("table")) {
            return Err(Failure::message("table format is not supported with --verbose"));
        }
        let usage: Value = cli.engine().await?.send(Request::get("/system/df")).await?.json().await?;
        if self.verbose {
            return cli.print(&verbose(&usage)?);
        }
        let table = "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
        let format = Format::parse::<Total>(self.format.as_deref().unwrap_or(""), table)?;
        cli.print(&format.render(summary(&usage))?)
    }
}

/// A line of the summary.
struct Total {
    kind: &'static str,
    count: usize,
    active: usize,
    size: i64,
    reclaimable: i64,
    /// Whether the share that can be had back is shown as well.
    percent: bool,
}

impl Row for Total {
    const TYPE: &'static str = "*formatter.diskUsageImagesContext";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("Active", "ACTIVE"),
        ("Reclaimable", "RECLAIMABLE"),
        ("Size", "SIZE"),
        ("TotalCount", "TOTAL"),
        ("Type", "TYPE"),
    ];

    fn column(&self, name: &str) -> Value {
        let text = match name {
            "Active" => self.active.to_string(),
            "Reclaimable" => {
                let size = human::size_exact(self.reclaimable as f64);
                match self.percent && self.size > 0 {
                    true => format!("{size} ({}%)", self.reclaimable * 100 / self.size),
                    false => size,
                }
            }
            "Size" => human::size_exact(self.size as f64),
            "TotalCount" => self.count.to_string(),
            _ => self.kind.to_owned(),
        };
        text.into()
    }
}

fn summary(usage: &Value) -> Vec<Total> {
    let sum = |items: &[&Value], key: &str| items.iter().map(|item| item.int(key)).sum::<i64>();
    let all = |key: &str| usage.list(key).iter().collect::<Vec<_>>();
    let (images, containers, volumes, cache) =
        (all("Images"), all("Containers"), all("Volumes"), all("BuildCache"));
    let used: Vec<&Value> = images.iter().copied().filter(|image| image.int("Containers") != 0).collect();
    let layers = usage.int("LayersSize");
    let kept: i64 = used
        .iter()
        .filter(|image| image.int("Size") != -1 && image.int("SharedSize") != -1)
        .map(|image| image.int("Size") - image.int("SharedSize"))
        .sum();
    let is_active = |container: &&&Value| {
        ["running", "paused", "restarting"].iter().any(|state| container.text("State").contains(state))
    };
    let active: Vec<&Value> = containers.iter().filter(is_active).copied().collect();
    let usage_of = |volume: &Value, key: &str| volume.get("UsageData").map_or(0, |usage| usage.int(key));
    let volume_size: i64 = volumes.iter().map(|volume| usage_of(volume, "Size").max(0)).sum();
    let volume_kept: i64 = volumes
        .iter()
        .filter(|volume| usage_of(volume, "RefCount") > 0)
        .map(|volume| usage_of(volume, "Size").max(0))
        .sum();
    let cache_used: Vec<&Value> = cache.iter().copied().filter(|record| record.is_set("InUse")).collect();
    let (container_size, cache_size) = (sum(&containers, "SizeRw"), sum(&cache, "Size"));
    vec![
        Total {
            kind: "Images",
            count: images.len(),
            active: used.len(),
            size: layers,
            reclaimable: layers - kept,
            percent: true,
        },
        Total {
            kind: "Containers",
            count: containers.len(),
            active: active.len(),
            size: container_size,
            reclaimable: container_size - sum(&active, "SizeRw"),
            percent: true,
        },
        Total {
            kind: "Local Volumes",
            count: volumes.len(),
            active: volumes.iter().filter(|volume| usage_of(volume, "RefCount") > 0).count(),
            size: volume_size,
            reclaimable: volume_size - volume_kept,
            percent: true,
        },
        Total {
            kind: "Build Cache",
            count: cache.len(),
            active: cache_used.len(),
            size: cache_size,
            reclaimable: cache_size - sum(&cache_used, "Size"),
            percent: false,
        },
    ]
}

fn verbose(usage: &Value) -> Result<String> {
    const CREATED: &str = "{{.CreatedSince}}";
    let images_table = format!(
        "table {{{{.Repository}}}}\t{{{{.Tag}}}}\t{{{{.ID}}}}\t{CREATED}\t{{{{.Size}}}}\t{{{{.SharedSize}}}}\t{{{{.UniqueSize}}}}\t{{{{.Containers}}}}"
    );
    let containers_table = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";
    let images = usage.list("Images").iter().flat_map(|image| images::rows(image, false, true));
    let images = Format::parse::<images::Image>("", &images_table)?.render(images.collect::<Vec<_>>())?;
    let containers = usage.list("Containers").iter().map(|summary| Container {
        summary: summary.clone(),
        truncate: true,
        own_size_only: true,
    });
    let containers = Format::parse::<Container>("", containers_table)?.render(containers)?;
    let volumes = usage.list("Volumes").iter().cloned().map(Volume);
    let volumes = Format::parse::<Volume>("", "table {{.Name}}\t{{.Links}}\t{{.Size}}")?.render(volumes)?;
    let cache: i64 = usage.list("BuildCache").iter().map(|record| record.int("Size")).sum();
    Ok(format!(
        "Images space usage:\n\n{images}\nContainers space usage:\n\n{containers}\nLocal Volumes space usage:\n\n{volumes}\nBuild cache usage: {}\n\n{}",
        human::size_exact(cache as f64),
        "CACHE ID   CACHE TYPE   SIZE      CREATED   LAST USED   USAGE     SHARED\n"
    ))
}
