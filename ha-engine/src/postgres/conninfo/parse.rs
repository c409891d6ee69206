//! Reading connection strings as libpq does.

use std::collections::BTreeMap;

use super::ConnInfo;

pub(super) fn parse(text: &str) -> Option<ConnInfo> {
    let mut values = match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        Some(rest) => url(rest)?,
        None => keywords(text)?,
    };
    // The old spelling of `sslmode`, which wins over it.
    if let Some(required) = values.remove("requiressl") {
        let mode = if required == "1" { "require" } else { "prefer" };
        values.entry("sslmode".to_owned()).or_insert_with(|| mode.to_owned());
    }
    Some(ConnInfo(values))
}

/// `keyword = value …`: blanks may stand around `=`, values may be quoted, a backslash takes the next character as it is.
fn keywords(text: &str) -> Option<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest.find(|c| c == '=' || is_space(c))?;
        let (keyword, tail) = rest.split_at(end);
        let tail = tail.trim_start_matches(is_space).strip_prefix('=')?;
        if keyword.is_empty() {
            return None;
        }
        let (value, tail) = keyword_value(tail.trim_start_matches(is_space))?;
        values.insert(keyword.to_owned(), value);
        rest = tail.trim_start_matches(is_space);
    }
    Some(values)
}

fn keyword_value(text: &str) -> Option<(String, &str)> {
    let (quoted, text) = match text.strip_prefix('\'') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            space if !quoted && is_space(space) => return Some((value, &text[at..])),
            plain => value.push(plain),
        }
    }
    (!quoted).then_some((value, ""))
}

fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// `user:password@host:port,host:port/database?keyword=value&…`
fn url(rest: &str) -> Option<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
    let (authority, database) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (user, hosts),
        None => ("", authority),
    };
    let (user, password) = user.split_once(':').map_or((user, ""), |(user, password)| (user, password));
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[') {
            Some(rest) => {
                let (address, tail) = rest.split_once(']')?;
                (address, if tail.is_empty() { "" } else { tail.strip_prefix(':')? })
            }
            None => host.rsplit_once(':').unwrap_or((host, "")),
        };
        names.push(decode(name)?);
        ports.push(decode(port)?);
    }
    let mut set = |keyword: &str, value: String| {
        if !value.is_empty() {
            values.insert(keyword.to_owned(), value);
        }
    };
    set("user", decode(user)?);
    set("password", decode(password)?);
    set("dbname", decode(database)?);
    if names.iter().any(|name| !name.is_empty()) {
        set("host", names.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        set("port", ports.join(","));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (keyword, value) = pair.split_once('=')?;
        let (keyword, value) = (decode(keyword)?, decode(value)?);
        match (keyword.as_str(), value.as_str()) {
            ("ssl", "true") => values.insert("sslmode".to_owned(), "require".to_owned()),
            _ => values.insert(keyword, value),
        };
    }
    Some(values)
}

/// Resolves `%XX`; nothing if an escape is damaged or the result is not text.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let value = digit(rest.next()?)? * 16 + digit(rest.next()?)?;
            bytes.push(u8::try_from(value).ok().filter(|byte| *byte != 0)?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
