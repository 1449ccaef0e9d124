//! What a verb is, and how its arguments are read.
//!
//! Each verb is one type in `commands/` that derives [`clap::Args`] (the raw arguments) and implements [`Verb`]. Before
//! parsing, [`Entry::command`] gives every flag the manners of Docker's: a boolean takes `=false`, the last of repeated
//! flags wins, a value may start with a dash. [`usage_error`] words clap's findings as Docker does.

use std::{any::TypeId, ffi::OsString, future::Future, pin::Pin};

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{
    cli::Cli,
    failure::{Failure, Result},
    help,
};

/// The exit status of a command line that cannot be parsed.
const USAGE_STATUS: u8 = 125;

/// How many arguments other than flags a verb takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arity {
    None,
    Exactly(usize),
    AtLeast(usize),
    AtMost(usize),
    Between(usize, usize),
}

/// A command of the command line.
pub(crate) trait Verb: clap::Args + 'static {
    /// One line about what it does.
    const ABOUT: &'static str;
    /// What follows the verb in its usage line.
    const USAGE: &'static str;
    /// How many arguments other than flags it takes.
    const ARITY: Arity;
    /// Whether flags end at the first argument that is none, because what follows is a command line of its own.
    const LEADING_FLAGS: bool = false;

    /// Does it.
    async fn run(self, cli: &Cli) -> Result;
}

type Running<'a> = Pin<Box<dyn Future<Output = Result> + 'a>>;

/// A verb in the table of all verbs.
pub(crate) struct Entry {
    /// Every spelling, `container run` before `run`.
    pub(crate) names: &'static [&'static str],
    pub(crate) about: &'static str,
    pub(crate) usage: &'static str,
    /// Whether help leaves it out.
    pub(crate) hidden: bool,
    arity: Arity,
    leading_flags: bool,
    augment: fn(Command) -> Command,
    run: for<'a> fn(&'a Cli, ArgMatches) -> Running<'a>,
}

impl Entry {
    /// The entry of verb `V` under these names.
    pub(crate) const fn of<V: Verb>(names: &'static [&'static str]) -> Self {
        Self {
            names,
            about: V::ABOUT,
            usage: V::USAGE,
            hidden: false,
            arity: V::ARITY,
            leading_flags: V::LEADING_FLAGS,
            augment: V::augment_args,
            run: |cli, mut matches| {
                Box::pin(async move {
                    // The matches come from this type's own command, so they fit.
                    let verb = V::from_arg_matches_mut(&mut matches)
                        .map_err(|error| Failure::status(USAGE_STATUS, error.to_string()))?;
                    verb.run(cli).await
                })
            },
        }
    }

    /// The same entry, left out of help.
    pub(crate) const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// The clap command that reads its arguments, and whose flags help and completion show.
    pub(crate) fn command(&self, name: &'static str) -> Command {
        let command = Command::new(name)
            .about(self.about)
            .no_binary_name(true)
            .disable_help_flag(true)
            .disable_version_flag(true)
            .args_override_self(true)
            .arg(Arg::new("help").long("help").action(ArgAction::SetTrue).help("Print usage"));
        let mut command = (self.augment)(command).mut_args(with_manners);
        if command.get_positionals().next().is_none() {
            command = command.arg(Arg::new("arguments").num_args(0..).hide(true));
        }
        if self.leading_flags {
            let leading = |arg: Arg| {
                if arg.is_positional() { arg.trailing_var_arg(true) } else { arg }
            };
            command = command.mut_args(leading);
        }
        command
    }

    /// Reads `args` and does what they say. `spelled` is the verb as the user typed it: `wharf run`.
    pub(crate) async fn invoke(&self, cli: &Cli, spelled: &str, args: Vec<OsString>) -> Result {
        let mut command = self.command("verb");
        let matches = match command.try_get_matches_from_mut(&args) {
            Ok(matches) => matches,
            Err(error) => {
                return Err(usage_error(&command, &error, &args, &self.usage_line(spelled), spelled));
            }
        };
        if matches.get_flag("help") {
            return help::verb(self, &command, spelled);
        }
        self.check_arity(&command, &matches, spelled)?;
        (self.run)(cli, matches).await
    }

    /// The line that shows how the verb is used.
    pub(crate) fn usage_line(&self, spelled: &str) -> String {
        format!("Usage:  {spelled} {}", self.usage).trim_end().to_owned()
    }

    fn check_arity(&self, command: &Command, matches: &ArgMatches, spelled: &str) -> Result {
        let count: usize = command
            .get_positionals()
            .filter_map(|arg| matches.get_raw(arg.get_id().as_str()))
            .map(Iterator::count)
            .sum();
        let plural = |count: usize| if count == 1 { "argument" } else { "arguments" };
        let complaint = match self.arity {
            Arity::None if count > 0 => "accepts no arguments".to_owned(),
            Arity::Exactly(wanted) if count != wanted => format!("requires {wanted} {}", plural(wanted)),
            Arity::AtLeast(wanted) if count < wanted => {
                format!("requires at least {wanted} {}", plural(wanted))
            }
            Arity::AtMost(wanted) if count > wanted => {
                format!("requires at most {wanted} {}", plural(wanted))
            }
            Arity::Between(low, high) if count < low || count > high => {
                format!("requires at least {low} and at most {high} {}", plural(high))
            }
            _ => return Ok(()),
        };
        // Docker's own inconsistency, which scripts may have learned.
        let hint = if matches!(self.arity, Arity::AtLeast(_)) { "See" } else { "Run" };
        Err(Failure::message(format!(
            "{}: '{spelled}' {complaint}\n\n{}\n\n{hint} '{spelled} --help' for more information",
            program(spelled),
            self.usage_line(spelled),
        )))
    }
}

