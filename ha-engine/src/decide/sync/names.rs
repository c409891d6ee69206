//! Sets of standbys, and the text of `synchronous_standby_names`: reading and writing it.

use std::collections::BTreeMap;
use std::fmt;

use dcs_core::model::MemberName;

/// A set of standbys. Names compare without regard to case, as PostgreSQL compares them, and keep their spelling.
#[derive(Clone, Debug, Default)]
pub struct Names(BTreeMap<String, MemberName>);

impl Names {
    /// Whether `name` is in it.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(&name.to_lowercase())
    }

    /// Adds `name`; one that is there keeps its spelling.
    pub fn insert(&mut self, name: MemberName) {
        self.0.entry(name.as_str().to_lowercase()).or_insert(name);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, without regard to case in order.
    pub fn iter(&self) -> impl Iterator<Item = &MemberName> {
        self.0.values()
    }

    /// All of them in the order of their spelling, as `/sync` has them.
    pub fn sorted(&self) -> Vec<MemberName> {
        let mut names: Vec<MemberName> = self.0.values().cloned().collect();
        names.sort();
        names
    }

    /// Those of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).cloned().collect()
    }

    /// Those of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.filtered(|key| other.0.contains_key(key))
    }

    /// Those that `other` does not have.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.filtered(|key| !other.0.contains_key(key))
    }

    /// The set without `name`.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        let gone = name.to_lowercase();
        self.filtered(|key| *key != gone)
    }

    /// The set with `name`.
    #[must_use]
    pub fn with(&self, name: &MemberName) -> Self {
        let mut names = self.clone();
        names.insert(name.clone());
        names
    }

    /// Whether all of them are in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.keys().all(|key| other.0.contains_key(key))
    }

    fn filtered(&self, keep: impl Fn(&String) -> bool) -> Self {
        Self(self.0.iter().filter(|(key, _)| keep(key)).map(|(key, name)| (key.clone(), name.clone())).collect())
    }

    /// `['a', 'b']`, as the reference writes lists in its log.
    pub fn as_list(&self) -> String {
        let names: Vec<String> = self.sorted().iter().map(|name| format!("'{name}'")).collect();
        format!("[{}]", names.join(", "))
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        self.0.keys().eq(other.0.keys())
    }
}

impl Eq for Names {}

impl FromIterator<MemberName> for Names {
    fn from_iter<I: IntoIterator<Item = MemberName>>(names: I) -> Self {
        let mut set = Self::default();
        names.into_iter().for_each(|name| set.insert(name));
        set
    }
}

/// `a, b`.
impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.sorted().iter().map(ToString::to_string).collect();
        f.write_str(&names.join(", "))
    }
}

/// How `synchronous_standby_names` chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// It is empty: nobody waits.
    #[default]
    Off,
    /// The first `number` that are connected.
    Priority,
    /// Any `number`.
    Quorum,
}

/// `synchronous_standby_names`, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandbyNames {
    /// How it chooses.
    pub kind: Kind,
    /// How many it waits for.
    pub number: usize,
    /// The names; `*` is not among them.
    pub names: Names,
    /// Whether `*` is listed: everybody who connects counts.
    pub everybody: bool,
}

/// Text that PostgreSQL would not take for `synchronous_standby_names`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Unparsable synchronous_standby_names value '{text}': {problem}")]
pub struct Unparsable {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A bare word.
    Word(String),
    /// A name in double quotes.
    Quoted(String),
    Number(usize),
    Star,
    Comma,
    Open,
    Close,
}

fn tokens(text: &str) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        tokens.push(match letter {
            ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}' => continue,
            ',' => Token::Comma,
            '(' => Token::Open,
            ')' => Token::Close,
            '*' => Token::Star,
            '"' => {
                let mut name = String::new();
                loop {
                    match rest.next() {
                        Some('"') if rest.next_if_eq(&'"').is_some() => name.push('"'),
                        Some('"') => break,
                        Some(letter) => name.push(letter),
                        None => return Err("unterminated quoted name"),
                    }
                }
                Token::Quoted(name)
            }
            '0'..='9' => {
                let mut number = letter.to_string();
                while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                    number.push(digit);
                }
                Token::Number(number.parse().map_err(|_| "a number that is too large")?)
            }
            letter if is_name_start(letter) => {
                let mut name = letter.to_string();
                while let Some(letter) = rest.next_if(|letter| is_name_part(*letter)) {
                    name.push(letter);
                }
                Token::Word(name)
            }
            _ => return Err("unexpected character"),
        });
    }
    Ok(tokens)
}

