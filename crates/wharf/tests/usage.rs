//! Command lines that need no engine: usage, help, versions, and an engine that is not there.

mod support;

use support::{run, wharf};

/// What a wrong command line says on standard error, and its exit status.
#[track_caller]
fn refused(args: &[&str], code: i32, expected: &str) {
    let run = run(wharf().args(args));
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.trim_end()), (code, "", expected), "{args:?}");
}

fn usage(complaint: &str, verb: &str, rest: &str) -> String {
    format!("{complaint}\n\nUsage:  wharf {verb} {rest}\n\nRun 'wharf {verb} --help' for more information")
}

#[test]
fn unknown_flags_are_named_as_typed() {
    let rest = "[OPTIONS] IMAGE [COMMAND] [ARG...]";
    refused(&["run", "--foo"], 125, &usage("unknown flag: --foo", "run", rest));
    refused(&["run", "--foo=bar", "x"], 125, &usage("unknown flag: --foo", "run", rest));
    refused(&["run", "-dzi", "x"], 125, &usage("unknown shorthand flag: 'z' in -zi", "run", rest));
    refused(&["container", "run", "--foo"], 125, &usage("unknown flag: --foo", "container run", rest));
    refused(&["ps", "-z"], 125, &usage("unknown shorthand flag: 'z' in -z", "ps", "[OPTIONS]"));
    refused(
        &["--foo", "ps"],
        125,
        "unknown flag: --foo\n\nUsage:  wharf [OPTIONS] COMMAND [ARG...]\n\nRun 'wharf --help' for more information",
    );
}

#[test]
fn values_are_checked_flag_by_flag() {
    let rest = "[OPTIONS] IMAGE [COMMAND] [ARG...]";
    let bad = |value: &str, flag: &str, reason: &str| {
        usage(&format!("invalid argument \"{value}\" for \"{flag}\" flag: {reason}"), "run", rest)
    };
    refused(&["run", "-m", "abc", "x"], 125, &bad("abc", "-m, --memory", "invalid size: 'abc'"));
    refused(
        &["run", "-it=maybe", "x"],
        125,
        &bad("maybe", "-t, --tty", "strconv.ParseBool: parsing \"maybe\": invalid syntax"),
    );
    refused(
        &["run", "--cpus", "foo", "x"],
        125,
        &bad("foo", "--cpus", "failed to parse foo as a rational number"),
    );
    refused(
        &["run", "--mount", "foo", "x"],
        125,
        &bad("foo", "--mount", "invalid field 'foo' must be a key=value pair"),
    );
    refused(&["run", "--name"], 125, &usage("flag needs an argument: --name", "run", rest));
    refused(&["run", "-e"], 125, &usage("flag needs an argument: 'e' in -e", "run", rest));
    refused(
        &["ps", "-n", "abc"],
        125,
        &usage(
            "invalid argument \"abc\" for \"-n, --last\" flag: strconv.ParseInt: parsing \"abc\": invalid syntax",
            "ps",
            "[OPTIONS]",
        ),
    );
}

#[test]
fn arguments_are_counted() {
    let counted = |verb: &str, complaint: &str, rest: &str, hint: &str| {
        format!(
            "wharf: 'wharf {verb}' {complaint}\n\nUsage:  wharf {verb} {rest}\n\n{hint} 'wharf {verb} --help' for more information"
        )
    };
    let at_least = counted("rm", "requires at least 1 argument", "[OPTIONS] CONTAINER [CONTAINER...]", "See");
    refused(&["rm"], 1, &at_least);
    refused(&["ps", "foo"], 1, &counted("ps", "accepts no arguments", "[OPTIONS]", "Run"));
    refused(&["rename", "a"], 1, &counted("rename", "requires 2 arguments", "CONTAINER NEW_NAME", "Run"));
    refused(
        &["exec", "a"],
        1,
        &counted("exec", "requires at least 2 arguments", "[OPTIONS] CONTAINER COMMAND [ARG...]", "See"),
    );
}

#[test]
fn unknown_commands_are_told_apart() {
    refused(&["foo"], 1, "wharf: unknown command: wharf foo\n\nRun 'wharf --help' for more information");
    refused(
        &["container", "foo"],
        1,
        "wharf: unknown command: wharf container foo\n\nUsage:  wharf container\n\nRun 'wharf container --help' for more information",
    );
}

#[test]
fn a_version_and_help_need_no_engine() {
    let version = run(wharf().arg("--version"));
    assert_eq!((version.code, version.stdout.starts_with("Wharf version ")), (0, true));
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["help", "run"],
        &["container", "--help"],
        &["image", "ls", "--help"],
    ] {
        let help = run(wharf().args(args));
        assert_eq!((help.code, help.stderr.as_str()), (0, ""), "{args:?}");
        assert!(help.stdout.starts_with("Usage:  wharf"), "{args:?}: {}", help.stdout);
    }
    let help = run(wharf().args(["run", "-m", "1g", "--help"])).stdout;
    assert!(help.contains("\n  -m, --memory bytes "), "{help}");
    assert!(help.contains("\nAliases:\n  wharf container run, wharf run\n"), "{help}");
}

#[test]
fn every_shell_has_a_completion_script() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(wharf().args(["completion", shell]));
        assert_eq!(script.code, 0, "{shell}: {}", script.stderr);
        assert!(script.stdout.contains("unpause"), "{shell}");
    }
    assert_eq!(run(wharf().args(["completion", "tcsh"])).code, 1);
}

#[test]
fn an_engine_that_is_not_there_is_named() {
    let answer = run(wharf().args(["-H", "unix:///nonexistent/wharf.sock", "ps"]));
    assert_eq!(answer.code, 1);
    assert_eq!(
        answer.stderr,
        "Cannot connect to the Docker daemon at unix:///nonexistent/wharf.sock. Is the docker daemon running?\n"
    );
    let address =
        "Failed to initialize: unable to resolve docker endpoint: invalid bind address format: foo://bar";
    refused(&["-H", "foo://bar", "ps"], 1, address);
    let run = run(wharf().args(["--context", "nosuch", "ps"]));
    let named = "Failed to initialize: unable to resolve docker endpoint: context \"nosuch\": context not found: open ";
    assert!(run.code == 1 && run.stderr.starts_with(named), "{}", run.stderr);
}
