//! Commands as configured: split like a shell splits words, and run without one.

/// A program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The program.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// A text is not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotACommand {
    /// There is no word in it.
    #[error("it is empty")]
    Empty,
    /// A quote is never closed.
    #[error("a quotation mark is not closed")]
    OpenQuote,
    /// Nothing follows the last backslash.
    #[error("nothing follows the last backslash")]
    OpenEscape,
}

impl CommandLine {
    /// Splits `text` into a program and its arguments: blanks separate, single quotes keep everything, double quotes let
    /// a backslash escape `"` and `\`, and outside of quotes a backslash escapes anything.
    ///
    /// # Errors
    ///
    /// There is no word, a quotation mark is not closed, or nothing follows the last backslash.
    pub fn split(text: &str) -> Result<Self, NotACommand> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut rest = text.chars();
        while let Some(character) = rest.next() {
            match character {
                ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
                '\'' => {
                    let word = word.get_or_insert_default();
                    loop {
                        match rest.next().ok_or(NotACommand::OpenQuote)? {
                            '\'' => break,
                            inside => word.push(inside),
                        }
                    }
                }
                '"' => {
                    let word = word.get_or_insert_default();
                    loop {
                        match rest.next().ok_or(NotACommand::OpenQuote)? {
                            '"' => break,
                            '\\' => match rest.next().ok_or(NotACommand::OpenEscape)? {
                                escaped @ ('"' | '\\') => word.push(escaped),
                                other => word.extend(['\\', other]),
                            },
                            inside => word.push(inside),
                        }
                    }
                }
                '\\' => word.get_or_insert_default().push(rest.next().ok_or(NotACommand::OpenEscape)?),
                plain => word.get_or_insert_default().push(plain),
            }
        }
        words.extend(word);
        let mut words = words.into_iter();
        let program = words.next().filter(|program| !program.is_empty()).ok_or(NotACommand::Empty)?;
        Ok(Self { program, arguments: words.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::{CommandLine, NotACommand};

    #[test]
    fn words_are_split_like_a_shell_does() {
        let command = CommandLine::split(r#"/bin/run "a b" 'c "d' e\ f g"h"i '' "x\"y\z""#).expect("balanced");
        assert_eq!(command.program, "/bin/run");
        assert_eq!(command.arguments, ["a b", "c \"d", "e f", "ghi", "", "x\"y\\z"]);
    }

    #[test]
    fn what_is_not_closed_is_refused() {
        assert_eq!(CommandLine::split("a 'b"), Err(NotACommand::OpenQuote));
        assert_eq!(CommandLine::split("a \"b"), Err(NotACommand::OpenQuote));
        assert_eq!(CommandLine::split("a b\\"), Err(NotACommand::OpenEscape));
        assert_eq!(CommandLine::split("  "), Err(NotACommand::Empty));
        assert_eq!(CommandLine::split("'' a"), Err(NotACommand::Empty));
    }
}