fn is_name_start(letter: char) -> bool {
    letter.is_ascii_alphabetic() || letter == '_' || !letter.is_ascii()
}

fn is_name_part(letter: char) -> bool {
    is_name_start(letter) || letter.is_ascii_digit() || letter == '$'
}

impl StandbyNames {
    /// Reads the text by PostgreSQL's grammar.
    ///
    /// # Errors
    ///
    /// PostgreSQL would not take it either.
    pub fn parse(text: &str) -> Result<Self, Unparsable> {
        let failed = |problem| Unparsable { text: text.to_owned(), problem };
        let tokens = tokens(text).map_err(failed)?;
        let is = |token: &Token, word: &str| matches!(token, Token::Word(found) if found.eq_ignore_ascii_case(word));
        let (kind, number, list) = match tokens.as_slice() {
            [] => return Ok(Self::default()),
            [word, Token::Number(number), Token::Open, list @ .., Token::Close] if is(word, "any") => (Kind::Quorum, *number, list),
            [word, Token::Number(number), Token::Open, list @ .., Token::Close] if is(word, "first") => (Kind::Priority, *number, list),
            [Token::Number(number), Token::Open, list @ .., Token::Close] => (Kind::Priority, *number, list),
            list => (Kind::Priority, 1, list),
        };
        let mut read = Self { kind, number, ..Self::default() };
        if list.len().is_multiple_of(2) {
            return Err(failed("a name is missing"));
        }
        for (at, token) in list.iter().enumerate() {
            match token {
                Token::Comma if at % 2 == 1 => {}
                _ if at % 2 == 1 => return Err(failed("a comma is missing")),
                Token::Star => read.everybody = true,
                // PostgreSQL compares the name with `*` after it has taken the quotes off.
                Token::Quoted(name) if name == "*" => read.everybody = true,
                Token::Word(name) | Token::Quoted(name) => read.names.insert(MemberName::from(name.as_str())),
                _ => return Err(failed("a name is missing")),
            }
        }
        Ok(read)
    }

    /// The names that can be counted on: none if everybody counts, because then nobody does in particular.
    pub fn named(&self) -> Names {
        if self.everybody { Names::default() } else { self.names.clone() }
    }

    /// How many of [`Self::named`] a commit waits for.
    pub fn number_of_named(&self) -> usize {
        self.number.min(self.named().len())
    }
}

/// `*`: whoever connects first.
pub const EVERYBODY: &str = "*";

/// A name as it is written: quoted if it would be read as something else.
fn written(name: &str) -> String {
    let mut letters = name.chars();
    let plain = letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == '$')
        && !["first", "any"].iter().any(|word| name.eq_ignore_ascii_case(word));
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn list(names: &Names) -> String {
    let names: Vec<String> = names.sorted().iter().map(|name| written(name.as_str())).collect();
    names.join(",")
}

/// The text that makes commits wait for all of `names`.
pub fn all_of(names: &Names) -> String {
    match names.len() {
        0 | 1 => list(names),
        number => format!("{number} ({})", list(names)),
    }
}

