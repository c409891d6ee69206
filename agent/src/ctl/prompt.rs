//! The conversation with the user: lines out, prompts, answers in.
//!
//! Prompts go to standard output and take answers from wherever standard input comes from, because scripts pipe them in.

use std::io::{self, Read, Write};

use async_trait::async_trait;

use super::failure::Failure;

/// Where answers come from.
#[async_trait]
pub trait Answers: Send {
    /// The next line without its end; nothing at the end of input.
    async fn line(&mut self) -> io::Result<Option<String>>;

    /// Everything that is left.
    async fn rest(&mut self) -> io::Result<String>;
}

/// Standard input. It is read on a thread of its own, so that an interrupt ends the tool while it waits.
#[derive(Debug, Default)]
pub struct StandardInput;

#[async_trait]
impl Answers for StandardInput {
    async fn line(&mut self) -> io::Result<Option<String>> {
        let read = || io::stdin().lines().next().transpose();
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }

    async fn rest(&mut self) -> io::Result<String> {
        let read = || {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map(|_| text)
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }
}

/// Standard output, and the answers to what was asked there.
pub struct Console {
    out: Box<dyn Write + Send>,
    is_terminal: bool,
    answers: Box<dyn Answers>,
}

impl Console {
    /// A conversation over the given output and answers.
    pub fn new(out: Box<dyn Write + Send>, is_terminal: bool, answers: Box<dyn Answers>) -> Self {
        Self { out, is_terminal, answers }
    }

    /// Standard output and standard input.
    pub fn standard() -> Self {
        let is_terminal = io::IsTerminal::is_terminal(&io::stdout());
        Self::new(Box::new(io::stdout()), is_terminal, Box::new(StandardInput))
    }

    /// Whether a person sees the output directly.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Writes one line.
    ///
    /// # Errors
    ///
    /// The output cannot be written.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.write(&format!("{}\n", text.as_ref()))
    }

    /// Writes text that has its own line ends.
    ///
    /// # Errors
    ///
    /// As for [`Console::line`].
    pub fn write(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Clears the screen, if the output is one.
    ///
    /// # Errors
    ///
    /// As for [`Console::line`].
    pub fn clear(&mut self) -> Result<(), Failure> {
        if self.is_terminal { self.write("\x1b[2J\x1b[1;1H") } else { Ok(()) }
    }

    /// Asks for a value. An empty answer is the default; without a default the question is asked again.
    ///
    /// # Errors
    ///
    /// [`Failure::Aborted`] at the end of input.
    pub async fn ask(&mut self, question: &str, default: Option<&str>) -> Result<String, Failure> {
        let prompt = match default {
            Some(default) => format!("{question} [{default}]: "),
            None => format!("{question}: "),
        };
        loop {
            let answer = self.answer(&prompt).await?;
            if !answer.is_empty() {
                return Ok(answer);
            }
            if let Some(default) = default {
                return Ok(default.to_owned());
            }
        }
    }

    /// Asks for a number until one is given.
    ///
    /// # Errors
    ///
    /// As for [`Console::ask`].
    pub async fn ask_number(&mut self, question: &str) -> Result<u32, Failure> {
        loop {
            let answer = self.ask(question, None).await?;
            match answer.trim().parse() {
                Ok(number) => return Ok(number),
                Err(_) => self.line(format!("Error: '{answer}' is not a valid integer."))?,
            }
        }
    }

    /// Asks a yes-or-no question; an empty answer is no. Anything that is neither is asked again.
    ///
    /// # Errors
    ///
    /// As for [`Console::ask`].
    pub async fn confirm(&mut self, question: &str) -> Result<bool, Failure> {
        let prompt = format!("{question} [y/N]: ");
        loop {
            match self.answer(&prompt).await?.trim().to_lowercase().as_str() {
                "y" | "yes" => return Ok(true),
                "n" | "no" | "" => return Ok(false),
                _ => self.line("Error: invalid input")?,
            }
        }
    }

    /// Everything that is left of the input.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is not text.
    pub async fn rest_of_input(&mut self) -> io::Result<String> {
        self.answers.rest().await
    }

    async fn answer(&mut self, prompt: &str) -> Result<String, Failure> {
        self.write(prompt)?;
        match self.answers.line().await {
            Ok(Some(line)) => Ok(line),
            // Input that cannot be read, or is not text, is no answer either.
            Ok(None) | Err(_) => Err(Failure::Aborted),
        }
    }
}
