//! What YAML 1.1 takes a bare word for, and how numbers are written.

use serde_json::Number;

/// Whether a bare `text` is read back as a string, and not as a number, a boolean, a date, a null or a mark.
pub(super) fn reads_as_string(text: &str) -> bool {
    !(is_word(text) || is_integer(text) || is_float(text) || is_timestamp(text))
}

fn is_word(text: &str) -> bool {
    const BOOLEANS: [&str; 6] = ["yes", "no", "true", "false", "on", "off"];
    let usual_case = |word: &&str| {
        let mut capital = (*word).to_owned();
        capital[..1].make_ascii_uppercase();
        text == *word || text == capital || text == word.to_ascii_uppercase()
    };
    matches!(text, "" | "~" | "null" | "Null" | "NULL" | "<<" | "=" | "!" | "&" | "*") || BOOLEANS.iter().any(usual_case)
}

fn is_integer(text: &str) -> bool {
    let digits = unsigned(text);
    if let Some(binary) = digits.strip_prefix("0b") {
        return all(binary, |byte| matches!(byte, b'0' | b'1' | b'_'));
    }
    if let Some(hexadecimal) = digits.strip_prefix("0x") {
        return all(hexadecimal, |byte| byte.is_ascii_hexdigit() || byte == b'_');
    }
    if digits == "0" {
        return true;
    }
    if let Some(octal) = digits.strip_prefix('0') {
        return all(octal, |byte| matches!(byte, b'0'..=b'7' | b'_'));
    }
    let (head, sexagesimal) = split_sexagesimal(digits);
    is_grouped(head) && sexagesimal.is_none_or(|tail| tail)
}

fn is_float(text: &str) -> bool {
    let digits = unsigned(text);
    if matches!(digits, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], Some(&digits[at + 1..])),
        None => (digits, None),
    };
    let exponent_fits =
        exponent.is_none_or(|exponent| exponent.strip_prefix(['-', '+']).is_some_and(|power| all(power, |byte| byte.is_ascii_digit())));
    let Some((whole, fraction)) = mantissa.split_once('.') else { return false };
    let fraction_fits = fraction.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    if whole.is_empty() {
        // `.5`, but neither `+.5` nor `._5`.
        let signed = digits.len() != text.len();
        return !signed && fraction.starts_with(|c: char| c.is_ascii_digit()) && fraction_fits && exponent_fits;
    }
    let (head, sexagesimal) = split_sexagesimal(whole);
    match sexagesimal {
        None => is_grouped(head) && fraction_fits && exponent_fits,
        Some(tail) => is_grouped(head) && tail && fraction_fits && exponent.is_none(),
    }
}

/// Splits `12:30:45` into its head and whether the rest are numbers below sixty.
fn split_sexagesimal(digits: &str) -> (&str, Option<bool>) {
    let Some((head, tail)) = digits.split_once(':') else { return (digits, None) };
    let below_sixty = |part: &str| match part.as_bytes() {
        [ones] => ones.is_ascii_digit(),
        [tens, ones] => matches!(tens, b'0'..=b'5') && ones.is_ascii_digit(),
        _ => false,
    };
    (head, Some(tail.split(':').all(below_sixty)))
}

fn is_grouped(digits: &str) -> bool {
    digits.starts_with(|c: char| c.is_ascii_digit()) && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

fn all(text: &str, fits: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(fits)
}

/// `2024-01-01`, or a date with a time.
fn is_timestamp(text: &str) -> bool {
    let mut rest = Scanner(text);
    let day_only = text.len() == 10;
    let date = rest.digits(4, 4)
        && rest.one(b"-")
        && rest.digits(if day_only { 2 } else { 1 }, 2)
        && rest.one(b"-")
        && rest.digits(if day_only { 2 } else { 1 }, 2);
    if !date {
        return false;
    }
    if rest.0.is_empty() {
        return day_only;
    }
    let separated = rest.one(b"Tt") || rest.blanks() > 0;
    let time = separated && rest.digits(1, 2) && rest.one(b":") && rest.digits(2, 2) && rest.one(b":") && rest.digits(2, 2);
    if !time {
        return false;
    }
    if rest.one(b".") {
        rest.digits(0, usize::MAX);
    }
    if rest.0.is_empty() {
        return true;
    }
    rest.blanks();
    if rest.one(b"Z") {
        return rest.0.is_empty();
    }
    let offset = rest.one(b"-+") && rest.digits(1, 2);
    offset && (rest.0.is_empty() || (rest.one(b":") && rest.digits(2, 2) && rest.0.is_empty()))
}

/// Eats a text from the left.
struct Scanner<'a>(&'a str);

impl Scanner<'_> {
    /// Between `least` and `most` digits, as many as there are.
    fn digits(&mut self, least: usize, most: usize) -> bool {
        let count = self.0.bytes().take_while(u8::is_ascii_digit).count().min(most);
        if count < least {
            return false;
        }
        self.0 = &self.0[count..];
        true
    }

    fn one(&mut self, of: &[u8]) -> bool {
        let found = self.0.bytes().next().is_some_and(|byte| of.contains(&byte));
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn blanks(&mut self) -> usize {
        let count = self.0.bytes().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        self.0 = &self.0[count..];
        count
    }
}

/// A number as YAML 1.1 reads it back: a float always has a point.
pub(super) fn number_text(number: &Number) -> String {
    if number.is_i64() || number.is_u64() {
        return number.to_string();
    }
    let text = float_text(number.as_f64().unwrap_or(f64::NAN));
    match text.split_once('e') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0e{exponent}"),
        _ => text,
    }
}

/// The shortest text that reads back as `value`, in Python's form: an exponent of at least two digits below 1e-4 and
/// from 1e16 on, `.0` where nothing else shows that it is a float.
pub fn float_text(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "nan".to_owned()
        } else if value > 0.0 {
            "inf".to_owned()
        } else {
            "-inf".to_owned()
        };
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&power) {
        let sign = if power < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", power.unsigned_abs());
    }
    let text = format!("{value}");
    if text.contains('.') { text } else { format!("{text}.0") }
}
