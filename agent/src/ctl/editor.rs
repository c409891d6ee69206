//! The programs that people edit and read with.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::failure::Failure;

/// Where editors and pagers are looked for.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// `$EDITOR`.
    pub editor: Option<OsString>,
    /// `$PAGER`.
    pub pager: Option<OsString>,
    /// Whether `$LESS` says how the pager behaves.
    pub less_is_configured: bool,
    /// Whether `$NO_COLOR` asks for plain text.
    pub no_colour: bool,
    /// `$PATH`.
    pub path: Option<OsString>,
}

/// A text that a person has edited. The file vanishes with this value, unless it is kept.
#[derive(Debug)]
pub struct Edited {
    /// The text.
    pub text: String,
    file: NamedTempFile,
}

impl Edited {
    /// Keeps the file, so that nobody's work is lost, and says where it is.
    ///
    /// # Errors
    ///
    /// It cannot be kept.
    pub fn keep(self) -> Result<PathBuf, Failure> {
        let kept = self.file.keep().map_err(|error| Failure::error(format!("the edited text is lost: {error}")))?;
        Ok(kept.1)
    }
}

impl Programs {
    /// Those of this process's environment.
    pub fn of_this_process() -> Self {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        Self {
            editor: set("EDITOR"),
            pager: set("PAGER"),
            less_is_configured: set("LESS").is_some(),
            no_colour: set("NO_COLOR").is_some(),
            path: set("PATH"),
        }
    }

    /// Has the user edit `text`. Only the user can read the file.
    ///
    /// # Errors
    ///
    /// There is no editor, it fails, or the file cannot be written or read.
    pub async fn edit(&self, text: &str, name_prefix: &str) -> Result<Edited, Failure> {
        let fallback = || ["editor", "vi"].into_iter().find_map(|name| self.find(Path::new(name)));
        let editor = self
            .editor
            .clone()
            .map(PathBuf::from)
            .or_else(fallback)
            .ok_or_else(|| Failure::error("EDITOR environment variable is not set. editor or vi are not available"))?;
        let trouble = |error: io::Error| Failure::error(format!("the file to be edited: {error}"));
        let file = tempfile::Builder::new().prefix(name_prefix).suffix(".yaml").tempfile().map_err(trouble)?;
        fs::write(file.path(), text).map_err(trouble)?;

        let status = Command::new(&editor)
            .arg(file.path())
            .kill_on_drop(true)
            .status()
            .await
            .map_err(|error| Failure::error(format!("the editor `{}` cannot be started: {error}", editor.display())))?;
        if !status.success() {
            // A signal has a negative number, as in Python.
            let code = status.code().unwrap_or_else(|| -std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(1));
            return Err(Failure::error(format!("Editor exited with return code {code}")));
        }
        // An editor may have put a new file in the place of ours.
        let text = fs::read_to_string(file.path()).map_err(trouble)?;
        Ok(Edited { text, file })
    }

    /// Shows `text` through the pager.
    ///
    /// # Errors
    ///
    /// There is no pager, or it cannot be started.
    pub async fn page(&self, text: &str) -> Result<(), Failure> {
        let wanted = self.pager.as_deref().map(PathBuf::from);
        let candidates = wanted.into_iter().chain([PathBuf::from("less"), PathBuf::from("more")]);
        let pager = candidates.into_iter().find_map(|name| self.find(&name)).ok_or_else(|| {
            Failure::error(
                "No pager could be found. Either set PAGER environment variable with your pager or install either \
                 \"less\" or \"more\" in the host.",
            )
        })?;
        let mut command = Command::new(&pager);
        if pager.file_name().is_some_and(|name| name == "less") && !self.less_is_configured {
            command.arg("-FRSX");
        }
        let started = command.stdin(Stdio::piped()).kill_on_drop(true).spawn();
        let mut child = started.map_err(|error| Failure::error(format!("the pager `{}` cannot be started: {error}", pager.display())))?;
        if let Some(mut input) = child.stdin.take() {
            // A pager that was quit early does not want the rest.
            let _ = input.write_all(text.as_bytes()).await;
        }
        let _ = child.wait().await;
        Ok(())
    }

    /// The executable file called `name`: a path as it is, a bare name in `$PATH`.
    fn find(&self, name: &Path) -> Option<PathBuf> {
        let executable = |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        if name.components().count() > 1 || name.is_absolute() {
            return Some(name.to_owned()).filter(executable);
        }
        env::split_paths(self.path.as_ref()?).map(|directory| directory.join(name)).find(executable)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::Programs;

    /// A program in a directory of its own, which is the whole `$PATH` of the answer.
    fn program(directory: &tempfile::TempDir, name: &str, script: &str) -> Programs {
        let path = directory.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("the directory is writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
        Programs { path: Some(directory.path().as_os_str().to_owned()), ..Programs::default() }
    }

    #[tokio::test]
    async fn the_edited_file_is_private_and_vanishes() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let programs = program(&directory, "vi", "stat -c '%a %n' \"$1\" > \"$0.saw\" && echo 'b: 2' >> \"$1\"");
        let edited = programs.edit("a: 1\n", "demo-config-").await.expect("it was edited");
        assert_eq!(edited.text, "a: 1\nb: 2\n");

        let saw = fs::read_to_string(directory.path().join("vi.saw")).expect("the editor ran");
        let (mode, path) = saw.trim().split_once(' ').expect("mode and path");
        assert_eq!(mode, "600");
        assert!(path.contains("/demo-config-") && path.ends_with(".yaml"), "{path}");
        drop(edited);
        assert!(!std::path::Path::new(path).exists());
    }

    #[tokio::test]
    async fn the_file_vanishes_with_an_editor_that_fails() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let programs = program(&directory, "editor", "echo \"$1\" > \"$0.saw\"; exit 3");
        let failure = programs.edit("a: 1\n", "x-").await.map(|_| ()).expect_err("it failed");
        assert_eq!(failure.to_string(), "Editor exited with return code 3");
        let saw = fs::read_to_string(directory.path().join("editor.saw")).expect("the editor ran");
        assert!(!std::path::Path::new(saw.trim()).exists());
    }

    #[tokio::test]
    async fn missing_programs_are_named() {
        let nothing = Programs::default();
        let failure = nothing.edit("", "x-").await.map(|_| ()).expect_err("no editor");
        assert_eq!(failure.to_string(), "EDITOR environment variable is not set. editor or vi are not available");
        let failure = nothing.page("").await.expect_err("no pager");
        assert!(failure.to_string().starts_with("No pager could be found. Either set PAGER"), "{failure}");
    }

    #[tokio::test]
    async fn less_gets_its_usual_options() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let programs = program(&directory, "less", "(echo \"$@\"; cat) > \"$0.saw\"");
        programs.page("text").await.expect("it was shown");
        let saw = fs::read_to_string(directory.path().join("less.saw")).expect("the pager ran");
        assert_eq!(saw, "-FRSX\ntext");
    }
}
