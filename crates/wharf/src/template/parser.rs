//! Makes a tree of a template's tokens.

use std::collections::BTreeSet;
use std::fmt;

pub(super) use super::lexer::Failure;
use super::lexer::{Kind, Token, tokens};

/// How deep blocks and parentheses may nest.
const DEPTH: usize = 200;

/// A piece of a template.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    If { pipe: Pipe, then: Vec<Node>, otherwise: Vec<Node> },
    With { pipe: Pipe, then: Vec<Node>, otherwise: Vec<Node> },
    Range { pipe: Pipe, body: Vec<Node>, otherwise: Vec<Node> },
    Break,
    Continue,
    Call { name: String, pipe: Option<Pipe>, position: usize },
}

/// Commands chained by `|`, perhaps into variables.
#[derive(Debug, Clone)]
pub(super) struct Pipe {
    pub(super) variables: Vec<String>,
    /// `=` rather than `:=`.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

/// An operand and its arguments.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) operands: Vec<Operand>,
}

#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub(super) base: Base,
    /// The fields behind the base: `.A.B` of `$x.A.B`.
    pub(super) fields: Vec<String>,
    pub(super) position: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Base {
    Dot,
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// A string and its spelling.
    Str(String, String),
    Variable(String),
    Function(String),
    Pipe(Box<Pipe>),
}

