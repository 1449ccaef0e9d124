//! Command-line sessions with their recorded output, one file each.
//!
//! ```text
//! # A comment.
//! @ docker run -d --name web box sleep 600        set-up: must succeed, output not compared
//! $ docker exec web sh -c 'echo out; exit 3'      an invocation under comparison
//! | out                                           a line of its standard output
//! ! oops                                          a line of its standard error
//! = 3                                             its exit code, when not 0
//! ```
//! A last line without a newline starts with `/` (output) or `\` (error). Commands run in bash with `pipefail`; `docker`
//! is whichever program is tested, `$BIND`, `$PORT`… are chosen per run. The recorded output is Docker's own: it is
//! written by running the file on the real engine ([`Script::record`]), never by hand.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::cli::{Cli, Output};
use crate::normalise::normalise;

/// A parsed file.
#[derive(Debug, Clone)]
pub struct Script {
    path: PathBuf,
    items: Vec<Item>,
}

#[derive(Debug, Clone)]
enum Item {
    /// A comment or an empty line, kept when the file is rewritten.
    Text(String),
    Setup(String),
    Step(Step),
}

/// An invocation and what it gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The line after `$`.
    pub command: String,
    /// Normalised output and exit code.
    pub expected: Output,
}

/// Where a script is played.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The program behind the name `docker`.
    pub cli: &'a Cli,
    /// Variables for the commands; their values are replaced by `$NAME` in the output.
    pub variables: Vec<(String, String)>,
    /// The program's own name, where it is not `docker`: read as `docker` in messages.
    pub alias: Option<&'static str>,
}

impl Script {
    /// Reads and parses a file.
    ///
    /// # Panics
    /// When it cannot be read or a line has no meaning.
    pub fn read(path: &Path) -> Self {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self {
            path: path.to_path_buf(),
            items: parse(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display())),
        }
    }

    /// The invocations under comparison.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.items.iter().filter_map(|item| match item {
            Item::Step(step) => Some(step),
            Item::Text(_) | Item::Setup(_) => None,
        })
    }

    /// Plays the script and compares. `expect` may name another outcome for an invocation (an intended difference).
    ///
    /// # Errors
    /// Returns all differences as readable text.
    pub fn check(&self, stage: &Stage<'_>, expect: impl Fn(&Step) -> Output) -> Result<(), String> {
        let mut report = String::new();
        for (step, actual) in self.play(stage) {
            let expected = expect(&step);
            if expected != actual {
                let _ = write!(report, "{}", difference(&step.command, &expected, &actual));
            }
        }
        if report.is_empty() { Ok(()) } else { Err(format!("{}:\n{report}", self.path.display())) }
    }

    /// Plays the script and writes what came out into the file.
    pub fn record(mut self, stage: &Stage<'_>) {
        let mut outcomes = self.play(stage).into_iter().map(|(_, output)| output);
        for item in &mut self.items {
            if let Item::Step(step) = item {
                step.expected = outcomes.next().expect("one outcome a step");
            }
        }
        std::fs::write(&self.path, render(&self.items)).expect("the transcript is writable");
    }

    fn play(&self, stage: &Stage<'_>) -> Vec<(Step, Output)> {
        let variables: Vec<(&str, &str)> =
            stage.variables.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let mut outcomes = Vec::new();
        for item in &self.items {
            match item {
                Item::Text(_) => {}
                Item::Setup(command) => {
                    let output = stage.cli.shell(command, &variables);
                    assert_eq!(
                        output.code, 0,
                        "set-up `{command}` failed:\n{}{}",
                        output.stdout, output.stderr
                    );
                }
                Item::Step(step) => {
                    outcomes.push((step.clone(), stage.tidy(stage.cli.shell(&step.command, &variables))));
                }
            }
        }
        outcomes
    }
}

impl Stage<'_> {
    fn tidy(&self, raw: Output) -> Output {
        let known: Vec<(String, String)> =
            self.variables.iter().map(|(name, value)| (value.clone(), format!("${name}"))).collect();
        let own_name = |text: String| match self.alias {
            Some(alias) => text.replace(alias, "docker"),
            None => text,
        };
        // On standard output only messages (of a pipe) may name the program; a value must not be touched.
        let own_messages = |text: String| match self.alias {
            Some(alias) => {
                text.replace(&format!("{alias}: "), "docker: ").replace(&format!("'{alias} "), "'docker ")
            }
            None => text,
        };
        Output {
            stdout: own_messages(normalise(&raw.stdout, &known)),
            stderr: own_name(normalise(&raw.stderr, &known)),
            code: raw.code,
        }
    }
}

