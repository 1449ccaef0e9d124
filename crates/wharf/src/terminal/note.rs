//! Remarks beside the output of a command, set apart by a heading and, on a terminal, by colour.

/// How remarks look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Note {
    coloured: bool,
}

impl Note {
    /// Remarks for a terminal, unless its user wants no colours, or for a file.
    pub(crate) fn new(on_terminal: bool) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { coloured: on_terminal && !unwanted }
    }

    /// The remark with its heading; further lines stand below the first.
    pub(crate) fn text(self, remark: &str) -> String {
        let (heading, indent) = match self.coloured {
            true => ("\x1b[1m\x1b[106m\x1b[30mi\x1b[0m\x1b[0m \x1b[96mInfo → \x1b[0m\x1b[0m", "         "),
            false => (" Info -> ", "         "),
        };
        let mut text = String::from("\n");
        for (index, line) in remark.split('\n').enumerate() {
            text.push_str(if index == 0 { heading } else { indent });
            text.push_str(&self.painted("3", line));
            text.push('\n');
        }
        text
    }

    /// A word that stands out.
    pub(crate) fn bold(self, word: &str) -> String {
        self.painted("1", word)
    }

    /// A word that is a link.
    pub(crate) fn underlined(self, word: &str) -> String {
        self.painted("4", word)
    }

    /// A word that is about what is not so.
    pub(crate) fn red(self, word: &str) -> String {
        self.painted("31", word)
    }

    /// A word that is about what is so.
    pub(crate) fn green(self, word: &str) -> String {
        self.painted("32", word)
    }

    fn painted(self, code: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_no_colours() {
        let note = Note { coloured: false };
        assert_eq!(
            note.text(&format!("a {}\nb\n", note.bold("x"))),
            "\n Info -> a x\n         b\n         \n"
        );
    }
}
