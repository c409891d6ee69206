//! What `quorate` does with a configuration instead of running it: checking it, and writing one.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::env::Environment;
use super::local::LocalConfig;
use super::sample;
use super::validate::{self, ValidateOptions};

/// `--validate-config`: every finding on stderr, one line each. Exit status 0 if there is none, and then, if `print` is
/// set, the merged local configuration on stdout.
pub fn validate_config(path: Option<&Path>, environment: Environment, options: ValidateOptions, print: bool) -> ExitCode {
    let local = match LocalConfig::load_unchecked(path, environment) {
        Ok(local) => local,
        Err(error) => return failed(&error.to_string()),
    };
    let findings = validate::validate(&local, options);
    if !findings.is_empty() {
        return failed(&findings.join("\n"));
    }
    match print.then(|| io::stdout().write_all(validate::printed(&local).as_bytes())) {
        Some(Err(error)) => failed(&error.to_string()),
        _ => ExitCode::SUCCESS,
    }
}

/// `--generate-sample-config`: into the file `output`, or on stdout.
pub fn generate_sample_config(output: Option<&Path>, environment: &Environment) -> ExitCode {
    let machine = match sample::this_machine(environment) {
        Ok((machine, warning)) => {
            if let Some(line) = warning {
                let _ = writeln!(io::stderr(), "{line}");
            }
            machine
        }
        Err(error) => return failed(&error),
    };
    let text = sample::sample(&machine, environment);
    let written = match output {
        None => io::stdout().write_all(text.as_bytes()),
        Some(path) => path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(path, &text))
            .map_err(|error| io::Error::new(error.kind(), format!("`{}` can't be written: {error}", path.display()))),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{message}");
    ExitCode::FAILURE
}
