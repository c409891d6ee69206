//! Tables drawn with plus, minus and bar, the cluster's title written over the top line.
//!
//! Own code because of that title: it replaces part of the border, and is cut where the table is narrower.
//!
//! ```text
//! + Cluster: demo (771…389) ---+----+
//! | Member | Role    | State   | TL |
//! +--------+---------+---------+----+
//! | pg0    | Leader  | running |  1 |
//! +--------+---------+---------+----+
//! ```

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Which side of its column a cell leans to. The heading leans the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers and positions.
    Right,
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub heading: String,
    /// The side its cells lean to.
    pub align: Align,
}

/// A table to be drawn. A cell may have several lines; then every row is closed by a line.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Written over the top line, after its first character.
    pub title: String,
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows, each with one cell for every column.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Draws the table. Ends in a newline.
    pub fn draw(&self) -> String {
        let widths = self.widths();
        let rule = rule(&widths);
        let between_rows = self.rows.iter().flatten().any(|cell| cell.contains('\n'));

        let mut text = write_over(&rule, &self.title);
        text.push('\n');
        self.draw_line(&mut text, &widths, |index| &self.columns[index].heading);
        text.push_str(&rule);
        text.push('\n');
        for row in &self.rows {
            let height = row.iter().map(|cell| cell.split('\n').count()).max().unwrap_or(1);
            for line in 0..height {
                self.draw_line(&mut text, &widths, |index| row[index].split('\n').nth(line).unwrap_or_default());
            }
            if between_rows {
                text.push_str(&rule);
                text.push('\n');
            }
        }
        if !between_rows {
            text.push_str(&rule);
            text.push('\n');
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let cell_width = |cell: &String| cell.split('\n').map(UnicodeWidthStr::width).max().unwrap_or(0);
        let column_width = |(index, column): (usize, &Column)| {
            let cells = self.rows.iter().map(|row| cell_width(&row[index])).max().unwrap_or(0);
            cells.max(column.heading.width())
        };
        self.columns.iter().enumerate().map(column_width).collect()
    }

    fn draw_line<'a>(&self, text: &mut String, widths: &[usize], cell: impl Fn(usize) -> &'a str) {
        text.push('|');
        for (index, column) in self.columns.iter().enumerate() {
            let content = cell(index);
            let filler = " ".repeat(widths[index].saturating_sub(content.width()));
            let (before, after) = match column.align {
                Align::Left => ("", filler.as_str()),
                Align::Right => (filler.as_str(), ""),
            };
            text.push(' ');
            text.push_str(before);
            text.push_str(content);
            text.push_str(after);
            text.push_str(" |");
        }
        text.push('\n');
    }
}

fn rule(widths: &[usize]) -> String {
    let mut rule = String::from("+");
    for width in widths {
        rule.push_str(&"-".repeat(width + 2));
        rule.push('+');
    }
    rule
}

/// Puts `title` over the line, after its first and before its last character.
fn write_over(rule: &str, title: &str) -> String {
    let room = rule.len().saturating_sub(2);
    let mut used = 0;
    let mut text = String::from("+");
    for character in title.chars() {
        let width = character.width().unwrap_or(0);
        if used + width > room {
            break;
        }
        used += width;
        text.push(character);
    }
    text.push_str(&rule[1 + used..]);
    text
}

#[cfg(test)]
mod tests {
    use super::{Align, Column, Table};

    fn table(title: &str, columns: &[(&str, Align)], rows: &[&[&str]]) -> String {
        let columns = columns.iter().map(|(heading, align)| Column { heading: (*heading).to_owned(), align: *align });
        let rows = rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect());
        Table { title: title.to_owned(), columns: columns.collect(), rows: rows.collect() }.draw()
    }

    #[test]
    fn cells_and_headings_lean_to_the_side_of_their_column() {
        let drawn = table("", &[("Member", Align::Left), ("TL", Align::Right)], &[&["a", "1"], &["bb", "10"]]);
        assert_eq!(drawn, "+--------+----+\n| Member | TL |\n+--------+----+\n| a      |  1 |\n| bb     | 10 |\n+--------+----+\n");
    }

    #[test]
    fn a_table_without_rows_has_its_heading_between_lines() {
        assert_eq!(table("", &[("A", Align::Left)], &[]), "+---+\n| A |\n+---+\n+---+\n");
    }

    #[test]
    fn a_title_is_cut_where_the_table_ends() {
        let drawn = table(" Cluster: demo (1) ", &[("Member", Align::Left)], &[]);
        assert_eq!(drawn.lines().next(), Some("+ Cluster+"));
    }

    #[test]
    fn a_cell_of_several_lines_makes_a_line_after_every_row() {
        let drawn = table("", &[("M", Align::Left), ("T", Align::Left)], &[&["a", "x: 1\ny: 2"], &["b", ""]]);
        let expected = "+---+------+\n| M | T    |\n+---+------+\n| a | x: 1 |\n|   | y: 2 |\n+---+------+\n| b |      |\n+---+------+\n";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn names_that_are_not_ascii_do_not_shift_the_borders() {
        let drawn = table(
            " Cluster: größe ",
            &[("Member", Align::Left), ("State", Align::Left)],
            &[&["größe", "running"], &["日本語の名前", "running"]],
        );
        let widths: Vec<_> = drawn.lines().map(unicode_width::UnicodeWidthStr::width).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{drawn}");
    }
}
