//! `images --tree`: each image with those of its platforms below it.

use std::cmp::Reverse;

use crate::{format::human, syntax::platform::Platform, template::Value, terminal};

/// As many columns as there are where there is no terminal.
const COLUMNS: u16 = 80;

/// The narrowest that names may get before columns are left out.
const NAME_MIN: usize = 12;

/// What stands between columns.
const GAP: &str = "   ";

/// The columns beside the names, and whether they are about numbers.
const HEADINGS: [(&str, usize, bool); 4] =
    [("ID", 12, false), ("DISK USAGE", 10, true), ("CONTENT SIZE", 12, true), ("EXTRA", 5, false)];

/// An image, or the image of one of its platforms.
struct Line {
    /// The last of them stands on the line with the columns, the others above it.
    names: Vec<String>,
    cells: [String; 3],
    in_use: bool,
    /// Whether its content is here.
    available: bool,
}

/// The whole listing.
pub(super) fn render(list: &[Value]) -> String {
    let coloured =
        terminal::output_is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let columns = terminal::size().map_or(COLUMNS, |(_, columns)| columns);
    Style { coloured, columns: columns.into() }.render(list)
}

/// How it is shown.
struct Style {
    coloured: bool,
    columns: usize,
}

impl Style {
    fn render(&self, list: &[Value]) -> String {
        let mut images: Vec<&Value> =
            list.iter().filter(|image| !image.list("RepoTags").is_empty()).collect();
        images.sort_by_key(|image| Reverse(image.int("Created")));
        let images: Vec<(Line, Vec<Line>)> = images.into_iter().map(lines).collect();
        let longest = images.iter().flat_map(|(image, children)| {
            let names = children.iter().map(|child| child.names[0].chars().count() + 3);
            names.chain(image.names.iter().map(|name| name.chars().count()))
        });
        let (width, headings) = self.fit(longest.max().unwrap_or(0).max("IMAGE".len()));
        let mut text = self.legend();
        text.push_str(&self.line(
            "IMAGE",
            width,
            "39;1",
            |index| (HEADINGS[index].0.to_owned(), "39;1"),
            headings,
        ));
        let spaced = images.iter().any(|(_, children)| !children.is_empty());
        for (image, children) in &images {
            self.push_image(&mut text, image, width, headings);
            for (index, child) in children.iter().enumerate() {
                let branch = if index + 1 == children.len() { "└─" } else { "├─" };
                let name = format!("{branch} {}", child.names[0]);
                let paint = if child.available { "39" } else { "39;2" };
                text.push_str(&self.line(
                    &name,
                    width,
                    paint,
                    |index| self.cell(child, index, paint),
                    headings,
                ));
            }
            if spaced {
                text.push('\n');
            }
        }
        text
    }

    /// How wide names may be, and how many of the columns there is room for.
    fn fit(&self, longest: usize) -> (usize, usize) {
        for headings in (1..=HEADINGS.len()).rev() {
            let beside: usize = HEADINGS[..headings].iter().map(|(_, width, _)| GAP.len() + width).sum();
            let room = self.columns.saturating_sub(beside);
            if room >= NAME_MIN {
                return (longest.min(room), headings);
            }
        }
        (longest.min(self.columns.max(1)), 0)
    }

    fn legend(&self) -> String {
        let warning =
            "WARNING: This is an experimental feature. The output may change and shouldn't be depended on.";
        let (warning, legend, length) = match self.coloured {
            true => (
                format!("\x1b[93m{warning}\x1b[0m"),
                format!(
                    "\x1b[1m\x1b[106m\x1b[30mi\x1b[0m\x1b[0m \x1b[96mInfo → \x1b[0m\x1b[0m {} In Use ",
                    self.chip()
                ),
                21,
            ),
            false => (warning.to_owned(), " Info ->  U In Use ".to_owned(), 19),
        };
        format!("{warning}\n{:pad$}{legend}\n\n", "", pad = self.columns.saturating_sub(length))
    }

    fn chip(&self) -> String {
        if self.coloured { "\x1b[38;5;0m\x1b[48;5;14m U \x1b[0m".to_owned() } else { " U ".to_owned() }
    }

    fn push_image(&self, text: &mut String, image: &Line, width: usize, headings: usize) {
        let Some((last, above)) = image.names.split_last() else { return };
        for name in above {
            // Nothing stands beside it, so it may take the whole line.
            text.push_str(&self.painted(&human::ellipsis(name, self.columns.max(1)), "34;1"));
            text.push('\n');
        }
        text.push_str(&self.line(last, width, "34;1", |index| self.cell(image, index, "39"), headings));
    }

    fn cell(&self, line: &Line, index: usize, paint: &'static str) -> (String, &'static str) {
        match line.cells.get(index) {
            Some(cell) => (cell.clone(), paint),
            None => (if line.in_use { " U ".to_owned() } else { String::new() }, "chip"),
        }
    }

