//! Query parameters.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The parameters of a request. Of a repeated one the first counts; those without a value do not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads what stands after the question mark.
    pub fn parse(text: Option<&str>) -> Self {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for pair in text.unwrap_or_default().split('&') {
            let Some((key, value)) = pair.split_once('=').filter(|(_, value)| !value.is_empty()) else { continue };
            let key = decode(key);
            if parameters.iter().all(|(known, _)| *known != key) {
                parameters.push((key.into_owned(), decode(value).into_owned()));
            }
        }
        Self(parameters)
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['+', '%']) {
        return Cow::Borrowed(text);
    }
    let text = text.replace('+', " ");
    Cow::Owned(percent_decode_str(&text).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn the_first_value_counts_and_empty_ones_do_not() {
        let query = Query::parse(Some("a=1&a=2&b=&c&=x&tag_d=%2B+%C3%A4%"));
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.get("b"), None);
        assert_eq!(query.get("c"), None);
        assert_eq!(query.get("tag_d"), Some("+ ä%"));
        assert_eq!(Query::parse(None), Query::parse(Some("&&=")));
    }
}