impl fmt::Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.variables.is_empty() {
            let operator = if self.assigns { "=" } else { ":=" };
            write!(f, "{} {operator} ", self.variables.join(", "))?;
        }
        for (index, command) in self.commands.iter().enumerate() {
            write!(f, "{}{command}", if index > 0 { " | " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, operand) in self.operands.iter().enumerate() {
            write!(f, "{}{operand}", if index > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.base {
            Base::Dot if self.fields.is_empty() => f.write_str(".")?,
            Base::Dot => {}
            Base::Nil => f.write_str("nil")?,
            Base::Bool(value) => write!(f, "{value}")?,
            Base::Int(value) => write!(f, "{value}")?,
            Base::Float(value) => write!(f, "{value}")?,
            Base::Str(_, text) | Base::Variable(text) | Base::Function(text) => f.write_str(text)?,
            Base::Pipe(pipe) => write!(f, "({pipe})")?,
        }
        self.fields.iter().try_for_each(|field| write!(f, ".{field}"))
    }
}

pub(super) struct Tree {
    pub(super) root: Vec<Node>,
    pub(super) defined: Vec<(String, Vec<Node>)>,
}

/// What a template takes of its data.
#[derive(Debug, Default)]
pub(super) struct Use<'a> {
    /// The fields it names at the top.
    pub(super) fields: BTreeSet<&'a str>,
    /// It looks at the data as a whole, or may do so.
    pub(super) whole: bool,
}

impl<'a> Use<'a> {
    /// Adds what `nodes` take. Inside of `with` and `range`, where the data is another, too much may be added.
    pub(super) fn add(&mut self, nodes: &'a [Node]) {
        for node in nodes {
            match node {
                Node::Text(_) | Node::Break | Node::Continue => {}
                Node::Action(pipe) => self.add_pipe(pipe),
                Node::If { pipe, then, otherwise }
                | Node::With { pipe, then, otherwise }
                | Node::Range { pipe, body: then, otherwise } => {
                    self.add_pipe(pipe);
                    self.add(then);
                    self.add(otherwise);
                }
                Node::Call { pipe, .. } => pipe.iter().for_each(|pipe| self.add_pipe(pipe)),
            }
        }
    }

    fn add_pipe(&mut self, pipe: &'a Pipe) {
        for operand in pipe.commands.iter().flat_map(|command| &command.operands) {
            let at_top = match &operand.base {
                Base::Dot => true,
                Base::Variable(variable) => variable == "$",
                Base::Pipe(inner) => {
                    self.add_pipe(inner);
                    false
                }
                _ => false,
            };
            match operand.fields.first() {
                Some(field) if at_top => {
                    self.fields.insert(field);
                }
                None if at_top => self.whole = true,
                _ => {}
            }
        }
    }
}

/// Parses a whole template.
pub(super) fn parse(source: &str) -> Result<Tree, Failure> {
    let end = source.len();
    let mut parser = Parser {
        tokens: tokens(source)?,
        next: 0,
        end,
        variables: vec!["$".into()],
        loops: 0,
        depth: 0,
        defined: Vec::new(),
    };
    let (root, stop) = parser.list()?;
    match stop {
        Stop::EndOfText => Ok(Tree { root, defined: parser.defined }),
        Stop::End(position) => parser.fail(position, "unexpected {{end}}"),
        Stop::Else { position, .. } => parser.fail(position, "unexpected {{else}}"),
    }
}

/// What ended a list of nodes.
enum Stop {
    EndOfText,
    End(usize),
    /// `{{else}}`, or `{{else if …}}` with the keyword still to come.
    Else {
        position: usize,
        chained: Option<String>,
    },
}

struct Parser {
    tokens: Vec<Token>,
    /// The index of the token to look at.
    next: usize,
    /// The length of the template.
    end: usize,
    variables: Vec<String>,
    loops: usize,
    depth: usize,
    defined: Vec<(String, Vec<Node>)>,
}

impl Parser {
    fn fail<T>(&self, position: usize, message: impl Into<String>) -> Result<T, Failure> {
        Err(Failure { message: message.into(), position })
    }

    fn position(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |token| token.position)
    }

    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.next).map(|token| &token.kind)
    }

    fn unexpected<T>(&self, context: &str) -> Result<T, Failure> {
        let position = self.position();
        let message = match self.peek() {
            None => "unexpected EOF".to_owned(),
            Some(kind) => format!("unexpected {} in {context}", describe(kind)),
        };
        self.fail(position, message)
    }

    fn expect(&mut self, wanted: &Kind, context: &str) -> Result<(), Failure> {
        if self.peek() == Some(wanted) {
            self.next += 1;
            return Ok(());
        }
        self.unexpected(context)
    }

    fn enter(&mut self) -> Result<(), Failure> {
        self.depth += 1;
        if self.depth > DEPTH {
            let position = self.position();
            return self.fail(position, "nested too deeply");
        }
        Ok(())
    }

    /// Nodes up to something that ends them.
    fn list(&mut self) -> Result<(Vec<Node>, Stop), Failure> {
        self.enter()?;
        let mut nodes = Vec::new();
        let stop = loop {
            let Some(token) = self.tokens.get(self.next) else { break Stop::EndOfText };
            self.next += 1;
            if let Kind::Text(text) = &token.kind {
                nodes.push(Node::Text(text.clone()));
                continue;
            }
            // Outside actions there is only text, so this is the `{{` of one.
            let position = token.position;
            let keyword = match self.peek() {
                Some(Kind::Word(word)) if is_keyword(word) => word.clone(),
                _ => {
                    let pipe = self.pipe("command")?;
                    self.expect(&Kind::Close, "command")?;
                    nodes.push(Node::Action(pipe));
                    continue;
                }
            };
            self.next += 1;
            match keyword.as_str() {
                "end" => {
                    self.expect(&Kind::Close, "end")?;
                    break Stop::End(position);
                }
                "else" => {
                    let chained = match self.peek() {
                        Some(Kind::Word(word)) if word == "if" || word == "with" => Some(word.clone()),
                        _ => None,
                    };
                    if chained.is_some() {
                        self.next += 1;
                    } else {
                        self.expect(&Kind::Close, "else")?;
                    }
                    break Stop::Else { position, chained };
                }
                _ => nodes.extend(self.keyword(&keyword, position)?),
            }
        };
        self.depth -= 1;
        Ok((nodes, stop))
    }

    fn keyword(&mut self, keyword: &str, position: usize) -> Result<Option<Node>, Failure> {
        match keyword {
            "if" | "with" | "range" => self.control(keyword).map(Some),
            "break" | "continue" => {
                if self.loops == 0 {
                    return self.fail(position, format!("{{{{{keyword}}}}} outside {{{{range}}}}"));
                }
                self.expect(&Kind::Close, keyword)?;
                Ok(Some(if keyword == "break" { Node::Break } else { Node::Continue }))
            }
            "template" => {
                let name = self.name("template clause")?;
                let pipe = if self.peek() == Some(&Kind::Close) {
                    None
                } else {
                    Some(self.pipe("template clause")?)
                };
                self.expect(&Kind::Close, "template clause")?;
                Ok(Some(Node::Call { name, pipe, position }))
            }
            "define" => {
                let name = self.name("define clause")?;
                self.expect(&Kind::Close, "define clause")?;
                self.definition(name, "define clause")?;
                Ok(None)
            }
            _ => {
                let name = self.name("block clause")?;
                let pipe = Some(self.pipe("block clause")?);
                self.expect(&Kind::Close, "block clause")?;
                self.definition(name.clone(), "block clause")?;
                Ok(Some(Node::Call { name, pipe, position }))
            }
        }
    }

    fn name(&mut self, context: &str) -> Result<String, Failure> {
        match self.peek() {
            Some(Kind::Str(name, _)) => {
                let name = name.clone();
                self.next += 1;
                Ok(name)
            }
            _ => self.unexpected(context),
        }
    }

    fn definition(&mut self, name: String, context: &str) -> Result<(), Failure> {
        // A definition sees only its own data.
        let outer = std::mem::replace(&mut self.variables, vec!["$".into()]);
        let loops = std::mem::take(&mut self.loops);
        let (nodes, stop) = self.list()?;
        self.variables = outer;
        self.loops = loops;
        match stop {
            Stop::End(_) => self.defined.push((name, nodes)),
            Stop::EndOfText => return self.unexpected(context),
            Stop::Else { position, .. } => {
                return self.fail(position, format!("unexpected {{{{else}}}} in {context}"));
            }
        }
        Ok(())
    }

    /// `if`, `with` or `range`, after the keyword.
    fn control(&mut self, keyword: &str) -> Result<Node, Failure> {
        self.enter()?;
        let scope = self.variables.len();
        let pipe = self.pipe(keyword)?;
        self.expect(&Kind::Close, keyword)?;
        let in_loop = usize::from(keyword == "range");
        self.loops += in_loop;
        let (then, stop) = self.list()?;
        self.loops -= in_loop;
        let otherwise = match stop {
            Stop::End(_) => Vec::new(),
            Stop::Else { chained: Some(inner), position } => {
                if keyword == "range" {
                    return self.fail(position, format!("unexpected <{inner}> in else"));
                }
                vec![self.control(&inner)?]
            }
            Stop::Else { chained: None, .. } => match self.list()? {
                (nodes, Stop::End(_)) => nodes,
                (_, Stop::Else { position, .. }) => {
                    return self.fail(position, "expected end; found {{else}}");
                }
                (_, Stop::EndOfText) => return self.unexpected(keyword),
            },
            Stop::EndOfText => return self.unexpected(keyword),
        };
        self.variables.truncate(scope);
        self.depth -= 1;
        Ok(match keyword {
            "if" => Node::If { pipe, then, otherwise },
            "with" => Node::With { pipe, then, otherwise },
            _ => Node::Range { pipe, body: then, otherwise },
        })
    }

    fn pipe(&mut self, context: &str) -> Result<Pipe, Failure> {
        self.enter()?;
        let mut pipe = Pipe { variables: Vec::new(), assigns: false, commands: Vec::new() };
        self.declarations(&mut pipe, context)?;
        loop {
            let command = self.command(context)?;
            if let (Some(first), false) = (command.operands.first(), pipe.commands.is_empty())
                && matches!(
                    first.base,
                    Base::Nil | Base::Bool(_) | Base::Int(_) | Base::Float(_) | Base::Str(..)
                )
            {
                let stage = pipe.commands.len() + 1;
                let position = first.position;
                return self.fail(position, format!("non executable command in pipeline stage {stage}"));
            }
            pipe.commands.push(command);
            if self.peek() != Some(&Kind::Pipe) {
                break;
            }
            self.next += 1;
        }
        if !pipe.assigns {
            self.variables.extend(pipe.variables.iter().cloned());
        }
        self.depth -= 1;
        Ok(pipe)
    }

    /// `$x :=`, `$x =`, or `$i, $e :=` in front of a pipeline.
    fn declarations(&mut self, pipe: &mut Pipe, context: &str) -> Result<(), Failure> {
        let mut ahead = self.tokens[self.next..].iter().map(|token| &token.kind);
        let mut names = Vec::new();
        loop {
            let Some(Kind::Variable(name)) = ahead.next() else { return Ok(()) };
            names.push(name.clone());
            match ahead.next() {
                Some(Kind::Declare) => break,
                Some(Kind::Assign) => {
                    pipe.assigns = true;
                    break;
                }
                Some(Kind::Comma) if context == "range" && names.len() < 2 => {}
                Some(Kind::Comma) => {
                    let position = self.position();
                    return self.fail(position, format!("too many declarations in {context}"));
                }
                _ => return Ok(()),
            }
        }
        if pipe.assigns
            && let Some(unknown) = names.iter().find(|name| !self.variables.contains(name))
        {
            let position = self.position();
            return self.fail(position, format!("undefined variable \"{unknown}\""));
        }
        self.next += 2 * names.len();
        pipe.variables = names;
        Ok(())
    }

    fn command(&mut self, context: &str) -> Result<Command, Failure> {
        let mut operands = Vec::new();
        loop {
            match self.peek() {
                None | Some(Kind::Close | Kind::Pipe | Kind::RightParen) => break,
                _ => operands.push(self.operand(context)?),
            }
        }
        if operands.is_empty() {
            if self.peek().is_none() {
                let end = self.end;
                return self.fail(end, "unclosed action");
            }
            let position = self.position();
            return self.fail(position, format!("missing value for {context}"));
        }
        Ok(Command { operands })
    }

    fn operand(&mut self, context: &str) -> Result<Operand, Failure> {
        let Some(token) = self.tokens.get(self.next).cloned() else { return self.unexpected(context) };
        let mut operand = Operand { base: Base::Dot, fields: Vec::new(), position: token.position };
        operand.base = match token.kind {
            Kind::Dot => Base::Dot,
            Kind::Field(name) => {
                operand.fields.push(name);
                Base::Dot
            }
            Kind::Int(value) => Base::Int(value),
            Kind::Float(value) => Base::Float(value),
            Kind::Str(text, spelled) => Base::Str(text, spelled),
            Kind::Variable(name) => {
                if !self.variables.contains(&name) {
                    return self.fail(token.position, format!("undefined variable \"{name}\""));
                }
                Base::Variable(name)
            }
            Kind::Word(word) => match word.as_str() {
                "true" => Base::Bool(true),
                "false" => Base::Bool(false),
                "nil" => Base::Nil,
                name if super::functions::is_known(name) => Base::Function(word),
                name => return self.fail(token.position, format!("function \"{name}\" not defined")),
            },
            Kind::LeftParen => {
                self.next += 1;
                let inner = self.pipe("parenthesized pipeline")?;
                if self.peek() != Some(&Kind::RightParen) {
                    return self.fail(token.position, "unclosed left paren");
                }
                Base::Pipe(Box::new(inner))
            }
            _ => return self.unexpected(context),
        };
        self.next += 1;
        self.chain(&mut operand)?;
        Ok(operand)
    }

    /// The fields that follow an operand without a space.
    fn chain(&mut self, operand: &mut Operand) -> Result<(), Failure> {
        while let Some(Token { kind: Kind::Field(name), position, spaced: false }) =
            self.tokens.get(self.next).cloned()
        {
            match operand.base {
                Base::Dot if operand.fields.is_empty() => {
                    return self.fail(position, "unexpected . after term \".\"");
                }
                Base::Dot | Base::Variable(_) | Base::Pipe(_) | Base::Function(_) => {}
                _ => {
                    return self.fail(position, format!("unexpected . after term {:?}", operand.to_string()));
                }
            }
            // As in Go, an error points at the second part of a chain.
            if operand.fields.len() == 1 && matches!(operand.base, Base::Dot) {
                operand.position = position;
            }
            operand.fields.push(name);
            self.next += 1;
        }
        Ok(())
    }
}

fn is_keyword(word: &str) -> bool {
    ["if", "else", "end", "with", "range", "break", "continue", "template", "define", "block"].contains(&word)
}

fn describe(kind: &Kind) -> String {
    match kind {
        Kind::Text(text) => format!("{text:?}"),
        Kind::Open => "\"{{\"".into(),
        Kind::Close => "\"}}\"".into(),
        Kind::Word(word) => format!("<{word}>"),
        Kind::Field(name) => format!("<.{name}>"),
        Kind::Dot => "<.>".into(),
        Kind::Variable(name) => format!("<{name}>"),
        Kind::Int(value) => format!("\"{value}\""),
        Kind::Float(value) => format!("\"{value}\""),
        Kind::Str(_, spelled) => format!("{spelled:?}"),
        Kind::Pipe => "\"|\"".into(),
        Kind::LeftParen => "\"(\"".into(),
        Kind::RightParen => "\")\"".into(),
        Kind::Comma => "\",\"".into(),
        Kind::Declare => "\":=\"".into(),
        Kind::Assign => "\"=\"".into(),
    }
}
