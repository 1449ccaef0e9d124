//! Exec sessions in both directions.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use wharf_api::models::{ExecConfig, ExecInspectResponse, ProcessConfig};
use wharf_engine::{ExecSpec, ExecView};

use crate::error::{Failure, Result};

/// What `POST /containers/{id}/exec` asks for.
pub(crate) fn from_model(exec: ExecConfig) -> Result<ExecSpec> {
    let ExecConfig {
        attach_stdin,
        attach_stdout,
        attach_stderr,
        console_size,
        detach_keys,
        tty,
        env,
        cmd,
        privileged,
        user,
        working_dir,
    } = exec;
    let cmd = cmd.unwrap_or_default();
    if cmd.is_empty() {
        return Err(Failure::invalid("No exec command specified"));
    }
    Ok(ExecSpec {
        cmd,
        env: env.unwrap_or_default(),
        user: user.unwrap_or_default(),
        working_dir: working_dir.unwrap_or_default(),
        privileged: privileged.unwrap_or_default(),
        tty: tty.unwrap_or_default(),
        attach_stdin: attach_stdin.unwrap_or_default(),
        attach_stdout: attach_stdout.unwrap_or_default(),
        attach_stderr: attach_stderr.unwrap_or_default(),
        detach_keys: detach_keys.filter(|keys| !keys.is_empty()),
        console_size: console_size.map(|size| dimensions(&size)),
    })
}

/// `[rows, columns]`; as Go reads a pair of numbers, what is missing is 0 and what is too much counts for nothing.
pub(crate) fn dimensions(size: &[usize]) -> (u16, u16) {
    let at = |index: usize| size.get(index).and_then(|cells| u16::try_from(*cells).ok()).unwrap_or_default();
    (at(0), at(1))
}

/// A session as inspect shows it.
pub(crate) fn to_model(view: ExecView) -> ExecInspectResponse {
    let spec = view.spec;
    let mut words = spec.cmd.into_iter();
    ExecInspectResponse {
        id: Some(view.id.to_string()),
        running: Some(view.running),
        exit_code: view.exit_code.map(i64::from),
        process_config: Some(ProcessConfig {
            tty: Some(spec.tty),
            entrypoint: words.next(),
            arguments: Some(words.collect()),
            privileged: Some(spec.privileged),
            user: Some(spec.user).filter(|user| !user.is_empty()),
        }),
        open_stdin: Some(spec.attach_stdin),
        open_stderr: Some(spec.attach_stderr),
        open_stdout: Some(spec.attach_stdout),
        can_remove: Some(false),
        container_id: Some(view.container.to_string()),
        // Bytes in JSON are base64, as Docker has them.
        detach_keys: Some(STANDARD.encode(view.detach_keys)),
        pid: Some(view.pid.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_required() {
        let failure = from_model(ExecConfig::default()).unwrap_err();
        assert_eq!(failure.message, "No exec command specified");
    }

    #[test]
    fn a_console_size_is_two_numbers() {
        assert_eq!(dimensions(&[24, 80]), (24, 80));
        assert_eq!([dimensions(&[]), dimensions(&[1]), dimensions(&[1, 2, 3])], [(0, 0), (1, 0), (1, 2)]);
        assert_eq!(dimensions(&[70_000, 1]), (0, 1));
    }
}
