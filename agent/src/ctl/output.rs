//! The output formats that lists share.

use serde_json::{Map, Value};

use super::python;
use super::table::{Align, Column, Table};
use crate::config::yaml;

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A table.
    #[default]
    Pretty,
    /// The same table, with the members as a tree.
    Topology,
    /// Values separated by tabs.
    Tsv,
    /// One line of JSON.
    Json,
    /// YAML.
    Yaml,
}

impl Format {
    /// Whether it is a table for people, with a title and a footer.
    pub fn is_drawn(self) -> bool {
        matches!(self, Self::Pretty | Self::Topology)
    }
}

/// Whether values that are the empty string appear in JSON and YAML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptyValues {
    /// They do.
    Kept,
    /// They and their keys are left out.
    LeftOut,
}

/// Rows of values below headings.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The title of a drawn table.
    pub title: String,
    /// Headings, with the side that their column leans to.
    pub columns: Vec<(&'static str, Align)>,
    /// One value for each column.
    pub rows: Vec<Vec<Value>>,
}

impl Listing {
    /// The list as text, ending in a newline.
    pub fn render(&self, format: Format, empty: EmptyValues) -> String {
        match format {
            Format::Pretty | Format::Topology => self.draw(),
            Format::Tsv => self.separated_by("\t"),
            Format::Json => format!("{}\n", python::json(&self.objects(empty))),
            Format::Yaml => format!("{}\n", yaml::block(&self.objects(empty))),
        }
    }

    fn draw(&self) -> String {
        let column = |(heading, align): &(&'static str, Align)| Column { heading: (*heading).to_owned(), align: *align };
        Table {
            title: self.title.clone(),
            columns: self.columns.iter().map(column).collect(),
            rows: self.rows.iter().map(|row| row.iter().map(python::text).collect()).collect(),
        }
        .draw()
    }

    fn separated_by(&self, delimiter: &str) -> String {
        let headings: Vec<_> = self.columns.iter().map(|(heading, _)| *heading).collect();
        let mut text = headings.join(delimiter);
        text.push('\n');
        for row in &self.rows {
            text.push_str(&row.iter().map(python::text).collect::<Vec<_>>().join(delimiter));
            text.push('\n');
        }
        text
    }

    fn objects(&self, empty: EmptyValues) -> Value {
        let shown = |value: &Value| empty == EmptyValues::Kept || value.as_str() != Some("");
        let object = |row: &Vec<Value>| {
            let headings = self.columns.iter().map(|(heading, _)| (*heading).to_owned());
            let entries = headings.zip(row.iter().cloned()).filter(|(_, value)| shown(value));
            Value::Object(entries.collect::<Map<_, _>>())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{EmptyValues, Format, Listing};
    use crate::ctl::table::Align;

    fn listing(rows: Vec<Vec<serde_json::Value>>) -> Listing {
        Listing { title: String::new(), columns: vec![("TL", Align::Right), ("Reason", Align::Left)], rows }
    }

    #[test]
    fn an_empty_list_has_its_own_text_in_every_format() {
        let empty = listing(Vec::new());
        for (format, text) in [
            (Format::Pretty, "+----+--------+\n| TL | Reason |\n+----+--------+\n+----+--------+\n"),
            (Format::Tsv, "TL\tReason\n"),
            (Format::Json, "[]\n"),
            (Format::Yaml, "[]\n\n"),
        ] {
            assert_eq!(empty.render(format, EmptyValues::Kept), text);
        }
    }

    #[test]
    fn empty_values_are_kept_or_left_out() {
        let listing = listing(vec![vec![json!(1), json!("")]]);
        assert_eq!(listing.render(Format::Json, EmptyValues::Kept), "[{\"TL\": 1, \"Reason\": \"\"}]\n");
        assert_eq!(listing.render(Format::Json, EmptyValues::LeftOut), "[{\"TL\": 1}]\n");
        assert_eq!(listing.render(Format::Tsv, EmptyValues::LeftOut), "TL\tReason\n1\t\n");
        assert_eq!(listing.render(Format::Yaml, EmptyValues::Kept), "- Reason: ''\n  TL: 1\n\n");
    }
}
