//! Writing YAML as people see it: `show-config`, `edit-config`, `list -f yaml`, the Tags column, and an agent's `--print` and
//! `--generate-sample-config`.
//!
//! Scripts and eyes compare these texts with what Patroni's tool prints, which is PyYAML's `safe_dump` with
//! `allow_unicode` and a width of 200. So this writer makes PyYAML's choices: keys sorted, lists not indented below their
//! key, plain text where YAML 1.1 reads it back as the same string, quotes elsewhere, folding at the first blank after
//! column 200. A string such as `on` is quoted, because YAML 1.1 reads it as true.

mod resolve;
mod scalar;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

pub use self::resolve::float_text;
use self::scalar::{Position, Shape};

/// The column after which text is folded.
const WIDTH: usize = 200;
/// Columns by which each level is indented.
const STEP: usize = 2;
/// Keys this long (with PyYAML's four or five characters of type tag) take the long form `? key`.
const LONGEST_SIMPLE_KEY: usize = 128;

/// Block style: one entry a line, nested objects indented. Ends in a newline.
pub fn block(value: &Value) -> String {
    write(value, false)
}

/// Flow style on one line (`{a: 1, b: true}`), as far as the width allows. Ends in a newline.
pub fn flow(value: &Value) -> String {
    write(value, true)
}

fn write(value: &Value, flow: bool) -> String {
    let mut emitter = Emitter::default();
    emitter.node(value, Place::Root, flow);
    emitter.line_break();
    if emitter.open_ended {
        emitter.text.push_str("...\n");
    }
    emitter.text
}

/// Where a node stands; decides about line breaks and quoting.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Item,
    Key,
    Value,
}

/// The text so far, and what the layout rules need to know about its end.
struct Emitter {
    text: String,
    /// Characters in the current line.
    column: usize,
    /// Indentation of the current collection; nothing at the root.
    indent: Option<usize>,
    /// Whether the line holds nothing but indentation and `-` or `?` marks.
    indention: bool,
    /// Whether the last character separates tokens.
    whitespace: bool,
    /// How many flow collections are open.
    flow_depth: usize,
    /// Whether the document is a bare plain scalar, which PyYAML ends with `...`.
    open_ended: bool,
}

impl Default for Emitter {
    fn default() -> Self {
        Self { text: String::new(), column: 0, indent: None, indention: true, whitespace: true, flow_depth: 0, open_ended: false }
    }
}

impl Emitter {
    fn node(&mut self, value: &Value, place: Place, flow: bool) {
        match value {
            Value::Object(map) if flow || self.flow_depth > 0 || map.is_empty() => self.flow_mapping(map),
            Value::Array(list) if flow || self.flow_depth > 0 || list.is_empty() => self.flow_sequence(list),
            Value::Object(map) => self.block_mapping(map),
            Value::Array(list) => self.block_sequence(list, place),
            Value::Null => self.plain_word("null", place),
            Value::Bool(true) => self.plain_word("true", place),
            Value::Bool(false) => self.plain_word("false", place),
            Value::Number(number) => self.plain_word(&resolve::number_text(number), place),
            Value::String(text) => self.string(text, place),
        }
    }

    fn block_mapping(&mut self, map: &Map<String, Value>) {
        let outer = self.deepen(false);
        for (key, value) in sorted(map) {
            self.new_line();
            if fits_before_colon(key) {
                self.string(key, Place::Key);
                self.mark(":", false, false, false);
            } else {
                self.mark("?", true, false, true);
                self.string(key, Place::Value);
                self.new_line();
                self.mark(":", true, false, true);
            }
            self.node(value, Place::Value, false);
        }
        self.indent = outer;
    }

    fn block_sequence(&mut self, list: &[Value], place: Place) {
        // A list that is the value of a key starts on its own line, in the column of the key.
        let hangs_below_key = place == Place::Value && !self.indention;
        let outer = if hangs_below_key { self.indent } else { self.deepen(false) };
        for item in list {
            self.new_line();
            self.mark("-", true, false, true);
            self.node(item, Place::Item, false);
        }
        self.indent = outer;
    }

    fn flow_mapping(&mut self, map: &Map<String, Value>) {
        let outer = self.open("{");
        for (index, (key, value)) in sorted(map).into_iter().enumerate() {
            self.separate(index);
            if fits_before_colon(key) {
                self.string(key, Place::Key);
                self.mark(":", false, false, false);
            } else {
                self.mark("?", true, false, false);
                self.string(key, Place::Value);
                if self.column > WIDTH {
                    self.new_line();
                }
                self.mark(":", true, false, false);
            }
            self.node(value, Place::Value, true);
        }
        self.close("}", outer);
    }

    fn flow_sequence(&mut self, list: &[Value]) {
        let outer = self.open("[");
        for (index, item) in list.iter().enumerate() {
            self.separate(index);
            self.node(item, Place::Item, true);
        }
        self.close("]", outer);
    }

    fn open(&mut self, bracket: &str) -> Option<usize> {
        self.mark(bracket, true, true, false);
        self.flow_depth += 1;
        self.deepen(true)
    }

