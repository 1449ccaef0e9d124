//! Aligns tab-separated cells, as Go's `text/tabwriter` does: a column is a run of neighbouring lines that have a
//! tab-terminated cell there, and the last cell of a line belongs to no column.

/// Replaces tabs by spaces so that columns line up. No column is narrower than `min_width`, padding included.
pub(crate) fn align(text: &str, min_width: usize, padding: usize) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut aligner = Aligner { lines: &lines, min_width, padding, widths: Vec::new(), out: String::new() };
    aligner.block(0, lines.len());
    aligner.out
}

struct Aligner<'a> {
    lines: &'a [Vec<&'a str>],
    min_width: usize,
    padding: usize,
    widths: Vec<usize>,
    out: String,
}

impl Aligner<'_> {
    /// Writes the lines `start..end`, whose columns up to `widths` are known.
    fn block(&mut self, start: usize, end: usize) {
        let column = self.widths.len();
        let in_column = |line: usize| column + 1 < self.lines[line].len();
        let mut written = start;
        let mut line = start;
        while line < end {
            if !in_column(line) {
                line += 1;
                continue;
            }
            self.write(written, line);
            written = line;
            let mut width = self.min_width;
            while line < end && in_column(line) {
                width = width.max(self.lines[line][column].chars().count() + self.padding);
                line += 1;
            }
            self.widths.push(width);
            self.block(written, line);
            self.widths.pop();
            written = line;
        }
        self.write(written, end);
    }

    fn write(&mut self, start: usize, end: usize) {
        for line in start..end {
            let cells = &self.lines[line];
            for (column, cell) in cells.iter().enumerate() {
                self.out.push_str(cell);
                if column + 1 < cells.len() {
                    let width = self.widths.get(column).copied().unwrap_or(0);
                    let missing = width.saturating_sub(cell.chars().count());
                    self.out.extend(std::iter::repeat_n(' ', missing));
                }
            }
            if line + 1 < self.lines.len() {
                self.out.push('\n');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::align;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(align("a\tb\tc\naaa\tbbbb\tc\n", 0, 1), "a   b    c\naaa bbbb c\n");
        assert_eq!(align("a\tb\n", 10, 3), "a         b\n");
    }

    #[test]
    fn a_line_without_the_cell_ends_the_column() {
        assert_eq!(align("a\tx\nplain\nlong one\ty\n", 0, 1), "a x\nplain\nlong one y\n");
    }

    #[test]
    fn an_empty_last_cell_leaves_the_padding() {
        assert_eq!(align("a\t\nbb\tc\n", 0, 2), "a   \nbb  c\n");
    }
}
