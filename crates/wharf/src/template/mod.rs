//! Go's text templates, as `--format` speaks them.
//!
//! [`Template::parse`] makes a tree once; [`Template::render`] evaluates it against a [`Value`] as often as needed.
//! Supported: text and trim markers, comments, pipelines, variables, `if`, `else`, `with`, `range`, `break`, `continue`,
//! `define`/`template`/`block`, Go's built-in functions, and Docker's `json`, `join`, `split`, `title`, `lower`, `upper`,
//! `pad`, `truncate`. Nothing in a template can reach outside the value it is given. Nesting is bounded, so a template
//! cannot exhaust the stack.

mod eval;
mod functions;
mod go_format;
mod lexer;
mod parser;
mod value;

pub(crate) use go_format::{json_indent, quote, to_json};
pub(crate) use value::{Object, Value};

use std::collections::BTreeSet;

use parser::Node;

/// Why a template cannot be used; the text starts with `template:`, as Go's does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template: {name}:{location}: {message}")]
pub(crate) struct Error {
    name: String,
    /// `line` when parsing, `line:column` when executing.
    location: String,
    message: String,
}

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template {
    name: String,
    source: String,
    root: Vec<Node>,
    defined: Vec<(String, Vec<Node>)>,
}

impl Template {
    /// Parses `source`; `name` appears in errors.
    pub(crate) fn parse(name: &str, source: &str) -> Result<Self, Error> {
        let failed = |failure: parser::Failure| {
            let line = 1 + source[..failure.position.min(source.len())].matches('\n').count();
            Error { name: name.to_owned(), location: line.to_string(), message: failure.message }
        };
        let tree = parser::parse(source).map_err(failed)?;
        Ok(Self { name: name.to_owned(), source: source.to_owned(), root: tree.root, defined: tree.defined })
    }

    /// Evaluates the template against `data` and appends the text to `out`.
    pub(crate) fn render(&self, data: &Value, out: &mut String) -> Result<(), Error> {
        self.run(data, false, out)
    }

    /// Evaluates the template against the column headings of a table: functions leave text as it is.
    pub(crate) fn render_header(&self, headings: &Value, out: &mut String) -> Result<(), Error> {
        self.run(headings, true, out)
    }

    fn run(&self, data: &Value, header: bool, out: &mut String) -> Result<(), Error> {
        eval::execute(&self.root, &self.defined, data, header, out).map_err(|failure| {
            let before = &self.source[..failure.position.min(self.source.len())];
            let line = 1 + before.matches('\n').count();
            let column = before.len() - before.rfind('\n').map_or(0, |newline| newline + 1);
            Error {
                name: self.name.clone(),
                location: format!("{line}:{column}"),
                message: format!(
                    "executing \"{}\" at <{}>: {}",
                    self.name,
                    shorten(&failure.node),
                    failure.message
                ),
            }
        })
    }

    /// Whether the template names the field at the top of the data, as `.Size` or `$.Size`.
    pub(crate) fn mentions(&self, field: &str) -> bool {
        self.used().fields.contains(field)
    }

    /// The fields at the top of the data that it names, `None` if it may look at the data as a whole, as `json .` does.
    pub(crate) fn fields(&self) -> Option<BTreeSet<&str>> {
        let used = self.used();
        (!used.whole).then_some(used.fields)
    }

    fn used(&self) -> parser::Use<'_> {
        let mut used = parser::Use::default();
        let defined = self.defined.iter().map(|(_, nodes)| nodes);
        std::iter::once(&self.root).chain(defined).for_each(|nodes| used.add(nodes));
        used
    }
}

