//! The few facts about a certificate that the verification library keeps to itself.
//!
//! Everything that matters for a chain is checked by `rustls-webpki`. What is read here serves one purpose: a
//! certificate that *is* a trust anchor has no chain, so its time, and for old ones its name, are looked up directly.
//! Nothing is believed that was not parsed by that library first.

/// What is read from a certificate.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts<'a> {
    /// Not valid before this second since the epoch.
    pub(super) not_before: i64,
    /// Not valid after this second since the epoch.
    pub(super) not_after: i64,
    /// The last common name of the subject.
    pub(super) common_name: Option<&'a str>,
    /// Whether there are subject alternative names; then the common name is no name of the subject.
    pub(super) has_alternative_names: bool,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xA0;
const EXTENSIONS: u8 = 0xA3;

/// `id-at-commonName`, 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// `id-ce-subjectAltName`, 2.5.29.17
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1D, 0x11];

impl<'a> Facts<'a> {
    /// Reads a certificate in DER; nothing if it is not one.
    pub(super) fn read(certificate: &'a [u8]) -> Option<Self> {
        let mut signed = Reader(Reader(certificate).expect(SEQUENCE)?);
        let mut fields = Reader(signed.expect(SEQUENCE)?);
        if fields.peek() == Some(VERSION) {
            fields.next()?;
        }
        fields.next()?; // serial number
        fields.next()?; // signature algorithm
        fields.next()?; // issuer
        let mut validity = Reader(fields.expect(SEQUENCE)?);
        let not_before = seconds(validity.next()?)?;
        let not_after = seconds(validity.next()?)?;
        let common_name = common_name(fields.expect(SEQUENCE)?);
        fields.next()?; // public key
        let mut has_alternative_names = false;
        while let Some((tag, contents)) = fields.next() {
            if tag == EXTENSIONS {
                has_alternative_names = has_extension(contents, ALTERNATIVE_NAMES)?;
            }
        }
        Some(Self { not_before, not_after, common_name, has_alternative_names })
    }
}

fn common_name(subject: &[u8]) -> Option<&str> {
    let mut found = None;
    let mut subject = Reader(subject);
    while let Some(set) = subject.expect(SET) {
        let mut set = Reader(set);
        while let Some(attribute) = set.expect(SEQUENCE) {
            let mut attribute = Reader(attribute);
            if attribute.expect(OBJECT_ID)? == COMMON_NAME {
                let (_, text) = attribute.next()?;
                found = std::str::from_utf8(text).ok();
            }
        }
    }
    found
}

fn has_extension(extensions: &[u8], wanted: &[u8]) -> Option<bool> {
    let mut list = Reader(Reader(extensions).expect(SEQUENCE)?);
    while let Some(extension) = list.expect(SEQUENCE) {
        if Reader(extension).expect(OBJECT_ID)? == wanted {
            return Some(true);
        }
    }
    Some(false)
}

/// A point in time of the certificate, in seconds since the epoch.
fn seconds((tag, text): (u8, &[u8])) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let year: i16 = digits(text, 0, 2)?;
            // RFC 5280, 4.1.2.5.1
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        GENERALIZED_TIME => (digits(text, 0, 4)?, text.get(4..)?),
        _ => return None,
    };
    if rest.len() != 10 {
        return None;
    }
    let part = |index: usize| digits::<i8>(rest, index * 2, 2);
    let date = jiff::civil::Date::new(year, part(0)?, part(1)?).ok()?;
    let time = jiff::civil::Time::new(part(2)?, part(3)?, part(4)?, 0).ok()?;
    jiff::tz::Offset::UTC.to_timestamp(date.to_datetime(time)).ok().map(jiff::Timestamp::as_second)
}

fn digits<T: std::str::FromStr>(text: &str, start: usize, count: usize) -> Option<T> {
    let digits = text.get(start..start + count)?;
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// What is left of a run of DER elements.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The contents of the next element, if it has this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.peek() == Some(tag) { self.next().map(|(_, contents)| contents) } else { None }
    }

    /// The next element: tag and contents.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7F)).filter(|(bytes, _)| bytes.len() <= 4)?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, contents))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_time_are_read() {
        assert_eq!(seconds((UTC_TIME, b"700101000001Z")), Some(1));
        assert_eq!(seconds((UTC_TIME, b"491231235959Z")), Some(2_524_607_999));
        assert_eq!(seconds((GENERALIZED_TIME, b"20500101000000Z")), Some(2_524_608_000));
        for bad in [&b"700101000001"[..], b"7001010000Z", b"701301000001Z", b"70010100000+Z", b"", b"Z", b"\xff"] {
            assert_eq!(seconds((UTC_TIME, bad)), None, "{bad:?}");
        }
    }

    #[test]
    fn garbage_is_not_a_certificate() {
        for bad in [&b""[..], b"\x30", b"\x30\x82\xff\xff", b"\x30\x03\x30\x01\x00", b"\x30\x84\xff\xff\xff\xff\x00"] {
            assert_eq!(Facts::read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_certificate_cut_anywhere_does_no_harm() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["db1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let der = certificate.der();
        assert!(Facts::read(der).unwrap().has_alternative_names);
        for end in 0..der.len() {
            assert_eq!(Facts::read(&der[..end]), None);
        }
    }
}
