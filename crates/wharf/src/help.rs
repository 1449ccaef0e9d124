//! Help, laid out as Docker's: usage, aliases, commands, flags.

use std::{any::TypeId, fmt::Write as _, io::Write as _};

use clap::{Arg, ArgAction, Command};

use crate::{
    commands,
    failure::Result,
    plugins::Plugin,
    verb::{Entry, with_manners},
};

/// Descriptions are wrapped at this column.
const WIDTH: usize = 80;

/// Writes the help of a verb.
pub(crate) fn verb(entry: &Entry, command: &Command, spelled: &str) -> Result {
    let mut text = format!("{}\n\n{}\n", entry.usage_line(spelled), entry.about);
    if entry.names.len() > 1 {
        let program = spelled.split(' ').next().unwrap_or(spelled);
        let names: Vec<String> = entry.names.iter().map(|name| format!("{program} {name}")).collect();
        push(&mut text, format_args!("\nAliases:\n  {}\n", names.join(", ")));
    }
    push_flags(&mut text, "Options", command);
    print(&text)
}

/// The help of a group of verbs, as `wharf container`.
pub(crate) fn group(group: &str, spelled: &str) -> String {
    let about = commands::GROUPS.iter().find(|(name, _)| *name == group).map_or("", |(_, about)| about);
    let mut text = format!("Usage:  {spelled} COMMAND\n\n{about}\n\nCommands:\n");
    let verbs = commands::VERBS.iter().filter(|entry| !entry.hidden).filter_map(|entry| {
        let name = entry.names.iter().find_map(|name| name.strip_prefix(group)?.strip_prefix(' '))?;
        Some((name, entry.about))
    });
    push_commands(&mut text, verbs.collect());
    push(&mut text, format_args!("\nRun '{spelled} COMMAND --help' for more information on a command.\n"));
    text
}

/// The help of the whole program.
pub(crate) fn top(globals: &Command, plugins: &[Plugin]) -> String {
    let mut text = String::from("Usage:  wharf [OPTIONS] COMMAND\n\nRun containers\n\nCommon Commands:\n");
    let short = |entry: &&Entry| entry.names.iter().copied().find(|name| !name.contains(' '));
    let visible = || commands::VERBS.iter().filter(|entry| !entry.hidden);
    let named = |wanted: &dyn Fn(&str) -> bool| {
        let verbs = visible().filter_map(|entry| Some((short(&entry)?, entry.about)));
        verbs.filter(|(name, _)| wanted(name)).collect::<Vec<_>>()
    };
    const COMMON: [&str; 6] = ["run", "exec", "ps", "images", "version", "info"];
    push_commands(&mut text, named(&|name| COMMON.contains(&name)));
    text.push_str("\nManagement Commands:\n");
    let marked: Vec<String> = plugins.iter().map(|plugin| format!("{}*", plugin.name)).collect();
    let groups = commands::GROUPS.iter().copied().filter(|(name, _)| !commands::HIDDEN_GROUPS.contains(name));
    let others = marked.iter().zip(plugins).map(|(name, plugin)| (name.as_str(), plugin.about.as_str()));
    push_commands(&mut text, groups.chain(others).collect());
    text.push_str("\nCommands:\n");
    push_commands(&mut text, named(&|name| !COMMON.contains(&name)));
    push_flags(&mut text, "Global Options", globals);
    text.push_str("\nRun 'wharf COMMAND --help' for more information on a command.\n");
    text
}

fn print(text: &str) -> Result {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(text);
}

fn push_commands(out: &mut String, mut commands: Vec<(&str, &str)>) {
    commands.sort_unstable();
    for (name, about) in commands {
        push(out, format_args!("  {name:<11} {about}\n"));
    }
}

fn push_flags(out: &mut String, title: &str, command: &Command) {
    let mut flags: Vec<&Arg> =
        command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set()).collect();
    flags.sort_unstable_by_key(|arg| arg.get_long());
    if flags.iter().all(|arg| arg.get_id() == "help") {
        return;
    }
    let rows: Vec<(String, String)> = flags.into_iter().map(|arg| (left(arg), right(arg))).collect();
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0) + 3;
    push(out, format_args!("\n{title}:\n"));
    for (left, right) in rows {
        push(out, format_args!("{left:width$}"));
        for (index, line) in wrap(&right, WIDTH.saturating_sub(width).max(24)).iter().enumerate() {
            if index > 0 {
                push(out, format_args!("{:width$}", ""));
            }
            push(out, format_args!("{line}\n"));
        }
    }
}

fn left(arg: &Arg) -> String {
    let short = arg.get_short().map_or("    ".to_owned(), |short| format!("-{short}, "));
    let long = arg.get_long().unwrap_or("");
    match value_type(arg) {
        "" => format!("  {short}--{long}"),
        kind => format!("  {short}--{long} {kind}"),
    }
}

/// What a flag takes, in Docker's words; nothing for a boolean.
fn value_type(arg: &Arg) -> &str {
    let kind = arg.get_value_parser().type_id();
    let explicit = arg.get_value_names().and_then(|names| names.first()).map(|name| name.as_str());
    match arg.get_action() {
        ArgAction::SetTrue => "",
        ArgAction::Set if kind == TypeId::of::<bool>() => "",
        // clap's own default is the field's name in capitals.
        _ if explicit.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase())) => {
            explicit.unwrap_or("")
        }
        ArgAction::Append => "list",
        _ if kind == TypeId::of::<i64>() => "int",
        _ if kind == TypeId::of::<u16>() => "uint16",
        _ if kind == TypeId::of::<u64>() => "uint",
        _ => "string",
    }
}

fn right(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let default = arg.get_default_values().first().and_then(|value| value.to_str()).unwrap_or("");
    match default {
        "" | "false" | "0" => help,
        "true" => format!("{help} (default true)"),
        text if text.parse::<i64>().is_ok() => format!("{help} (default {text})"),
        text => format!("{help} (default \"{text}\")"),
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        // There is always a last line.
        if let Some(line) = lines.last_mut() {
            if line.is_empty() {
                line.push_str(word);
            } else if line.chars().count() + 1 + word.chars().count() <= width {
                line.push(' ');
                line.push_str(word);
            } else {
                lines.push(word.to_owned());
            }
        }
    }
    lines
}

/// The same manners for the global flags as for those of verbs.
pub(crate) fn polished(command: Command) -> Command {
    command.mut_args(with_manners)
}
