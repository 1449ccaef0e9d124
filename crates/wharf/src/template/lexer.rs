//! Cuts a template into text and the tokens of its actions.

/// One token, with the byte where it starts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) position: usize,
    /// Whether white space came right before: `.A .B` are two operands, `.A.B` is one.
    pub(super) spaced: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// A keyword or the name of a function.
    Word(String),
    /// `.Name`, without the dot.
    Field(String),
    /// `.` alone.
    Dot,
    /// `$name`, with the dollar sign.
    Variable(String),
    Int(i64),
    Float(f64),
    /// A string, with its spelling in the template.
    Str(String, String),
    Pipe,
    LeftParen,
    RightParen,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

pub(super) struct Failure {
    pub(super) message: String,
    pub(super) position: usize,
}

fn fail<T>(position: usize, message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure { message: message.into(), position })
}

/// All tokens of `source`.
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, Failure> {
    let mut lexer = Lexer { source, position: 0, out: Vec::new() };
    let mut trim_next = false;
    loop {
        let rest = &source[lexer.position..];
        let open = rest.find("{{");
        let mut text = &rest[..open.unwrap_or(rest.len())];
        if trim_next {
            text = text.trim_start_matches(SPACE);
        }
        let Some(open) = open else {
            lexer.text(text);
            return Ok(lexer.out);
        };
        let start = lexer.position + open;
        lexer.position = start + 2;
        let inner = &source[lexer.position..];
        if inner.starts_with('-') && inner[1..].starts_with(SPACE) {
            text = text.trim_end_matches(SPACE);
            lexer.position += 2;
        }
        lexer.text(text);
        trim_next = lexer.action(start)?;
    }
}

const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

struct Lexer<'a> {
    source: &'a str,
    position: usize,
    out: Vec<Token>,
}

