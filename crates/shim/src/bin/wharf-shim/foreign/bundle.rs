//! The configuration in words that every runtime understands: numbers for users, the profile written out, the root file
//! system where it is mounted.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{BoxBuilder, MountBuilder, Process, RootBuilder, Spec, User, UserBuilder};
use serde::Serialize;
use wharf_linux::hostfs;
use wharf_runtime::apart;
use wharf_shim::protocol::{ForeignRuntime, ShimConfig};

use crate::exec::Wish;
use crate::failure::Failure;

/// Where Docker has its init in containers.
const INIT: &str = "/sbin/docker-init";

/// The container's configuration.
pub(super) fn adapt(mut spec: Spec, config: &ShimConfig, runtime: &ForeignRuntime) -> Result<Spec, Failure> {
    let defect = Failure::on("write down the container's configuration");
    let root = match (&config.rootfs, spec.root()) {
        (Some(overlay), _) => overlay.mountpoint.clone(),
        (None, Some(root)) => config.bundle.join(root.path()),
        (None, None) => return Err(Failure::invalid("root is missing")),
    };
    let read_only = spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false);
    let place = RootBuilder::default().path(root.clone()).readonly(read_only).build().map_err(&defect)?;
    spec.set_root(Some(place));
    let mut process = spec.process().clone().ok_or_else(|| Failure::invalid("there is no process"))?;
    let files = hostfs::open_dir(&root).map_err(Failure::on("open the root file system"))?;
    identify(&mut process, files, config.user.as_deref(), &config.groups, config.default_home)?;
    if config.seccomp_default
        && let Some(linux) = spec.linux_mut()
    {
        linux.set_seccomp(Some(apart::default_profile(&process)?));
    }
    if process.terminal() == Some(true) {
        set_size(&mut process, config.rows, config.cols)?;
    }
    if config.init {
        let program = runtime.init_program.clone().ok_or_else(|| {
            Failure::invalid(
                "--init needs the engine's own program, which it has not named: use the built-in runtime",
            )
        })?;
        add_init(&mut spec, &mut process, program)?;
    }
    spec.set_process(Some(process));
    Ok(spec)
}

/// The document of a process that joins the container whose init is `pid`.
pub(super) fn joining(process: &Process, pid: i32, wish: &Wish) -> Result<Process, Failure> {
    let mut process = process.clone();
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let files = hostfs::open_dir(&root).map_err(Failure::on("open the container's root"))?;
    identify(&mut process, files, wish.user.as_deref(), &wish.groups, wish.default_home)?;
    if wish.terminal {
        set_size(&mut process, wish.rows, wish.cols)?;
    }
    Ok(process)
}

fn set_size(process: &mut Process, rows: u16, cols: u16) -> Result<(), Failure> {
    if rows > 0 && cols > 0 {
        let size = BoxBuilder::default().height(u64::from(rows)).width(u64::from(cols));
        process.set_console_size(Some(size.build().map_err(Failure::on("write down the terminal's size"))?));
    }
    Ok(())
}

fn identify(
    process: &mut Process,
    files: OwnedFd,
    requested: Option<&str>,
    groups: &[String],
    default_home: bool,
) -> Result<(), Failure> {
    let account = apart::account(files, process.user(), requested, groups)?;
    let user: User = UserBuilder::default()
        .uid(account.uid)
        .gid(account.gid)
        .additional_gids(account.groups)
        .build()
        .map_err(Failure::on("write down the user"))?;
    process.set_user(user);
    let mut environment = process.env().clone().unwrap_or_default();
    if default_home && !environment.iter().any(|pair| pair.starts_with("HOME=")) {
        let home = account.home.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".into());
        environment.push(format!("HOME={home}"));
        process.set_env(Some(environment));
    }
    Ok(())
}

/// Our program as the container's first process, as Docker has its own.
fn add_init(spec: &mut Spec, process: &mut Process, program: PathBuf) -> Result<(), Failure> {
    let options = ["bind", "ro", "nosuid", "nodev"].map(str::to_owned).to_vec();
    let mount = MountBuilder::default().destination(INIT).typ("bind").source(program).options(options);
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.push(mount.build().map_err(Failure::on("write down the init"))?);
    spec.set_mounts(Some(mounts));
    let mut args = vec![INIT.to_owned(), "init".to_owned(), "--".to_owned()];
    args.extend(process.args().clone().unwrap_or_default());
    process.set_args(Some(args));
    Ok(())
}

/// Writes a document for the runtime.
pub(super) fn write(path: &Path, document: &impl Serialize) -> Result<(), Failure> {
    let bytes = serde_json::to_vec(document).map_err(Failure::on("write down the configuration"))?;
    hostfs::write(path, &bytes).map_err(Failure::on("write down the configuration"))
}
