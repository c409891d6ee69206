//! The words and numbers of configuration values: how PostgreSQL and operators write them, and when two of them are the
//! same. The rules are those of PostgreSQL's own parser (`guc.c`), with its roundings.

use serde_json::Value;

/// Reads a boolean word; nothing if `text` is not one. Case does not matter.
///
/// ```
/// use ha_engine::postgres::value::bool_word;
///
/// assert_eq!(bool_word("Yes"), Some(true));
/// assert_eq!(bool_word("0"), Some(false));
/// assert_eq!(bool_word("y"), None);
/// ```
pub fn bool_word(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// Reads an integer, with a unit only if there is a base unit to convert it to (`kB`, `8kB`, `min`, …). Half is rounded to
/// even; what does not fit is cut to the nearest number that does.
///
/// ```
/// use ha_engine::postgres::value::parse_int;
///
/// assert_eq!(parse_int("0x10", None), Some(16));
/// assert_eq!(parse_int("128MB", Some("8kB")), Some(16384));
/// assert_eq!(parse_int("128MB", None), None);
/// assert_eq!(parse_int("1gb", Some("kB")), None);
/// ```
pub fn parse_int(text: &str, base_unit: Option<&str>) -> Option<i64> {
    let text = text.trim();
    let integer = integer_prefix(text);
    let rest = integer.map_or(text, |(_, rest)| rest);
    let fractional = if integer.is_some() { rest.starts_with(['.', 'e', 'E']) } else { rest.starts_with('.') };
    let (number, unit) = if fractional {
        let (number, rest) = real_prefix(text)?;
        (Number::Real(number), rest.trim())
    } else {
        let (number, rest) = integer?;
        (Number::Integer(number), rest.trim())
    };
    let real = match (number, unit) {
        (Number::Integer(number), "") => return Some(number),
        (Number::Real(number), "") => number,
        (Number::Integer(number), unit) => to_base_unit(number as f64, unit, base_unit?)?,
        (Number::Real(number), unit) => to_base_unit(number, unit, base_unit?)?,
    };
    let rounded = real.round_ties_even();
    // A float's conversion saturates, and NaN cannot come out of digits.
    rounded.is_finite().then_some(rounded as i64)
}

/// Reads a decimal floating point number, with the same rule for units.
pub fn parse_real(text: &str, base_unit: Option<&str>) -> Option<f64> {
    let (number, rest) = real_prefix(text.trim())?;
    match rest.trim() {
        "" => Some(number),
        unit => to_base_unit(number, unit, base_unit?),
    }
}

/// Prints a setting as people write it: with the largest unit that divides it exactly. What is not a number, zero, and
/// values of other types are printed as they are.
///
/// ```
/// use ha_engine::postgres::value::human;
///
/// assert_eq!(human("16384", "integer", Some("8kB")), "128MB");
/// assert_eq!(human("2.5", "real", Some("ms")), "2500us");
/// ```
pub fn human(setting: &str, vartype: &str, unit: Option<&str>) -> String {
    let converted = match (vartype, unit) {
        ("integer", Some(unit)) => parse_int(setting, None).filter(|number| *number != 0).and_then(|number| human_int(number, unit)),
        ("real", Some(unit)) => parse_real(setting, None).filter(|number| *number != 0.0).and_then(|number| human_real(number, unit)),
        _ => None,
    };
    converted.unwrap_or_else(|| setting.to_owned())
}

/// Whether the running value (`pg_settings.setting`, in base units) and a configured value mean the same. What cannot be
/// read is equal to nothing.
pub fn settings_equal(vartype: &str, unit: Option<&str>, setting: &str, configured: &str) -> bool {
    match vartype {
        "bool" => same(bool_word(setting), bool_word(configured)),
        "integer" => same(parse_int(setting, None), parse_int(configured, unit)),
        "real" => same(parse_real(setting, None), parse_real(configured, unit)),
        "enum" => setting.to_lowercase() == configured.to_lowercase(),
        _ => setting == configured,
    }
}

/// Whether two configured values of one parameter mean the same.
pub fn configured_equal(vartype: &str, unit: Option<&str>, left: &str, right: &str) -> bool {
    left == right
        || match vartype {
            "bool" => same(bool_word(left), bool_word(right)),
            "integer" => same(parse_int(left, unit), parse_int(right, unit)),
            "real" => same(parse_real(left, unit), parse_real(right, unit)),
            "enum" => left.to_lowercase() == right.to_lowercase(),
            _ => false,
        }
}

/// The text form of a configured value: what it is compared by and what messages show. A text is itself; everything else
/// looks as in Patroni's messages (`True`, `None`, `{'a': 1}`).
pub fn text_form(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => nested_form(other),
    }
}

/// The text form of a parameter that goes to PostgreSQL: booleans are `on` and `off`; nothing for null.
pub fn guc_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(true) => Some("on".to_owned()),
        Value::Bool(false) => Some("off".to_owned()),
        other => Some(text_form(other)),
    }
}

/// A port that is not a number between 0 and 65535.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a port")]
pub struct NotAPort(pub String);

