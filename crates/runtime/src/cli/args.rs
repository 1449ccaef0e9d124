//! Options in the style of runc: `--name value`, `--name=value`, `-n value`, `-name value`, in any order before the
//! first argument.

use super::Failure;

/// Which options a command knows, each under all of its spellings.
pub(crate) struct Usage<'a> {
    /// With a value.
    pub(crate) values: &'a [&'a str],
    /// Without.
    pub(crate) flags: &'a [&'a str],
}

/// What was given.
#[derive(Debug, Default)]
pub(crate) struct Args {
    options: Vec<(String, String)>,
}

impl Args {
    /// Takes options from the front; gives them and the rest.
    pub(crate) fn leading(words: Vec<String>, usage: &Usage<'_>) -> Result<(Self, Vec<String>), Failure> {
        let mut args = Self::default();
        let mut words = words.into_iter().peekable();
        while let Some(word) = words.next_if(|word| word.len() > 1 && word.starts_with('-')) {
            if word == "--" {
                break;
            }
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            // Go's flag parsers take one dash for two.
            let known = |list: &[&str]| {
                list.iter()
                    .find(|known| **known == name || known.strip_prefix('-') == Some(&name))
                    .map(|k| (*k).to_owned())
            };
            if let Some(name) = known(usage.values) {
                let value =
                    value.or_else(|| words.next()).ok_or_else(|| format!("option {name} needs a value"))?;
                args.options.push((name, value));
            } else if let Some(name) = known(usage.flags) {
                args.options.push((name, value.unwrap_or_else(|| "true".into())));
            } else {
                return Err(format!("no option {name}: see wharf-runtime --help").into());
            }
        }
        Ok((args, words.collect()))
    }

    /// Takes options and exactly the arguments of a command, also with options behind the first argument.
    pub(crate) fn exact<const N: usize>(
        words: Vec<String>,
        usage: &Usage<'_>,
        what: [&str; N],
    ) -> Result<(Self, [String; N]), Failure> {
        let (mut args, mut rest) = Self::leading(words, usage)?;
        if rest.len() > N {
            let behind = rest.split_off(N);
            let (more, left) = Self::leading(behind, usage)?;
            args.options.extend(more.options);
            if let Some(extra) = left.first() {
                return Err(format!("unexpected argument {extra:?}").into());
            }
        }
        let given = rest.len();
        rest.try_into()
            .map(|rest| (args, rest))
            .map_err(|_| format!("missing argument: {}", what[given]).into())
    }

    /// The last value of an option.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.either(name, name)
    }

    /// The last value of an option under one of two names.
    pub(crate) fn either(&self, name: &str, short: &str) -> Option<&str> {
        self.options
            .iter()
            .rev()
            .find(|(known, _)| known == name || known == short)
            .map(|(_, value)| value.as_str())
    }

    /// Every value of an option.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.options.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether a flag was given and not as `=false`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value != "false")
    }

    /// A number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u32>, Failure> {
        let parse =
            |text: &str| text.parse().map_err(|_| format!("option {name}: {text:?} is not a number").into());
        self.value(name).map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: Usage<'_> = Usage { values: &["--bundle", "-b"], flags: &["--force", "-f"] };

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn all_spellings_of_an_option() {
        for text in ["--bundle x id", "--bundle=x id", "-bundle x id", "id --bundle x"] {
            let (args, [id]) = Args::exact(words(text), &USAGE, ["container id"]).unwrap();
            assert_eq!((args.value("--bundle"), id.as_str()), (Some("x"), "id"), "{text}");
        }
        let (args, rest) = Args::leading(words("-f -b x sh -c y"), &USAGE).unwrap();
        assert!(args.flag("-f") && args.either("--bundle", "-b") == Some("x"));
        assert_eq!(rest, ["sh", "-c", "y"]);
        assert!(!Args::leading(words("--force=false"), &USAGE).unwrap().0.flag("--force"));
    }

    #[test]
    fn mistakes_are_errors() {
        for text in ["--bundle", "--nope id", "", "id --force extra"] {
            assert!(Args::exact(words(text), &USAGE, ["container id"]).is_err(), "{text}");
        }
    }
}
