//! How listings look: tables with headings, JSON lines, or a template of the user's.
//!
//! A listing is a slice of values of one type that implements [`Row`]. Columns are computed only when the format asks
//! for them.

pub(crate) mod human;
pub(crate) mod tabwriter;

use std::{collections::BTreeSet, rc::Rc};

use crate::{
    failure::{Failure, Result},
    template::{Object, Template, Value},
};

/// A line of a listing.
pub(crate) trait Row: 'static {
    /// What errors call this, the name scripts know from Docker.
    const TYPE: &'static str;
    /// What `--format raw` stands for, if it stands for anything.
    const RAW: &'static str = "";
    /// How a template that cannot be parsed and one that cannot be evaluated are introduced.
    const MISTAKES: (&'static str, &'static str) = ("template parsing error", "template parsing error");
    /// The columns there are and their headings.
    const COLUMNS: &'static [(&'static str, &'static str)];

    /// The content of one of [`Row::COLUMNS`].
    fn column(&self, name: &str) -> Value;

    /// A column that takes arguments, as `.Label "x"`.
    fn method(&self, _name: &str, _args: &[Value]) -> Option<std::result::Result<Value, String>> {
        None
    }
}

struct Cells<R>(R);

impl<R: Row> Object for Cells<R> {
    fn field(&self, name: &str, args: &[Value]) -> Option<std::result::Result<Value, String>> {
        if R::COLUMNS.iter().any(|(column, _)| *column == name) {
            if !args.is_empty() {
                return Some(Err(format!("wrong number of args for {name}: want 0 got {}", args.len())));
            }
            return Some(Ok(self.0.column(name)));
        }
        self.0.method(name, args)
    }

    fn members(&self) -> Value {
        let mut members: Vec<_> = R::COLUMNS.iter().map(|(name, _)| (*name, self.0.column(name))).collect();
        members.sort_by_key(|(name, _)| *name);
        Value::map(members)
    }

    fn type_name(&self) -> &str {
        R::TYPE
    }

    fn escapes_html(&self) -> bool {
        true
    }
}

/// The headings of a table, as the object its template is first evaluated with.
struct Headings(&'static [(&'static str, &'static str)]);

impl Object for Headings {
    fn field(&self, name: &str, args: &[Value]) -> Option<std::result::Result<Value, String>> {
        let known = self.0.iter().find(|(column, _)| *column == name);
        // `.Label "com.example.version"` is headed by the last part of the label.
        let heading = match (known, args) {
            (Some((_, heading)), _) => (*heading).to_owned(),
            (None, [Value::Str(label)]) => label.rsplit('.').next().unwrap_or("").replace(['-', '_'], " "),
            (None, _) => "<no value>".to_owned(),
        };
        Some(Ok(heading.into()))
    }

    fn members(&self) -> Value {
        Value::map(self.0.iter().map(|(name, heading)| (*name, (*heading).into())))
    }

    fn type_name(&self) -> &str {
        "map[string]string"
    }
}

/// What `--format` asked for.
#[derive(Debug)]
pub(crate) struct Format {
    table: bool,
    everything: bool,
    template: Template,
}

impl Format {
    /// Understands the value of `--format` for rows of type `R`: nothing or `table` for the default table, `table …` for
    /// a table of the user's, `json`, `raw`, or a template.
    pub(crate) fn parse<R: Row>(spec: &str, default_table: &str) -> Result<Self> {
        let spec = match spec {
            "" | "table" => default_table,
            "raw" if !R::RAW.is_empty() => R::RAW,
            spec => spec,
        };
        let (table, source) = match spec.strip_prefix("table") {
            Some(rest) => (true, rest),
            None => (false, spec),
        };
        let everything = source.contains("json .");
        let source = match source {
            "json" if !table => "{{json .}}".to_owned(),
            _ => source.trim_matches(' ').replace("\\t", "\t").replace("\\n", "\n"),
        };
        let template = Template::parse("", &source)
            .map_err(|error| Failure::message(format!("{}: {error}", R::MISTAKES.0)))?;
        Ok(Self { table, everything, template })
    }

    /// Whether the format needs the column.
    pub(crate) fn mentions(&self, column: &str) -> bool {
        self.template.mentions(column)
    }

    /// The columns that the format names, `None` if it may show what it does not name.
    pub(crate) fn columns(&self) -> Option<BTreeSet<&str>> {
        self.template.fields()
    }

    /// Whether the format shows all columns at once, as `{{json .}}` of the user's does.
    pub(crate) fn shows_everything(&self) -> bool {
        self.everything
    }

    pub(crate) fn is_table(&self) -> bool {
        self.table
    }

    /// The whole listing as text.
    pub(crate) fn render<R: Row>(&self, rows: impl IntoIterator<Item = R>) -> Result<String> {
        let failed = |error: crate::template::Error| Failure::message(format!("{}: {error}", R::MISTAKES.1));
        let mut text = String::new();
        if self.table {
            let headings = Value::Object(Rc::new(Headings(R::COLUMNS)));
            self.template.render_header(&headings, &mut text).map_err(failed)?;
            text.push('\n');
        }
        for row in rows {
            self.template.render(&Value::Object(Rc::new(Cells(row))), &mut text).map_err(failed)?;
            text.push('\n');
        }
        Ok(if self.table { tabwriter::align(&text, 10, 3) } else { text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair(&'static str, &'static str);

    impl Row for Pair {
        const TYPE: &'static str = "Pair";
        const COLUMNS: &'static [(&'static str, &'static str)] = &[("Name", "NAME"), ("Age", "AGE")];

        fn column(&self, name: &str) -> Value {
            if name == "Name" { self.0.into() } else { self.1.into() }
        }

        fn method(&self, name: &str, args: &[Value]) -> Option<std::result::Result<Value, String>> {
            (name == "Label").then(|| Ok(format!("<{}>", args.first().map_or("", Value::as_str)).into()))
        }
    }

    fn show(spec: &str) -> String {
        let rows = [Pair("a", "1"), Pair("somewhat-longer", "2")];
        match Format::parse::<Pair>(spec, "table {{.Name}}\t{{.Age}}").and_then(|format| format.render(rows))
        {
            Ok(text) => text,
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn tables_have_headings_and_aligned_columns() {
        let expected = "NAME              AGE\na                 1\nsomewhat-longer   2\n";
        assert_eq!(show(""), expected);
        assert_eq!(show("table"), expected);
        assert_eq!(show("table {{lower .Name}}\\t{{.Age}}"), expected);
        assert_eq!(
            show("table {{.Age}}\t{{.Label \"org.my-label\"}}"),
            "AGE       my label\n1         <org.my-label>\n2         <org.my-label>\n"
        );
    }

    #[test]
    fn json_is_sorted_and_templates_are_plain() {
        assert_eq!(
            show("json"),
            "{\"Age\":\"1\",\"Name\":\"a\"}\n{\"Age\":\"2\",\"Name\":\"somewhat-longer\"}\n"
        );
        assert_eq!(show("{{.Age}}:{{.Name}}"), "1:a\n2:somewhat-longer\n");
    }

    #[test]
    fn mistakes_are_explained() {
        assert_eq!(
            show("{{.Foo}}"),
            "template parsing error: template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo in type Pair"
        );
        assert_eq!(show("{{.Foo"), "template parsing error: template: :1: unclosed action");
    }
}