/// Splits `host:port` at the last colon. Brackets around IPv6 addresses are taken off; several hosts stay one
/// comma-separated text.
///
/// ```
/// use ha_engine::postgres::value::split_host_port;
///
/// assert_eq!(split_host_port("[::1],10.0.0.1:5433", 5432), Ok(("::1,10.0.0.1".to_owned(), 5433)));
/// assert_eq!(split_host_port("db", 5432), Ok(("db".to_owned(), 5432)));
/// ```
///
/// # Errors
///
/// The part after the colon is not a port.
pub fn split_host_port(text: &str, default_port: u16) -> Result<(String, u16), NotAPort> {
    // A bracket at the end closes an address: the colons before it separate no port.
    let (hosts, port) = match text.rsplit_once(':') {
        Some((hosts, port)) if !port.trim_end().ends_with(']') => (hosts, port.trim().parse().map_err(|_| NotAPort(port.to_owned()))?),
        _ => (text, default_port),
    };
    if !hosts.contains(':') {
        return Ok((hosts.to_owned(), port));
    }
    let hosts: Vec<&str> = hosts.split(',').map(|host| host.trim().trim_matches(['[', ']'])).collect();
    Ok((hosts.join(","), port))
}

enum Number {
    Integer(i64),
    Real(f64),
}

fn same<T: PartialEq>(left: Option<T>, right: Option<T>) -> bool {
    left.is_some() && left == right
}

/// The integer that `text` begins with, like C's `strtol` with base 0, and the rest.
fn integer_prefix(text: &str) -> Option<(i64, &str)> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.strip_prefix("0x") {
        Some(hex) if hex.starts_with(|c: char| c.is_ascii_hexdigit()) => (16, hex),
        _ if digits.starts_with('0') => (8, digits),
        _ => (10, digits),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    if end == 0 {
        return None;
    }
    let magnitude = digits[..end]
        .chars()
        .fold(0i64, |sum, digit| sum.saturating_mul(i64::from(radix)).saturating_add(i64::from(digit.to_digit(radix).unwrap_or(0))));
    Some((if negative { -magnitude } else { magnitude }, &digits[end..]))
}

/// The decimal floating point number that `text` begins with, and the rest.
fn real_prefix(text: &str) -> Option<(f64, &str)> {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let sign = usize::from(matches!(bytes.first(), Some(b'-' | b'+')));
    let whole = digits(sign);
    let mut end = sign + whole;
    let mut any = whole > 0;
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits(end + 1);
        if fraction > 0 {
            any = true;
            end += 1 + fraction;
        }
    }
    if !any {
        return None;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'-' | b'+')));
        let exponent = digits(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Units, largest first, each with its size in the smallest one.
const MEMORY: [(&str, f64); 5] = [("TB", 1_099_511_627_776.0), ("GB", 1_073_741_824.0), ("MB", 1_048_576.0), ("kB", 1024.0), ("B", 1.0)];
const TIME: [(&str, f64); 6] =
    [("d", 86_400_000_000.0), ("h", 3_600_000_000.0), ("min", 60_000_000.0), ("s", 1_000_000.0), ("ms", 1000.0), ("us", 1.0)];

/// The family of a base unit (`kB`, `8kB`, `ms`) and the base unit's size in the family's smallest unit.
fn family(base_unit: &str) -> Option<(&'static [(&'static str, f64)], f64)> {
    let (multiplier, name) = integer_prefix(base_unit.trim()).unwrap_or((1, base_unit.trim()));
    let units: &[(&str, f64)] = match name {
        "B" | "kB" | "MB" => &MEMORY,
        "ms" | "s" | "min" => &TIME,
        _ => return None,
    };
    let (_, size) = units.iter().find(|(unit, _)| *unit == name)?;
    (multiplier > 0).then_some((units, size * multiplier as f64))
}

fn to_base_unit(number: f64, unit: &str, base_unit: &str) -> Option<f64> {
    let (units, base) = family(base_unit)?;
    let position = units.iter().position(|(name, _)| *name == unit)?;
    let converted = number * (units[position].1 / base);
    // PostgreSQL rounds to a multiple of the next smaller unit first, so that `30.1GB` is what it looks like.
    Some(match units.get(position + 1) {
        Some((_, smaller)) => {
            let step = smaller / base;
            (converted / step).round_ties_even() * step
        }
        None => converted,
    })
}

fn human_int(number: i64, base_unit: &str) -> Option<String> {
    let (units, base) = family(base_unit)?;
    let total = i128::from(number) * base as i128;
    let name = base_unit.trim_start_matches(|c: char| c.is_ascii_digit());
    units.iter().find_map(|(unit, size)| {
        let size = *size as i128;
        // The base unit itself divides everything: nothing smaller is ever printed.
        (total % size == 0 || *unit == name).then(|| format!("{}{unit}", total / size))
    })
}

fn human_real(number: f64, base_unit: &str) -> Option<String> {
    let (units, base) = family(base_unit)?;
    let mut last = None;
    for (unit, size) in units {
        let value = number * (base / size);
        last = Some(format!("{}{unit}", shortest(value)));
        if value > 0.0 && (value.round_ties_even() / value - 1.0).abs() <= 1e-8 {
            break;
        }
    }
    last
}

/// `%g` of C: six significant digits, no trailing zeros.
fn shortest(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let scientific = format!("{value:.5e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let strip = |digits: &str| match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => digits.to_owned(),
    };
    if (-4..6).contains(&exponent) {
        strip(&format!("{value:.*}", usize::try_from(5 - exponent).unwrap_or(0)))
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", strip(mantissa), exponent.abs())
    }
}

fn nested_form(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.contains('\'') && !text.contains('"') => {
            format!("\"{}\"", text.replace('\\', "\\\\").replace('\n', "\\n"))
        }
        Value::String(text) => {
            format!("'{}'", text.replace('\\', "\\\\").replace('\n', "\\n").replace('\'', "\\'"))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(nested_form).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| format!("{}: {}", nested_form(&Value::from(key.as_str())), nested_form(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests;
