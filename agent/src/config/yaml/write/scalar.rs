//! How one string may be written: bare, in single or in double quotes.

use super::resolve;

/// Where a string stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// It is the key of a mapping, on one line with its value.
    pub key: bool,
    /// It stands inside `{}` or `[]`.
    pub flow: bool,
}

/// How a string is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// As it is.
    Plain,
    /// `'like this'`.
    Single,
    /// `"like this"`, with escapes.
    Double,
}

/// What in a string forbids which shape.
#[derive(Default)]
struct Traits {
    outer_blank: bool,
    blank_before_break: bool,
    blank_after_break: bool,
    breaks: bool,
    unprintable: bool,
    /// Would end or begin something outside `{}` and `[]`.
    block_mark: bool,
    /// Would end or begin something inside `{}` and `[]`.
    flow_mark: bool,
}

/// Chooses the simplest shape that reads back as the same string.
pub(super) fn shape(text: &str, position: Position) -> Shape {
    if text.is_empty() {
        return Shape::Single;
    }
    let traits = examine(text);
    let marked = if position.flow { traits.flow_mark } else { traits.block_mark };
    let quote_free =
        !(marked || traits.outer_blank || traits.blank_before_break || traits.blank_after_break || traits.breaks || traits.unprintable);
    let single_quotable = !(traits.blank_before_break || traits.blank_after_break || traits.unprintable);
    if quote_free && resolve::reads_as_string(text) {
        Shape::Plain
    } else if single_quotable && !(position.key && traits.breaks) {
        Shape::Single
    } else {
        Shape::Double
    }
}

fn examine(text: &str) -> Traits {
    let mut traits = Traits::default();
    if text.starts_with("---") || text.starts_with("...") {
        traits.block_mark = true;
        traits.flow_mark = true;
    }
    let characters: Vec<char> = text.chars().collect();
    let last = characters.len() - 1;
    for (index, &character) in characters.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| characters[before]);
        let blank_before = before.is_none_or(separates);
        let blank_after = characters.get(index + 1).copied().is_none_or(separates);
        let (block, flow) = marks(character, index == 0, blank_before, blank_after);
        traits.block_mark |= block;
        traits.flow_mark |= flow;
        traits.unprintable |= !printable(character);
        let outer = index == 0 || index == last;
        if character == ' ' {
            traits.outer_blank |= outer;
            traits.blank_after_break |= before.is_some_and(is_break);
        } else if is_break(character) {
            traits.breaks = true;
            traits.outer_blank |= outer;
            traits.blank_before_break |= before == Some(' ');
        }
    }
    traits
}

/// Whether the character means something to YAML there: outside, and inside of flow collections.
fn marks(character: char, first: bool, blank_before: bool, blank_after: bool) -> (bool, bool) {
    match character {
        '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' if first => (true, true),
        '-' if first => (blank_after, blank_after),
        '?' if first => (blank_after, true),
        ':' => (blank_after, true),
        ',' | '?' | '[' | ']' | '{' | '}' => (false, true),
        '#' => (blank_before, blank_before),
        _ => (false, false),
    }
}

/// Whether it is one of YAML's line breaks.
pub(super) fn is_break(character: char) -> bool {
    matches!(character, '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn separates(character: char) -> bool {
    is_break(character) || matches!(character, '\0' | ' ' | '\t' | '\r')
}

/// Whether it may stand unescaped. The very last code point counts as unprintable, as in PyYAML; so do, other than there,
/// the line breaks that YAML 1.2 no longer knows: a reader of that version does not see where the line ends.
fn printable(character: char) -> bool {
    let unicode = matches!(character, '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10fffe}')
        && character != '\u{feff}';
    unicode || matches!(character, '\n' | ' '..='~')
}

/// What stands for the character between double quotes; nothing if it stands for itself.
pub(super) fn escape(character: char) -> Option<String> {
    let short = match character {
        '\0' => '0',
        '\u{7}' => 'a',
        '\u{8}' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\u{b}' => 'v',
        '\u{c}' => 'f',
        '\r' => 'r',
        '\u{1b}' => 'e',
        '"' => '"',
        '\\' => '\\',
        '\u{85}' => 'N',
        '\u{2028}' => 'L',
        '\u{2029}' => 'P',
        ' '..='~' => return None,
        '\u{feff}' => return Some("\\uFEFF".to_owned()),
        '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' => return None,
        other => {
            let code = u32::from(other);
            return Some(match code {
                0..=0xff => format!("\\x{code:02X}"),
                0x100..=0xffff => format!("\\u{code:04X}"),
                _ => format!("\\U{code:08X}"),
            });
        }
    };
    Some(format!("\\{short}"))
}

/// Cuts the text into runs of blanks, runs of line breaks and runs of anything else. A single blank is its own piece, so
/// that a line can be folded there.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    let class = |character: char| match character {
        ' ' => 0,
        _ if is_break(character) => 1,
        _ => 2,
    };
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = class(rest.chars().next()?);
        let end = rest.find(|character| class(character) != first).unwrap_or(rest.len());
        let (piece, tail) = rest.split_at(end);
        rest = tail;
        Some(piece)
    })
}
