//! Whether a pattern is a regular expression to Go (upstream `syntax.Parse` with Perl's rules), said in Go's words.
//!
//! journalctl reads it as PCRE2 and has the last word: what Go takes and the parser here does not know is let through.

use regex_syntax::ast::ErrorKind;
use regex_syntax::ast::parse::ParserBuilder;

/// # Errors
/// Go's message.
pub(super) fn check(pattern: &str) -> Result<(), String> {
    let Err(error) = ParserBuilder::new().octal(true).nest_limit(1000).build().parse(pattern) else {
        return Ok(());
    };
    let span = error.span();
    let wrong = pattern.get(span.start.offset..span.end.offset).unwrap_or_default();
    let rest = pattern.get(span.start.offset..).unwrap_or_default();
    let (why, shown) = match error.kind() {
        ErrorKind::GroupUnclosed => ("missing closing )", pattern),
        ErrorKind::GroupUnopened => ("unexpected )", pattern),
        ErrorKind::ClassUnclosed => ("missing closing ]", rest),
        ErrorKind::ClassRangeInvalid => ("invalid character class range", wrong),
        ErrorKind::RepetitionMissing => ("missing argument to repetition operator", operator(rest)),
        ErrorKind::RepetitionCountInvalid => ("invalid repeat count", wrong),
        ErrorKind::EscapeUnexpectedEof => ("trailing backslash at end of expression", ""),
        ErrorKind::EscapeUnrecognized if !matches!(wrong, "\\Q" | "\\E" | "\\C") => {
            ("invalid escape sequence", wrong)
        }
        ErrorKind::UnsupportedBackreference => ("invalid escape sequence", wrong),
        ErrorKind::UnsupportedLookAround | ErrorKind::FlagUnrecognized => {
            ("invalid or unsupported Perl syntax", wrong)
        }
        ErrorKind::GroupNameDuplicate { .. } => ("duplicate capture group name", wrong),
        ErrorKind::NestLimitExceeded(_) => ("expression nests too deeply", pattern),
        _ => return Ok(()),
    };
    Err(format!("error parsing regexp: {why}: `{shown}`"))
}

/// The repetition operator a text begins with.
fn operator(text: &str) -> &str {
    let end = if text.starts_with('{') { text.find('}').map(|end| end + 1) } else { None };
    text.get(..end.unwrap_or(1)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gos_words() {
        for good in
            ["", "foo", "a|b", "(?i)x", "[[:alpha:]]+", "a{2,3}", "\\d+", "\\Qa\\E", "a{", "\\pN", "^$"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("foo\\", "trailing backslash at end of expression: ``"),
            ("(a", "missing closing ): `(a`"),
            ("a)", "unexpected ): `a)`"),
            ("x[a", "missing closing ]: `[a`"),
            ("[z-a]", "invalid character class range: `z-a`"),
            ("*a", "missing argument to repetition operator: `*`"),
            ("x|{2,3}a", "missing argument to repetition operator: `{2,3}`"),
            ("\\y", "invalid escape sequence: `\\y`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ] {
            assert_eq!(check(bad), Err(format!("error parsing regexp: {why}")), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged(pattern in "\\PC{0,30}", odd in "[\\\\(\\[{*?}\\])a^|]{0,20}") {
            let _ = (check(&pattern), check(&odd));
        }
    }
}