    fn line(
        &self,
        name: &str,
        width: usize,
        paint: &str,
        cell: impl Fn(usize) -> (String, &'static str),
        headings: usize,
    ) -> String {
        let name = human::ellipsis(name, width);
        let mut text = self.painted(&name, paint);
        text.extend(std::iter::repeat_n(' ', width - name.chars().count().min(width)));
        for (index, (_, width, is_number)) in HEADINGS[..headings].iter().enumerate() {
            let (cell, paint) = cell(index);
            let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
            let cell = match paint {
                "chip" if !cell.is_empty() => self.chip(),
                "chip" => String::new(),
                paint => self.painted(&cell, paint),
            };
            text.push_str(GAP);
            text.push_str(&if *is_number { format!("{pad}{cell}") } else { format!("{cell}{pad}") });
        }
        text.push('\n');
        text
    }

    /// The text in a colour and weight, written as `34;1`.
    fn painted(&self, text: &str, codes: &str) -> String {
        if !self.coloured {
            return text.to_owned();
        }
        let start: String = codes.split(';').map(|code| format!("\x1b[{code}m")).collect();
        format!("{start}{text}\x1b[0m")
    }
}

/// An image and those of its platforms.
fn lines(image: &Value) -> (Line, Vec<Line>) {
    let size = |manifest: &Value, key: &str| manifest.get("Size").map_or(0, |size| size.int(key));
    let manifests = image.list("Manifests");
    let child = |manifest: &Value| {
        let data = manifest.get("ImageData")?;
        let part = |key: &str| data.get("Platform").map_or("", |platform| platform.text(key)).to_owned();
        let platform = Platform {
            os: part("os"),
            architecture: part("architecture"),
            variant: part("variant"),
            ..Platform::default()
        };
        Some(Line {
            names: vec![platform.to_string()],
            cells: cells(manifest.text("ID"), size(manifest, "Total"), size(manifest, "Content")),
            in_use: !data.list("Containers").is_empty(),
            available: manifest.is_set("Available"),
        })
    };
    let children: Vec<Line> =
        manifests.iter().filter(|manifest| manifest.text("Kind") == "image").filter_map(child).collect();
    let mut names: Vec<String> = image.list("RepoTags").iter().map(|name| name.as_str().to_owned()).collect();
    names.sort_by_key(|name| Reverse(name.chars().count()));
    let content = manifests.iter().map(|manifest| size(manifest, "Content")).sum();
    let line = Line {
        names,
        cells: cells(image.text("Id"), image.int("Size"), content),
        in_use: image.int("Containers") > 0 || children.iter().any(|child| child.in_use),
        available: true,
    };
    (line, children)
}

fn cells(id: &str, total: i64, content: i64) -> [String; 3] {
    [human::short_id(id).to_owned(), human::size(total as f64), human::size(content as f64)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGES: &str = r#"[
        {"Id":"sha256:aaaaaaaaaaaaaaaa","RepoTags":["m:1","much-longer:1"],"Created":5,"Size":3000000,"Containers":-1,"Manifests":[
            {"ID":"sha256:bbbbbbbbbbbbbbbb","Kind":"image","Available":true,"Size":{"Content":2000000,"Total":3000000},
             "ImageData":{"Platform":{"os":"linux","architecture":"amd64"},"Containers":["c"]}},
            {"ID":"sha256:cccccccccccccccc","Kind":"image","Available":false,"Size":{"Content":500,"Total":500},
             "ImageData":{"Platform":{"os":"linux","architecture":"arm64","variant":"v8"},"Containers":[]}},
            {"ID":"sha256:dddddddddddddddd","Kind":"attestation","Available":true,"Size":{"Content":1000,"Total":1000}}]},
        {"Id":"sha256:eeeeeeeeeeeeeeee","RepoTags":[],"Created":9},
        {"Id":"sha256:ffffffffffffffff","RepoTags":["new:1"],"Created":7,"Size":98,"Containers":0}]"#;

    fn show(columns: usize, coloured: bool) -> String {
        let Value::List(list) = Value::parse_json(IMAGES.as_bytes()).unwrap() else { panic!("a list") };
        let text = Style { coloured, columns }.render(&list);
        text.split_once("\n\n").unwrap().1.to_owned()
    }

    #[test]
    fn platforms_stand_below_their_image() {
        let expected = "\
IMAGE               ID             DISK USAGE   CONTENT SIZE   EXTRA
new:1               ffffffffffff          98B             0B        

much-longer:1
m:1                 aaaaaaaaaaaa          3MB            2MB    U   
├─ linux/amd64      bbbbbbbbbbbb          3MB            2MB    U   
└─ linux/arm64/v8   cccccccccccc         500B           500B        

";
        assert_eq!(show(80, false), expected);
    }

    #[test]
    fn columns_give_way_to_names() {
        assert!(
            show(63, false).starts_with("IMAGE          ID             DISK USAGE   CONTENT SIZE   EXTRA\n")
        );
        assert!(
            show(62, false).starts_with("IMAGE               ID             DISK USAGE   CONTENT SIZE\n")
        );
        assert!(show(62, false).contains("\n└─ linux/arm64/v8   cccc"));
        assert!(show(58, false).contains("\n└─ linux/arm64…   cccc"));
        assert!(show(1, false).starts_with("…\n"));
    }

    #[test]
    fn what_is_not_here_is_pale() {
        assert!(
            show(80, true)
                .contains("\x1b[39m\x1b[2m└─ linux/arm64/v8\x1b[0m   \x1b[39m\x1b[2mcccccccccccc\x1b[0m")
        );
    }
}
