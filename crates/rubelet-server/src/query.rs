//! The query of a request, as Go's `url.ParseQuery` and apimachinery's parameter conversions read it.

/// The pairs of a query in their order. A pair that is not well-formed is left out, as in Go.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        Self(
            pairs
                .filter_map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    Some((unescape(name)?, unescape(value)?))
                })
                .collect(),
        )
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A flag: only absence, `0` and `false` are no (upstream `Convert_Slice_string_To_bool`).
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.first(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// A whole number, refused in the words of Go's strconv.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, String> {
        self.first(name).map(integer).transpose()
    }
}

pub(crate) fn integer(text: &str) -> Result<i64, String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    text.parse().map_err(|error: std::num::ParseIntError| {
        let why = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.ParseInt: parsing {text:?}: {why}")
    })
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    Some(
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pairs_as_go_does() {
        let query = Query::parse(
            "command=sh&command=-c&command=a%20b+c%26&bad=%zz&x;y=1&empty&tty=True&no=false&z=0",
        );
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "a b c&"]);
        assert_eq!(query.first("bad"), None);
        assert_eq!(query.first("empty"), Some(""));
        assert!(query.flag("tty") && query.flag("empty"));
        assert!(!query.flag("no") && !query.flag("z") && !query.flag("absent"));
        assert_eq!(query.integer("absent"), Ok(None));
        assert_eq!(
            query.integer("tty"),
            Err("strconv.ParseInt: parsing \"True\": invalid syntax".to_owned())
        );
        assert_eq!(
            integer("99999999999999999999"),
            Err("strconv.ParseInt: parsing \"99999999999999999999\": value out of range".to_owned())
        );
    }
}