impl Lexer<'_> {
    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            let position = self.position;
            self.out.push(Token { kind: Kind::Text(text.to_owned()), position, spaced: false });
        }
    }

    fn rest(&self) -> &str {
        &self.source[self.position..]
    }

    fn push(&mut self, kind: Kind, length: usize, spaced: bool) {
        self.out.push(Token { kind, position: self.position, spaced });
        self.position += length;
    }

    /// Everything from after `{{` to after `}}`; whether white space behind it goes away.
    fn action(&mut self, start: usize) -> Result<bool, Failure> {
        let comment = self.rest().trim_start_matches(SPACE);
        if comment.starts_with("/*") {
            return self.comment(start);
        }
        self.out.push(Token { kind: Kind::Open, position: start, spaced: false });
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches(SPACE);
            let spaced = trimmed.len() < rest.len();
            let closes = trimmed.starts_with("}}");
            let trims = spaced && trimmed.starts_with("-}}");
            self.position += rest.len() - trimmed.len();
            if closes || trims {
                self.push(Kind::Close, if trims { 3 } else { 2 }, spaced);
                return Ok(trims);
            }
            self.token(spaced, start)?;
        }
    }

    fn comment(&mut self, start: usize) -> Result<bool, Failure> {
        let Some(end) = self.rest().find("*/") else { return fail(start, "unclosed comment") };
        self.position += end + 2;
        let rest = self.rest();
        if rest.starts_with("}}") {
            self.position += 2;
            return Ok(false);
        }
        let trimmed = rest.trim_start_matches(SPACE);
        if trimmed.len() < rest.len() && trimmed.starts_with("-}}") {
            self.position += rest.len() - trimmed.len() + 3;
            return Ok(true);
        }
        fail(start, "comment ends before closing delimiter")
    }

    fn token(&mut self, spaced: bool, start: usize) -> Result<(), Failure> {
        let rest = self.rest();
        let mut chars = rest.chars();
        let Some(first) = chars.next() else { return fail(start, "unclosed action") };
        let second = chars.next().unwrap_or('\0');
        match first {
            '|' => self.push(Kind::Pipe, 1, spaced),
            '(' => self.push(Kind::LeftParen, 1, spaced),
            ')' => self.push(Kind::RightParen, 1, spaced),
            ',' => self.push(Kind::Comma, 1, spaced),
            '=' => self.push(Kind::Assign, 1, spaced),
            ':' if second == '=' => self.push(Kind::Declare, 2, spaced),
            ':' => return fail(self.position, "expected :="),
            '"' => self.quoted(spaced)?,
            '`' => {
                let Some(end) = rest[1..].find('`') else {
                    return fail(self.position, "unterminated raw quoted string");
                };
                let (text, spelled) = (rest[1..=end].to_owned(), rest[..end + 2].to_owned());
                self.push(Kind::Str(text, spelled), end + 2, spaced);
            }
            '\'' => self.character(spaced)?,
            '.' if second.is_ascii_digit() => self.number(spaced)?,
            '.' => {
                let name = word(&rest[1..]).to_owned();
                let length = name.len() + 1;
                self.push(if name.is_empty() { Kind::Dot } else { Kind::Field(name) }, length, spaced);
            }
            '$' => {
                let name = format!("${}", word(&rest[1..]));
                let length = name.len();
                self.push(Kind::Variable(name), length, spaced);
            }
            '+' | '-' | '0'..='9' => self.number(spaced)?,
            _ if is_word(first) => {
                let name = word(rest).to_owned();
                let length = name.len();
                self.push(Kind::Word(name), length, spaced);
            }
            _ => return fail(self.position, format!("unexpected {} in operand", describe(first))),
        }
        Ok(())
    }

    fn quoted(&mut self, spaced: bool) -> Result<(), Failure> {
        let (mut text, mut escaped) = (String::new(), false);
        let mut chars = self.rest()[1..].char_indices();
        while let Some((index, c)) = chars.next() {
            match (escaped, c) {
                (_, '\n') => break,
                (false, '\\') => escaped = true,
                (false, '"') => {
                    let length = index + 2;
                    let spelled = self.rest()[..length].to_owned();
                    self.push(Kind::Str(text, spelled), length, spaced);
                    return Ok(());
                }
                (false, c) => text.push(c),
                (true, c) => {
                    escaped = false;
                    match unescape(c, &mut chars) {
                        Some(c) => text.push(c),
                        None => return fail(self.position, "invalid syntax"),
                    }
                }
            }
        }
        fail(self.position, "unterminated quoted string")
    }

    fn character(&mut self, spaced: bool) -> Result<(), Failure> {
        let mut chars = self.rest()[1..].char_indices();
        let value = match chars.next() {
            Some((_, '\\')) => chars.next().and_then(|(_, c)| unescape(c, &mut chars)),
            Some((_, c)) if c != '\'' => Some(c),
            _ => None,
        };
        match (value, chars.next()) {
            (Some(c), Some((index, '\''))) => {
                self.push(Kind::Int(i64::from(u32::from(c))), index + 2, spaced);
                Ok(())
            }
            _ => fail(self.position, "unterminated character constant"),
        }
    }

    fn number(&mut self, spaced: bool) -> Result<(), Failure> {
        let rest = self.rest();
        let sign = usize::from(rest.starts_with(['+', '-']));
        let hexadecimal = rest[sign..].starts_with("0x") || rest[sign..].starts_with("0X");
        let mut end = sign;
        let bytes = rest.as_bytes();
        while let Some(byte) = bytes.get(end) {
            let exponent_sign =
                matches!(byte, b'+' | b'-') && matches!(bytes[end - 1], b'e' | b'E') && !hexadecimal;
            if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') || (end > sign && exponent_sign) {
                end += 1;
            } else {
                break;
            }
        }
        let spelled = &rest[..end];
        match parse_number(spelled) {
            Some(kind) => {
                self.push(kind, end, spaced);
                Ok(())
            }
            None => fail(self.position, format!("bad number syntax: \"{spelled}\"")),
        }
    }
}

fn parse_number(spelled: &str) -> Option<Kind> {
    let (negative, digits) = match spelled.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, spelled.strip_prefix('+').unwrap_or(spelled)),
    };
    let plain = digits.replace('_', "");
    let lower = plain.to_ascii_lowercase();
    let radix = [("0x", 16), ("0o", 8), ("0b", 2)];
    let integer = match radix.iter().find_map(|(prefix, radix)| Some((lower.strip_prefix(prefix)?, *radix))) {
        Some((rest, radix)) => i64::from_str_radix(rest, radix).ok(),
        None => lower.parse().ok(),
    };
    if let Some(value) = integer {
        return Some(Kind::Int(if negative { -value } else { value }));
    }
    if !lower.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let value: f64 = lower.parse().ok()?;
    Some(Kind::Float(if negative { -value } else { value }))
}

fn unescape(c: char, rest: &mut std::str::CharIndices<'_>) -> Option<char> {
    let mut digits = |count: usize, radix: u32| {
        let mut value = 0;
        for _ in 0..count {
            value = value * radix + rest.next()?.1.to_digit(radix)?;
        }
        char::from_u32(value)
    };
    Some(match c {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'v' => '\x0b',
        '\\' | '"' | '\'' => c,
        'x' => digits(2, 16)?,
        'u' => digits(4, 16)?,
        'U' => digits(8, 16)?,
        _ => return None,
    })
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn word(text: &str) -> &str {
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

fn describe(c: char) -> String {
    format!("\"{}\"", c.escape_default())
}
