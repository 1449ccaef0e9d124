//! A configuration for a runtime that is not ours: what only ours understands is said in other words, or refused.

use oci_spec::runtime::{Mount, Spec};

use crate::{Error, Result};

/// The longest option of a mount that other runtimes can hand to the kernel: one page less what else is in it.
const MAX_OPTION: usize = 3800;

/// Rewrites `spec` for the runtime `name`.
pub(crate) fn adapt(spec: &mut Spec, name: &str) -> Result<()> {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.iter_mut().try_for_each(|mount| adapt_mount(mount, name))?;
    spec.set_mounts(Some(mounts));
    Ok(())
}

fn refused(what: &str, mount: &Mount, name: &str, why: &str) -> Error {
    Error::Invalid(format!(
        "{what} of the mount {} cannot be had with the runtime {name}: {why}: leave it out, or use the built-in runtime \
         (--runtime wharf)",
        mount.destination().display()
    ))
}

fn adapt_mount(mount: &mut Mount, name: &str) -> Result<()> {
    let mut options = mount.options().clone().unwrap_or_default();
    let starts = |option: &String, with: &str| option.starts_with(with);
    if options.iter().any(|option| starts(option, "wharf.beneath=")) {
        let why = "other runtimes mount by path, which whoever writes to the source could redirect";
        return Err(refused("the sub-path", mount, name, why));
    }
    if let Some(option) = options.iter().find(|option| ["shared", "rshared"].contains(&option.as_str())) {
        let what = format!("the propagation {option:?}");
        let why = "its root file system is mounted where nothing comes back to the host";
        return Err(refused(&what, mount, name, why));
    }
    let source = mount.source().clone().unwrap_or_default();
    if source.starts_with("/proc/") {
        let why = "other runtimes cannot mount what another container has mounted";
        return Err(refused("the shared memory (--ipc container:...)", mount, name, why));
    }
    let layers: Vec<&str> = options.iter().filter_map(|option| option.strip_prefix("lowerdir+=")).collect();
    if !layers.is_empty() {
        let joined = format!("lowerdir={}", layers.join(":"));
        if layers.iter().any(|layer| layer.contains([':', ','])) || joined.len() > MAX_OPTION {
            let why = "the image has more layers than they can name";
            return Err(refused("the image", mount, name, why));
        }
        options.retain(|option| !starts(option, "lowerdir+="));
        options.push(joined);
        mount.set_options(Some(options));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(kind: &str, source: &str, options: &[&str]) -> Result<Vec<String>> {
        let mount = super::super::mount("/x", kind, source, options)?;
        let mut spec = Spec::default();
        spec.set_mounts(Some(vec![mount]));
        adapt(&mut spec, "crun")?;
        Ok(spec.mounts().as_ref().unwrap()[0].options().clone().unwrap())
    }

    #[test]
    fn what_only_ours_understands_is_said_otherwise_or_refused() {
        let image = mounted("overlay", "overlay", &["ro", "lowerdir+=/a", "lowerdir+=/b"]).unwrap();
        assert_eq!(image, ["ro", "lowerdir=/a:/b"]);
        let refusal = |kind: &str, source: &str, options: &[&str]| {
            mounted(kind, source, options).unwrap_err().to_string()
        };
        assert!(refusal("bind", "/a", &["wharf.beneath=b"]).contains("sub-path of the mount /x"));
        assert!(refusal("bind", "/a", &["rbind", "rshared"]).contains("\"rshared\""));
        assert!(refusal("bind", "/proc/7/root/dev/shm", &["bind"]).contains("--runtime wharf"));
        assert!(mounted("bind", "/a", &["rbind", "rprivate", "rw"]).is_ok());
    }
}
