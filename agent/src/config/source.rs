//! Where the local configuration comes from: a file, a directory of files, one variable, or many.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::env::{CONFIGURATION, Environment};
use super::error::ConfigError;
use super::tree::{Content, Mapping, Source};
use super::yaml;

/// What the local configuration was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file or a directory, with the environment laid over it.
    Path(PathBuf),
    /// `PATRONI_CONFIGURATION`, which is complete by itself.
    Configuration,
    /// The other variables alone.
    Environment,
}

/// A loaded configuration, before anything is made of it.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) origin: Origin,
    pub(super) tree: Mapping,
    pub(super) warnings: Vec<String>,
}

/// Loads the configuration: from `path` if it exists, else from `PATRONI_CONFIGURATION`, else from the other variables.
pub(super) fn load(path: Option<&Path>, environment: &Environment) -> Result<Loaded, ConfigError> {
    let mut warnings = environment.warnings().to_vec();
    if let Some(path) = path.filter(|path| path.exists()) {
        let mut tree = load_path(path, &mut warnings)?;
        tree.patch(environment.tree().clone());
        return Ok(Loaded { origin: Origin::Path(path.to_owned()), tree, warnings });
    }
    if let Some(text) = environment.configuration() {
        let source = Arc::new(Source::Variable(CONFIGURATION.to_owned()));
        let mut tree = Mapping::default();
        if add(&mut tree, text, &source, &mut warnings)? && !tree.is_empty() {
            return Ok(Loaded { origin: Origin::Configuration, tree, warnings });
        }
    }
    Ok(Loaded { origin: Origin::Environment, tree: environment.tree().clone(), warnings })
}

/// Loads a file, or every `*.yml` and `*.yaml` of a directory in the order of their names.
fn load_path(path: &Path, warnings: &mut Vec<String>) -> Result<Mapping, ConfigError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| ConfigError::Unreadable { path, error }
    };
    let kind = fs::metadata(path).map_err(unreadable(path))?;
    let files = if kind.is_file() {
        vec![path.to_owned()]
    } else if kind.is_dir() {
        let mut files = Vec::new();
        for entry in fs::read_dir(path).map_err(unreadable(path))? {
            let file = entry.map_err(unreadable(path))?.path();
            let wanted = file.extension().is_some_and(|extension| extension == "yml" || extension == "yaml");
            if wanted && file.is_file() {
                files.push(file);
            }
        }
        files.sort();
        files
    } else {
        return Err(ConfigError::InvalidPath(path.to_owned()));
    };
    let mut tree = Mapping::default();
    for file in files {
        let bytes = fs::read(&file).map_err(unreadable(&file))?;
        let text = String::from_utf8(bytes).map_err(|_| ConfigError::Unreadable {
            path: file.clone(),
            error: io::Error::new(io::ErrorKind::InvalidData, "the file is not UTF-8"),
        })?;
        let source = Arc::new(Source::File(file));
        if !add(&mut tree, &text, &source, warnings)? {
            return Err(ConfigError::NotAMapping(source.to_string()));
        }
    }
    Ok(tree)
}

/// Patches the document in `text` over `tree`. `false` if it is empty; anything else but a mapping is an error.
fn add(tree: &mut Mapping, text: &str, source: &Arc<Source>, warnings: &mut Vec<String>) -> Result<bool, ConfigError> {
    let document = yaml::parse(text.strip_prefix('\u{feff}').unwrap_or(text), source)?;
    match document.root.content {
        Content::Mapping(mapping) => {
            tree.patch(mapping);
            warnings.extend(document.warnings);
            Ok(true)
        }
        Content::Scalar(serde_json::Value::Null) => Ok(false),
        _ => Err(ConfigError::NotAMapping(source.to_string())),
    }
}