fn parse(text: &str) -> Result<Vec<Item>, String> {
    let mut items: Vec<Item> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let (mark, rest) = line.split_at(line.len().min(1));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        match (mark, items.last_mut()) {
            ("" | "#", _) => items.push(Item::Text(line.to_owned())),
            ("@", _) => items.push(Item::Setup(rest.to_owned())),
            ("$", _) => {
                let expected = Output { stdout: String::new(), stderr: String::new(), code: 0 };
                items.push(Item::Step(Step { command: rest.to_owned(), expected }));
            }
            ("|", Some(Item::Step(step))) => step.expected.stdout.push_str(&(unescape(rest) + "\n")),
            ("/", Some(Item::Step(step))) => step.expected.stdout.push_str(&unescape(rest)),
            ("!", Some(Item::Step(step))) => step.expected.stderr.push_str(&(unescape(rest) + "\n")),
            ("\\", Some(Item::Step(step))) => step.expected.stderr.push_str(&unescape(rest)),
            ("=", Some(Item::Step(step))) => {
                step.expected.code =
                    rest.parse().map_err(|_| format!("line {}: not an exit code", number + 1))?;
            }
            _ => return Err(format!("line {}: `{line}` belongs to no invocation", number + 1)),
        }
    }
    Ok(items)
}

fn render(items: &[Item]) -> String {
    let mut text = String::new();
    for item in items {
        match item {
            Item::Text(line) => text.push_str(&format!("{line}\n")),
            Item::Setup(command) => text.push_str(&format!("@ {command}\n")),
            Item::Step(step) => {
                text.push_str(&format!("$ {}\n{}", step.command, render_output(&step.expected)))
            }
        }
    }
    text
}

fn render_output(output: &Output) -> String {
    let mut text = render_stream(&output.stdout, '|', '/') + &render_stream(&output.stderr, '!', '\\');
    if output.code != 0 {
        text.push_str(&format!("= {}\n", output.code));
    }
    text
}

fn render_stream(stream: &str, whole: char, unterminated: char) -> String {
    stream
        .split_inclusive('\n')
        .map(|line| match line.strip_suffix('\n') {
            Some(line) => format!("{whole} {}", escape(line)).trim_end().to_owned() + "\n",
            None => format!("{unterminated} {}\n", escape(line)),
        })
        .collect()
}

fn escape(line: &str) -> String {
    line.replace('\r', "␍").replace('\u{1b}', "␛").replace('\t', "␉")
}

fn unescape(line: &str) -> String {
    line.replace('␍', "\r").replace('␛', "\u{1b}").replace('␉', "\t")
}

fn difference(command: &str, expected: &Output, actual: &Output) -> String {
    let mut text = format!("\n$ {command}\n");
    let (expected, actual) = (render_output(expected), render_output(actual));
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    for line in &old {
        let _ = writeln!(text, "  {} {line}", if new.contains(line) { "      " } else { "docker" });
    }
    for line in new.iter().filter(|line| !old.contains(line)) {
        let _ = writeln!(text, "  got    {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "# title\n@ docker rm x\n\n$ docker run x\n| out\n| \n/ tail␍\n! oops\n= 3\n$ docker ps\n";

    #[test]
    fn a_file_survives_being_rewritten() {
        let items = parse(FILE).unwrap();
        assert_eq!(render(&items), FILE.replace("| \n", "|\n"));
    }

    #[test]
    fn streams_and_code_are_told_apart() {
        let items = parse(FILE).unwrap();
        let Item::Step(step) = &items[3] else { panic!("{items:?}") };
        let expected = Output { stdout: "out\n\ntail\r".into(), stderr: "oops\n".into(), code: 3 };
        assert_eq!(step.expected, expected);
    }

    #[test]
    fn a_stray_line_is_refused() {
        assert!(parse("| out\n").unwrap_err().contains("line 1"));
    }
}
