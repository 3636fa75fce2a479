//! Text of others in messages: quoted and escaped as Go's `%q` does it, and never longer than a message bears.

/// So many bytes of one text are shown.
const SHOWN: usize = 512;

/// A text in quotes, with everything escaped that does not print.
pub(super) fn quote(bytes: &[u8]) -> String {
    let (bytes, more) = match bytes.get(..SHOWN) {
        Some(start) if bytes.len() > SHOWN => (start, true),
        _ => (bytes, false),
    };
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{7}' => text.push_str("\\a"),
                '\u{8}' => text.push_str("\\b"),
                '\u{b}' => text.push_str("\\v"),
                '\u{c}' => text.push_str("\\f"),
                c if u32::from(c) < 0x20 || c == '\u{7f}' => {
                    text.push_str(&format!("\\x{:02x}", u32::from(c)))
                }
                c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                    text.push_str(&format!("\\u{:04x}", u32::from(c)));
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text.push('"');
    if more {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn what_does_not_print_is_escaped() {
        for (given, shown) in [
            (&b"plain"[..], r#""plain""#),
            (b"a \"b\" \\ c", r#""a \"b\" \\ c""#),
            (b"\x00\x07\x08\x0b\x0c\r\n\t\x1b\x7f", r#""\x00\a\b\v\f\r\n\t\x1b\x7f""#),
            ("é\u{85}\u{2028}".as_bytes(), "\"é\\u0085\\u2028\""),
            (b"\xff\xc3", r#""\xff\xc3""#),
        ] {
            assert_eq!(quote(given), shown);
        }
    }

    #[test]
    fn long_text_is_cut() {
        let shown = quote(&[b'x'; 10_000]);
        assert!(shown.ends_with("x\"…") && shown.len() < 600, "{}", shown.len());
    }
}
