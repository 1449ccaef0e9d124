//! `update`: changes limits and the restart policy of containers.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use wharf_api::client::{Request, escape};

use super::create::spec::restart_policy;
use crate::{
    cli::Cli,
    failure::{self, Failure, Result},
    syntax::units::{Bytes, BytesOrUnlimited, NanoCpus},
    verb::{Arity, Verb},
};

/// The raw arguments of `update`. What is not given is not sent, and stays as it is.
#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// Relative weight for block I/O, 10 to 1000, 0 to leave it alone
    #[arg(long)]
    blkio_weight: Option<u16>,
    /// Period of the CPU quota in microseconds
    #[arg(long)]
    cpu_period: Option<i64>,
    /// CPU quota of each period in microseconds
    #[arg(long)]
    cpu_quota: Option<i64>,
    /// Period of real-time scheduling in microseconds
    #[arg(long)]
    cpu_rt_period: Option<i64>,
    /// Real-time quota in microseconds
    #[arg(long)]
    cpu_rt_runtime: Option<i64>,
    /// Relative weight for CPU time
    #[arg(short = 'c', long)]
    cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long, value_name = "decimal")]
    cpus: Option<NanoCpus>,
    /// CPUs to run on (0-3, 0,1)
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use (0-3, 0,1)
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Limit of kernel memory (no effect on current kernels)
    #[arg(long, value_name = "bytes", hide = true)]
    kernel_memory: Option<Bytes>,
    /// Limit of memory
    #[arg(short = 'm', long, value_name = "bytes")]
    memory: Option<Bytes>,
    /// Soft limit of memory
    #[arg(long, value_name = "bytes")]
    memory_reservation: Option<Bytes>,
    /// Limit of memory and swap together, -1 for no limit
    #[arg(long, value_name = "bytes")]
    memory_swap: Option<BytesOrUnlimited>,
    /// Limit of processes and threads, -1 for none
    #[arg(long)]
    pids_limit: Option<i64>,
    /// When to start the container again after it exits
    #[arg(long)]
    restart: Option<String>,
    #[arg(hide = true)]
    containers: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Updated {
    warnings: Option<Vec<String>>,
}

impl Verb for Update {
    const ABOUT: &'static str = "Change limits and restart policy of containers";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ARITY: Arity = Arity::AtLeast(1);

    async fn run(self, cli: &Cli) -> Result {
        let Some(body) = self.body()? else {
            return Err(Failure::message("you must provide one or more flags when using this command"));
        };
        let client = cli.engine().await?;
        let (mut warnings, mut failures) = (Vec::new(), Vec::new());
        for name in &self.containers {
            let request = Request::post(format!("/containers/{}/update", escape(name))).json(&body)?;
            let answer: Result<Updated> = async { Ok(client.send(request).await?.json().await?) }.await;
            match answer {
                Ok(updated) => {
                    cli.line(name)?;
                    warnings.extend(updated.warnings.into_iter().flatten());
                }
                Err(failure) => failures.push(failure),
            }
        }
        if !warnings.is_empty() {
            cli.line(&warnings.join("\n"))?;
        }
        failure::all(failures)
    }
}

impl Update {
    /// What was asked for; `None` without any flag.
    fn body(&self) -> Result<Option<Value>> {
        let mut body = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(key.to_owned(), value);
            }
        };
        put("BlkioWeight", self.blkio_weight.map(Value::from));
        put("CpuPeriod", self.cpu_period.map(Value::from));
        put("CpuQuota", self.cpu_quota.map(Value::from));
        put("CpuRealtimePeriod", self.cpu_rt_period.map(Value::from));
        put("CpuRealtimeRuntime", self.cpu_rt_runtime.map(Value::from));
        put("CpuShares", self.cpu_shares.map(Value::from));
        put("NanoCpus", self.cpus.map(|cpus| Value::from(cpus.0)));
        put("CpusetCpus", self.cpuset_cpus.clone().map(Value::from));
        put("CpusetMems", self.cpuset_mems.clone().map(Value::from));
        put("KernelMemory", self.kernel_memory.map(|bytes| Value::from(bytes.0)));
        put("Memory", self.memory.map(|bytes| Value::from(bytes.0)));
        put("MemoryReservation", self.memory_reservation.map(|bytes| Value::from(bytes.0)));
        put("MemorySwap", self.memory_swap.map(|bytes| Value::from(bytes.0)));
        put("PidsLimit", self.pids_limit.map(Value::from));
        if let Some(text) = &self.restart {
            let (name, count) = restart_policy(text).map_err(Failure::Message)?;
            put("RestartPolicy", Some(json!({ "Name": name, "MaximumRetryCount": count })));
        }
        Ok((!body.is_empty()).then_some(Value::Object(body)))
    }
}
