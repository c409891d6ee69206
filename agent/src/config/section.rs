//! Reading typed values out of a merged tree, with errors that name the key and its place.

use std::path::PathBuf;

use ha_engine::settings::{CommandLine, values};
use serde_json::{Map, Value};

use super::error::{KeyError, KeyPlace};
use super::tree::{Places, join};

/// One mapping of the tree, and where it stands.
#[derive(Clone)]
pub(super) struct Section<'a> {
    path: String,
    map: &'a Map<String, Value>,
    places: &'a Places,
}

impl<'a> Section<'a> {
    pub(super) fn root(map: &'a Map<String, Value>, places: &'a Places) -> Self {
        Self { path: String::new(), map, places }
    }

    pub(super) fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// The value of `key`; null counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The mapping under `key`. Unset values (null, empty texts and lists) count as absent.
    pub(super) fn section(&self, key: &str) -> Result<Option<Self>, KeyError> {
        match self.map.get(key) {
            Some(Value::Object(map)) => Ok(Some(Self { path: join(&self.path, key), map, places: self.places })),
            Some(value) if values::is_set(value) => Err(self.wrong_type(key, "a mapping")),
            _ => Ok(None),
        }
    }

    /// The text under `key`; a number or a boolean counts with its text form, the empty text as absent.
    pub(super) fn text(&self, key: &str) -> Result<Option<String>, KeyError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(_) | Value::Object(_)) => Err(self.wrong_type(key, "a text")),
            Some(value) => Ok(Some(values::text(value)).filter(|text| !text.is_empty())),
        }
    }

    pub(super) fn required_text(&self, key: &str) -> Result<String, KeyError> {
        self.text(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn path(&self, key: &str) -> Result<Option<PathBuf>, KeyError> {
        Ok(self.text(key)?.map(PathBuf::from))
    }

    pub(super) fn integer(&self, key: &str) -> Result<Option<i64>, KeyError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match values::int(value, None) {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong_type(key, "a whole number")),
            },
        }
    }

    /// Whether `key` is switched on; absent is off.
    pub(super) fn switch(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(values::switch)
    }

    /// The texts under `key`, a list. A single text is a list of one.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<String>>, KeyError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => items
                .iter()
                .enumerate()
                .map(|(index, item)| match item {
                    Value::Array(_) | Value::Object(_) => Err(self.wrong_type(&join(key, &index.to_string()), "a text")),
                    item => Ok(values::text(item)),
                })
                .collect::<Result<_, _>>()
                .map(Some),
            Some(Value::Object(_)) => Err(self.wrong_type(key, "a list")),
            Some(value) if values::is_set(value) => Ok(Some(vec![values::text(value)])),
            Some(_) => Ok(Some(Vec::new())),
        }
    }

    /// The command under `key`, split into words.
    pub(super) fn command(&self, key: &str) -> Result<Option<CommandLine>, KeyError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match CommandLine::split(&text) {
            Ok(command) => Ok(Some(command)),
            Err(error) => Err(self.error(
                key,
                format!("`{}` is not a command: {error}", join(&self.path, key)),
                Some("it is split into words as a shell would, and run without one".to_owned()),
            )),
        }
    }

    pub(super) fn missing(&self, key: &str) -> KeyError {
        let path = join(&self.path, key);
        let variable = variable_of(&path);
        let add = match self.path.as_str() {
            "" => format!("add `{key}:` to the configuration file"),
            section => format!("add `{key}:` to the section `{section}:` of the configuration file"),
        };
        let hint = match variable {
            Some(variable) => format!("{add}, or set {variable}"),
            None => add,
        };
        let place = self.places.nearest(&path).cloned().or_else(|| self.places.first_source());
        KeyError {
            problem: format!("`{path}` is not defined"),
            key: path,
            place: place.map_or(KeyPlace::Unknown, KeyPlace::Local),
            hint: Some(hint),
        }
    }

    pub(super) fn wrong_type(&self, key: &str, wanted: &str) -> KeyError {
        let path = join(&self.path, key);
        let found = match self.map.get(key) {
            Some(Value::Null) => "null",
            Some(Value::Bool(_)) => "a boolean",
            Some(Value::Number(_)) => "a number",
            Some(Value::Array(_)) => "a list",
            Some(Value::Object(_)) => "a mapping",
            Some(Value::String(_)) => "another text",
            None => "something else",
        };
        self.error(key, format!("`{path}` must be {wanted}, but it is {found}"), None)
    }

    /// An error about the value of `key`.
    pub(super) fn error(&self, key: &str, problem: String, hint: Option<String>) -> KeyError {
        let path = join(&self.path, key);
        let dynamic = path.starts_with("postgresql.") && !path.starts_with("postgresql.authentication");
        let place = match (self.places.exact(&path), self.places.nearest(&path)) {
            (Some(place), _) => KeyPlace::Local(place.clone()),
            (None, _) if dynamic => KeyPlace::Dynamic,
            (None, Some(place)) => KeyPlace::Local(place.clone()),
            (None, None) => KeyPlace::Unknown,
        };
        KeyError { key: path, place, problem, hint }
    }
}

/// The variable that sets `path`, for those that are asked for most.
fn variable_of(path: &str) -> Option<&'static str> {
    Some(match path {
        "scope" => "PATRONI_SCOPE",
        "name" => "PATRONI_NAME",
        "restapi.listen" => "PATRONI_RESTAPI_LISTEN",
        "postgresql.listen" => "PATRONI_POSTGRESQL_LISTEN",
        "postgresql.data_dir" => "PATRONI_POSTGRESQL_DATA_DIR",
        "restapi.authentication.username" => "PATRONI_RESTAPI_USERNAME",
        "restapi.authentication.password" => "PATRONI_RESTAPI_PASSWORD",
        "ctl.authentication.username" => "PATRONI_CTL_USERNAME",
        "ctl.authentication.password" => "PATRONI_CTL_PASSWORD",
        _ => return None,
    })
}