    fn separate(&mut self, index: usize) {
        if index > 0 {
            self.mark(",", false, false, false);
        }
        if self.column > WIDTH {
            self.new_line();
        }
    }

    fn close(&mut self, bracket: &str, outer: Option<usize>) {
        self.indent = outer;
        self.flow_depth -= 1;
        self.mark(bracket, false, false, false);
    }

    /// Goes one level in; returns the level to come back to.
    fn deepen(&mut self, flow: bool) -> Option<usize> {
        let outer = self.indent;
        self.indent = Some(match outer {
            Some(indent) => indent + STEP,
            None if flow => STEP,
            None => 0,
        });
        outer
    }

    fn plain_word(&mut self, word: &str, place: Place) {
        let outer = self.deepen(true);
        self.plain(word, place == Place::Key);
        self.indent = outer;
        self.open_ended = place == Place::Root;
    }

    fn string(&mut self, text: &str, place: Place) {
        let outer = self.deepen(true);
        let position = Position { key: place == Place::Key, flow: self.flow_depth > 0 };
        match scalar::shape(text, position) {
            Shape::Plain => {
                self.plain(text, place == Place::Key);
                self.open_ended = place == Place::Root;
            }
            Shape::Single => self.single_quoted(text, place == Place::Key),
            Shape::Double => self.double_quoted(text, place == Place::Key),
        }
        self.indent = outer;
    }

    /// Writes one of YAML's marks, with a blank before it if `spaced` and none is there.
    fn mark(&mut self, mark: &str, spaced: bool, ends_token: bool, keeps_indention: bool) {
        if spaced && !self.whitespace {
            self.put(" ");
        }
        self.put(mark);
        self.whitespace = ends_token;
        self.indention = self.indention && keeps_indention;
    }

    /// Goes to the indentation of the current level, on this line if nothing but indentation is on it yet.
    fn new_line(&mut self) {
        let indent = self.indent.unwrap_or(0);
        if !self.indention || self.column > indent || (self.column == indent && !self.whitespace) {
            self.line_break();
        }
        if self.column < indent {
            self.whitespace = true;
            let blanks = " ".repeat(indent - self.column);
            self.put(&blanks);
        }
    }

    fn line_break(&mut self) {
        self.break_with('\n');
    }

    fn break_with(&mut self, separator: char) {
        self.text.push(separator);
        self.column = 0;
        self.whitespace = true;
        self.indention = true;
    }

    fn put(&mut self, text: &str) {
        self.text.push_str(text);
        self.column += text.chars().count();
    }

    /// A scalar without quotes. Holds no line breaks: those are always quoted.
    fn plain(&mut self, text: &str, is_key: bool) {
        if !self.whitespace {
            self.put(" ");
        }
        self.whitespace = false;
        self.indention = false;
        for piece in scalar::words(text) {
            let folds = piece == " " && !is_key && self.column > WIDTH;
            if folds {
                self.new_line();
                self.whitespace = false;
                self.indention = false;
            } else {
                self.put(piece);
            }
        }
    }

    fn single_quoted(&mut self, text: &str, is_key: bool) {
        self.mark("'", true, false, false);
        let mut at = 0;
        for piece in scalar::words(text) {
            let inside = at > 0 && at + piece.len() < text.len();
            at += piece.len();
            if piece.starts_with(scalar::is_break) {
                // One break alone would be read back as a blank, so the first one is doubled.
                if piece.starts_with('\n') {
                    self.line_break();
                }
                piece.chars().for_each(|separator| self.break_with(separator));
                self.new_line();
            } else if piece == " " && !is_key && inside && self.column > WIDTH {
                self.new_line();
            } else {
                self.put(&piece.replace('\'', "''"));
            }
        }
        self.mark("'", false, false, false);
    }

    fn double_quoted(&mut self, text: &str, is_key: bool) {
        self.mark("\"", true, false, false);
        let characters: Vec<char> = text.chars().collect();
        // Characters from `start` on are not written yet.
        let mut start = 0;
        for (end, &character) in characters.iter().enumerate() {
            let escape = scalar::escape(character);
            if let Some(escape) = &escape {
                self.put_run(&characters[start..end]);
                self.put(escape);
                start = end + 1;
            }
            let may_fold = 0 < end && end + 1 < characters.len() && !is_key;
            if may_fold && (character == ' ' || start >= end) && self.column + end > WIDTH + start {
                if start < end {
                    self.put_run(&characters[start..end]);
                    start = end;
                }
                self.put("\\");
                self.new_line();
                self.whitespace = false;
                self.indention = false;
                if characters[start] == ' ' {
                    self.put("\\");
                }
            }
        }
        self.put_run(&characters[start..]);
        self.mark("\"", false, false, false);
    }

    fn put_run(&mut self, run: &[char]) {
        self.text.extend(run);
        self.column += run.len();
    }
}

fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
}

fn fits_before_colon(key: &str) -> bool {
    const TYPE_TAG: usize = "!!str".len();
    !key.is_empty() && !key.contains(scalar::is_break) && key.chars().count() + TYPE_TAG < LONGEST_SIMPLE_KEY
}