/// Go shows at most twenty bytes of the node that failed.
fn shorten(node: &str) -> String {
    if node.len() <= 20 {
        return node.to_owned();
    }
    let end = (0..=20).rev().find(|end| node.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", &node[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Value {
        Value::parse_json(
            br#"{"Name":"web","Id":12,"Ratio":0.5,"On":true,"Nothing":null,"Empty":[],
                "List":["b","a","c"],"Labels":{"z":"1","a":"two"},
                "Nested":{"Deep":{"Er":"x"}},"Ports":[{"P":80},{"P":443}]}"#,
        )
        .unwrap()
    }

    fn render(source: &str) -> String {
        let mut out = String::new();
        match Template::parse("", source).and_then(|template| template.render(&data(), &mut out)) {
            Ok(()) => out,
            Err(error) => error.to_string(),
        }
    }

    #[track_caller]
    fn check(cases: &[(&str, &str)]) {
        for (source, expected) in cases {
            assert_eq!(render(source), *expected, "{source}");
        }
    }

    #[test]
    fn fields_and_literals() {
        check(&[
            ("plain", "plain"),
            ("{{.Name}}-{{ .Id }}", "web-12"),
            ("{{.Nested.Deep.Er}}", "x"),
            ("{{(index .Ports 1).P}}", "443"),
            ("{{.On}} {{.Ratio}} {{.Nothing}} {{.Absent}}", "true 0.5 <nil> <no value>"),
            ("{{.List}} {{.Labels}}", "[b a c] map[a:two z:1]"),
            ("{{.Nested}}", "map[Deep:map[Er:x]]"),
            (r#"{{"a\tb"}}{{`c\n`}}{{'x'}}"#, "a\tbc\\n120"),
            ("{{0x1F}} {{1.5}} {{-3}} {{true}}", "31 1.5 -3 true"),
            ("{{/* note */}}x{{- /* note */ -}} y", "xy"),
            ("a {{- .Id -}} b", "a12b"),
        ]);
    }

    #[test]
    fn control_flow() {
        check(&[
            ("{{if .On}}yes{{else}}no{{end}}", "yes"),
            ("{{if .Empty}}yes{{else if .Name}}second{{else}}no{{end}}", "second"),
            ("{{with .Nested.Deep}}{{.Er}}{{end}}", "x"),
            ("{{with .Empty}}x{{else}}none{{end}}", "none"),
            ("{{range .List}}<{{.}}>{{end}}", "<b><a><c>"),
            ("{{range $i, $e := .List}}{{$i}}={{$e}};{{end}}", "0=b;1=a;2=c;"),
            ("{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}", "a=two;z=1;"),
            ("{{range .Empty}}x{{else}}empty{{end}}", "empty"),
            ("{{range .List}}{{if eq . \"a\"}}{{continue}}{{end}}{{.}}{{end}}", "bc"),
            ("{{range .List}}{{if eq . \"a\"}}{{break}}{{end}}{{.}}{{end}}", "b"),
            ("{{range 3}}{{.}}{{end}}", "012"),
            ("{{$x := 1}}{{range .List}}{{$x = .}}{{end}}{{$x}}", "c"),
            ("{{range .Ports}}{{$.Name}}:{{.P}} {{end}}", "web:80 web:443 "),
            ("{{define \"t\"}}[{{.}}]{{end}}{{template \"t\" .Name}}", "[web]"),
            ("{{block \"b\" .Id}}<{{.}}>{{end}}", "<12>"),
        ]);
    }

    #[test]
    fn functions() {
        check(&[
            ("{{len .List}} {{len .Name}} {{len .Labels}}", "3 3 2"),
            ("{{index .List 1}} {{index .Labels \"z\"}}", "a 1"),
            ("{{slice .Name 1 2}}", "e"),
            (
                "{{eq .Id 12}} {{ne .Name \"x\"}} {{lt 1 2}} {{ge 2 2}} {{eq .Id 1 2 12}}",
                "true true true true true",
            ),
            ("{{and .On .Name}} {{or .Empty .Id}} {{not .On}}", "web 12 false"),
            ("{{json .List}} {{json .Nested}}", r#"["b","a","c"] {"Deep":{"Er":"x"}}"#),
            ("{{.Labels | json}}", r#"{"z":"1","a":"two"}"#),
            ("{{join .List \",\"}}", "b,a,c"),
            ("{{split \"a,b\" \",\"}}", "[a b]"),
            ("{{upper .Name}}{{lower \"AB\"}}{{title \"a bc\"}}", "WEBabA Bc"),
            ("{{pad .Name 1 2}}|{{truncate .Name 2}}", " web  |we"),
            ("{{printf \"%s-%05d-%q-%v-%x\" .Name .Id .Name .List 255}}", "web-00012-\"web\"-[b a c]-ff"),
            (
                "{{printf \"%.2f %6.1f|%-5s|%5s|%t %%\" 1.005 2.25 \"ab\" \"cd\" true}}",
                "1.00    2.2|ab   |   cd|true %",
            ),
        ]);
        check(&[("{{print 1 2 \"x\" 3}}", "1 2x3"), ("{{println .Id}}", "12\n"), ("{{html \"<\"}}", "&lt;")]);
    }

    #[test]
    fn errors_read_as_gos_do() {
        check(&[
            ("{{.Foo", "template: :1: unclosed action"),
            ("{{if .On}}", "template: :1: unexpected EOF"),
            ("{{end}}", "template: :1: unexpected {{end}}"),
            ("{{foo}}", "template: :1: function \"foo\" not defined"),
            ("{{$x}}", "template: :1: undefined variable \"$x\""),
            (
                "{{.Name.Foo}}",
                "template: :1:7: executing \"\" at <.Name.Foo>: can't evaluate field Foo in type string",
            ),
            (
                "{{index .List 9}}",
                "template: :1:2: executing \"\" at <index .List 9>: error calling index: index out of range: 9",
            ),
            ("{{\"a", "template: :1: unterminated quoted string"),
        ]);
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "{{if .On}}".repeat(100_000);
        assert!(render(&deep).contains("nested too deeply"));
        let deep = format!("{{{{{}1{}}}}}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(render(&deep).contains("nested too deeply"));
        assert!(render("{{define \"t\"}}{{template \"t\"}}{{end}}{{template \"t\"}}").contains("maximum"));
    }

    #[test]
    fn fields_in_use_are_known() {
        let template = Template::parse("", "{{if .A}}{{len .B.C}}{{end}}{{$.D}}").unwrap();
        assert_eq!(
            ["A", "B", "C", "D", "E"].map(|name| template.mentions(name)),
            [true, true, false, true, false]
        );
        assert_eq!(template.fields(), Some(["A", "B", "D"].into()));
        let whole = |source| Template::parse("", source).unwrap().fields().is_none();
        for source in [
            "{{.}}",
            "{{json .}}",
            "{{. | json}}",
            "{{json $}}",
            "{{$x := .}}{{$x.A}}",
            "{{(.).A}}",
            "{{with .A}}{{json $}}{{end}}",
            "{{define \"t\"}}{{.A}}{{end}}{{template \"t\" .}}",
        ] {
            assert!(whole(source), "{source}");
        }
        assert!(!whole("{{.Label \"x\"}} {{range (split .A \",\")}}{{len $.B}}{{end}}"));
    }
}
