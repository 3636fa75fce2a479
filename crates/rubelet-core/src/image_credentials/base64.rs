//! Base64 as Docker's configuration files use it: the standard alphabet, with or without padding, line breaks
//! ignored. Used for the `auth` field alone; the API's own base64 is decoded by k8s-openapi.

/// Decodes; `None` when it is not base64.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let text: Vec<u8> = text.bytes().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
    let body = match text.iter().rposition(|b| *b != b'=') {
        Some(last) => text.get(..=last)?,
        None => return text.is_empty().then(Vec::new),
    };
    let padding = text.len() - body.len();
    // Padding fills up to groups of four, or is left out as a whole.
    if body.len() % 4 == 1 || (padding > 0 && (padding > 2 || !text.len().is_multiple_of(4))) {
        return None;
    }
    let mut out = Vec::with_capacity(body.len() * 3 / 4);
    for group in body.chunks(4) {
        let mut bits = 0u32;
        for byte in group {
            bits = bits << 6 | u32::from(digit(*byte)?);
        }
        bits <<= 6 * (4 - group.len());
        let [_, bytes @ ..] = bits.to_be_bytes();
        out.extend_from_slice(bytes.get(..group.len() - 1)?);
    }
    Some(out)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_texts() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(decode(text).as_deref(), expected.map(str::as_bytes), "{text:?}");
        };
        check("", Some(""));
        check("Zm8=", Some("fo"));
        check("Zm8", Some("fo"));
        check("Zg==", Some("f"));
        check("Zg", Some("f"));
        check("Zm9v", Some("foo"));
        check("Zm\n9v\r\n", Some("foo"));
        for bad in ["Z", "=", "Zg=", "Zm9v=", "Zm9vZ", "Zm 9v", "Zm-_", "Zg==Zg==", "Zm9v===="] {
            check(bad, None);
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let encoded = serde_json::to_value(ByteString(bytes.clone())).unwrap();
            let text = encoded.as_str().unwrap();
            prop_assert_eq!(decode(text), Some(bytes.clone()));
            prop_assert_eq!(decode(text.trim_end_matches('=')), Some(bytes));
        }
    }
}
