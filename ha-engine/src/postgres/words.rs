//! Splitting a command line into words as a POSIX shell would, without running one.

/// A quote that is not closed, or a backslash at the very end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbalanced {
    /// A quote is not closed.
    #[error("a quotation is not closed")]
    Quote,
    /// Nothing follows the last backslash.
    #[error("nothing follows the last backslash")]
    Escape,
}

/// Splits `text` into words. Single quotes keep everything, double quotes let a backslash escape `"` and `\`, outside
/// quotes a backslash takes the next character as it is. `#` is an ordinary character.
///
/// # Errors
///
/// A quote is not closed, or nothing follows the last backslash.
pub fn split(text: &str) -> Result<Vec<String>, Unbalanced> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next().ok_or(Unbalanced::Quote)? {
                        '\'' => break,
                        inside => word.push(inside),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next().ok_or(Unbalanced::Quote)? {
                        '"' => break,
                        '\\' => match characters.next().ok_or(Unbalanced::Escape)? {
                            escaped @ ('"' | '\\') => word.push(escaped),
                            other => word.extend(['\\', other]),
                        },
                        inside => word.push(inside),
                    }
                }
            }
            '\\' => {
                let escaped = characters.next().ok_or(Unbalanced::Escape)?;
                word.get_or_insert_default().push(escaped);
            }
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Takes the quotes off a text that is one quoted word; any other text stays as it is.
pub fn unquote(text: &str) -> String {
    match split(text) {
        Ok(words) if words.len() == 1 => words.into_iter().next().unwrap_or_default(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Unbalanced, split, unquote};

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  a  b\t c\n", &["a", "b", "c"]),
            ("'a b' \"c d\"", &["a b", "c d"]),
            (r#"a\ b "c\"d\\e\f" 'g\h'"#, &["a b", r#"c"d\e\f"#, r"g\h"]),
            (r#"--x="y z"'!'"#, &["--x=y z!"]),
            ("'' \"\"", &["", ""]),
            ("a #b", &["a", "#b"]),
        ];
        for (text, words) in cases {
            let expected: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(split(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_closed_is_an_error() {
        assert_eq!(split("a 'b"), Err(Unbalanced::Quote));
        assert_eq!(split("a \"b"), Err(Unbalanced::Quote));
        assert_eq!(split("a \\"), Err(Unbalanced::Escape));
    }

    #[test]
    fn only_one_fully_quoted_word_loses_its_quotes() {
        assert_eq!(unquote("\"bar baz\""), "bar baz");
        assert_eq!(unquote("\"a multi\" \"quoted string\""), "\"a multi\" \"quoted string\"");
        assert_eq!(unquote("unbalanced \"quoted string"), "unbalanced \"quoted string");
        assert_eq!(unquote(""), "");
        assert_eq!(unquote("plain"), "plain");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in any::<String>()) {
            let _ = split(&text);
            let _ = unquote(&text);
        }

        #[test]
        fn a_single_quoted_word_survives(word in "[^']{1,20}") {
            prop_assert_eq!(split(&format!("'{word}'")), Ok(vec![word]));
        }
    }
}
