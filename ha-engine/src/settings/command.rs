//! Commands as configured: split like a shell splits words, and run without one.

use crate::postgres::words::{self, Unbalanced};

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
    /// It cannot be split into words.
    #[error(transparent)]
    Unbalanced(#[from] Unbalanced),
}

impl CommandLine {
    /// Splits `text` into a program and its arguments, by the rules of [`words::split`].
    ///
    /// # Errors
    ///
    /// There is no word, a quotation is not closed, or nothing follows the last backslash.
    pub fn split(text: &str) -> Result<Self, NotACommand> {
        let mut words = words::split(text)?.into_iter();
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
    fn what_has_no_program_is_refused() {
        assert!(matches!(CommandLine::split("a 'b"), Err(NotACommand::Unbalanced(_))));
        assert_eq!(CommandLine::split("  "), Err(NotACommand::Empty));
        assert_eq!(CommandLine::split("'' a"), Err(NotACommand::Empty));
    }
}