/// The text that makes commits wait for any `number` of `names`; of anybody, if nobody is named.
pub fn any_of(number: usize, names: &Names) -> String {
    match (number, names.is_empty()) {
        (0, _) => String::new(),
        (_, true) => format!("ANY {number} (*)"),
        (_, false) => format!("ANY {number} ({})", list(names)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::names;
    use super::*;

    fn read(text: &str) -> Option<(Kind, usize, String, bool)> {
        let read = StandbyNames::parse(text).ok()?;
        Some((read.kind, read.number, read.names.to_string(), read.everybody))
    }

    #[test]
    fn every_form_of_the_text_is_read() {
        let cases = [
            ("", Some((Kind::Off, 0, "", false))),
            ("  \t", Some((Kind::Off, 0, "", false))),
            ("a", Some((Kind::Priority, 1, "a", false))),
            ("a, \"b-c\", *", Some((Kind::Priority, 1, "a, b-c", true))),
            ("*", Some((Kind::Priority, 1, "", true))),
            ("\"*\"", Some((Kind::Priority, 1, "", true))),
            ("2 (a,b)", Some((Kind::Priority, 2, "a, b", false))),
            ("FiRsT 2 (\"a b\", c)", Some((Kind::Priority, 2, "a b, c", false))),
            ("aNy 1(a,b)", Some((Kind::Quorum, 1, "a, b", false))),
            ("ANY 1 (*)", Some((Kind::Quorum, 1, "", true))),
            ("\"a\"\"b\"", Some((Kind::Priority, 1, "a\"b", false))),
            ("any", Some((Kind::Priority, 1, "any", false))),
            ("first, b", Some((Kind::Priority, 1, "b, first", false))),
            ("_x$1", Some((Kind::Priority, 1, "_x$1", false))),
            ("a,", None),
            (",a", None),
            ("a b", None),
            ("1", None),
            ("ANY 4(\"a\" b)", None),
            ("2 (,)", None),
            ("2 ()", None),
            ("2 (a", None),
            ("\"a", None),
            ("a-b", None),
            ("(a)", None),
            ("99999999999999999999999 (a)", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(kind, number, names, everybody)| (kind, number, names.to_owned(), everybody));
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = StandbyNames::parse("a,").expect_err("it ends with a comma");
        assert!(error.to_string().starts_with("Unparsable synchronous_standby_names value 'a,': "), "{error}");
    }

    #[test]
    fn every_situation_has_its_text() {
        let cases = [
            (all_of(&names("")), ""),
            (all_of(&names("a")), "a"),
            (all_of(&names("b a")), "2 (a,b)"),
            (all_of(&names("pg-2.x pg-1.x")), "2 (\"pg-1.x\",\"pg-2.x\")"),
            (all_of(&names("Any")), "\"Any\""),
            (any_of(0, &names("")), ""),
            (any_of(0, &names("a")), ""),
            (any_of(1, &names("a b")), "ANY 1 (a,b)"),
            (any_of(2, &names("first x\"y")), "ANY 2 (\"first\",\"x\"\"y\")"),
            (any_of(1, &names("")), "ANY 1 (*)"),
        ];
        for (text, expected) in cases {
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn names_compare_without_regard_to_case_and_keep_their_spelling() {
        let mut set = names("Alpha beta");
        set.insert(MemberName::from("ALPHA"));
        assert_eq!((set.len(), set.to_string().as_str()), (2, "Alpha, beta"));
        assert!(set.contains("alphA") && set == names("alpha Beta"));
        assert_eq!(set.as_list(), "['Alpha', 'beta']");
        assert_eq!(set.difference(&names("BETA")), names("alpha"));
        assert_eq!(set.without("BETA"), names("alpha"));
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_again(list in proptest::collection::btree_set("[ -~äß]{1,8}", 0..5), number in 0_usize..4) {
            let set: Names = list.iter().filter(|name| *name != "*").map(|name| MemberName::from(name.as_str())).collect();
            let all = StandbyNames::parse(&all_of(&set)).expect("ours");
            proptest::prop_assert_eq!(&all.names, &set);
            proptest::prop_assert_eq!(all.number, set.len());
            let any = StandbyNames::parse(&any_of(number, &set)).expect("ours");
            if number > 0 {
                proptest::prop_assert_eq!((any.kind, any.number, &any.names), (Kind::Quorum, number, &set));
            } else {
                proptest::prop_assert_eq!(any, StandbyNames::default());
            }
        }

        #[test]
        fn no_text_makes_the_reader_fail_badly(text in "[ -~\"(),*äß]{0,40}") {
            let _ = StandbyNames::parse(&text);
        }
    }
}