/// The first word of a spelled verb.
fn program(spelled: &str) -> &str {
    spelled.split(' ').next().unwrap_or(spelled)
}

/// Gives a flag the manners users of Docker expect.
pub(crate) fn with_manners(arg: Arg) -> Arg {
    if arg.is_positional() {
        return if arg.get_num_args().is_none() { arg.num_args(0..) } else { arg };
    }
    let kind = arg.get_value_parser().type_id();
    match arg.get_action() {
        ArgAction::SetTrue | ArgAction::Set if kind == TypeId::of::<bool>() && arg.get_id() != "help" => {
            // Only an `Option<bool>` is `Set` and may be left unsaid.
            let unsaid = matches!(arg.get_action(), ArgAction::Set) || !arg.get_default_values().is_empty();
            let arg = if unsaid { arg } else { arg.default_value("false") };
            arg.action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(go_bool)
        }
        ArgAction::Set | ArgAction::Append => {
            let arg = arg.allow_hyphen_values(true).num_args(1);
            match kind {
                kind if kind == TypeId::of::<i64>() => arg.value_parser(go_int),
                kind if kind == TypeId::of::<u16>() => arg.value_parser(go_uint16),
                kind if kind == TypeId::of::<u64>() => arg.value_parser(go_uint),
                _ => arg,
            }
        }
        _ => arg,
    }
}

fn go_bool(text: &str) -> std::result::Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing \"{text}\": invalid syntax")),
    }
}

fn number<T: TryFrom<i128>>(function: &str, text: &str) -> std::result::Result<T, String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) if function == "ParseInt" => (-1, rest),
        _ => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let bases = [("0x", 16), ("0X", 16), ("0o", 8), ("0b", 2)];
    let (digits, radix) = bases
        .iter()
        .find_map(|(prefix, radix)| Some((digits.strip_prefix(prefix)?, *radix)))
        .unwrap_or((digits, 10));
    let value = i128::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with(['+', '-']));
    let Some(value) = value else {
        return Err(format!("strconv.{function}: parsing \"{text}\": invalid syntax"));
    };
    T::try_from(sign * value)
        .map_err(|_| format!("strconv.{function}: parsing \"{text}\": value out of range"))
}

fn go_int(text: &str) -> std::result::Result<i64, String> {
    number("ParseInt", text)
}

fn go_uint(text: &str) -> std::result::Result<u64, String> {
    number("ParseUint", text)
}

fn go_uint16(text: &str) -> std::result::Result<u16, String> {
    number("ParseUint", text)
}

/// Words what clap found as Docker words it.
pub(crate) fn usage_error(
    command: &Command,
    error: &clap::Error,
    args: &[OsString],
    usage: &str,
    spelled: &str,
) -> Failure {
    let text = complaint(command, error, args);
    Failure::status(USAGE_STATUS, format!("{text}\n\n{usage}\n\nRun '{spelled} --help' for more information"))
}

fn complaint(command: &Command, error: &clap::Error, args: &[OsString]) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    // clap shows a flag with its value: `--memory <bytes>`, `--tty[=<bool>]`.
    let shown = context(ContextKind::InvalidArg);
    let flag = shown.split([' ', '=', '[']).next().unwrap_or(shown);
    match error.kind() {
        ErrorKind::UnknownArgument => unknown(flag, args),
        ErrorKind::InvalidValue | ErrorKind::NoEquals | ErrorKind::WrongNumberOfValues
            if context(ContextKind::InvalidValue).is_empty() =>
        {
            missing_value(flag, args)
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            let name = command
                .get_arguments()
                .find(|arg| flag.strip_prefix("--").is_some_and(|long| arg.get_long() == Some(long)))
                .and_then(Arg::get_short)
                .map_or_else(|| flag.to_owned(), |short| format!("-{short}, {flag}"));
            format!("invalid argument {:?} for \"{name}\" flag: {reason}", context(ContextKind::InvalidValue))
        }
        _ => error.to_string().lines().next().unwrap_or("").trim_start_matches("error: ").to_owned(),
    }
}

fn unknown(flag: &str, args: &[OsString]) -> String {
    match flag.strip_prefix('-').and_then(|rest| rest.chars().next()) {
        Some('-') | None => format!("unknown flag: {flag}"),
        Some(letter) => {
            // The group it stands in, from the letter on: `z` of `-dzi` is shown "in -zi".
            let group = args.iter().filter_map(|arg| arg.to_str()).find_map(|arg| {
                let group = arg.strip_prefix('-').filter(|group| !group.starts_with('-'))?;
                group.find(letter).map(|start| &group[start..])
            });
            format!("unknown shorthand flag: '{letter}' in -{}", group.unwrap_or(&letter.to_string()))
        }
    }
}

fn missing_value(flag: &str, args: &[OsString]) -> String {
    let last = args.last().and_then(|arg| arg.to_str()).unwrap_or("");
    match last.strip_prefix('-') {
        Some(group) if !group.starts_with('-') => {
            let letter = group.chars().last().unwrap_or('-');
            format!("flag needs an argument: '{letter}' in -{letter}")
        }
        _ => format!("flag needs an argument: {flag}"),
    }
}
