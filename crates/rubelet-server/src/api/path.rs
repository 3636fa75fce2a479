//! Paths of requests: when they are well-formed, how Go's `path.Clean` would write them, and their decoded segments.
//!
//! Pure. Called by `routing`.

/// Whether every `%` of a path is followed by two hexadecimal digits.
pub(super) fn is_well_formed(path: &str) -> bool {
    path.split('%').skip(1).all(|rest| {
        let digits = rest.as_bytes();
        digits.len() >= 2 && digits[..2].iter().all(u8::is_ascii_hexdigit)
    })
}

/// The path without `.`, `..` and empty segments; a slash at its end stays.
pub(super) fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    let end = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{end}", kept.join("/"))
}

/// The path with its escapes undone. What is not UTF-8 then is replaced, and is nobody's path any more.
pub(super) fn decoded(path: &str) -> String {
    if !path.contains('%') {
        return path.to_owned();
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = match (byte, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cleans_as_go_does() {
        for (path, cleaned) in [
            ("/", "/"),
            ("", "/"),
            ("//", "/"),
            ("/pods", "/pods"),
            ("/pods/", "/pods/"),
            ("//healthz", "/healthz"),
            ("/pods//", "/pods/"),
            ("/pods/.", "/pods"),
            ("/a/../b/c", "/b/c"),
            ("/../../etc", "/etc"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/%2e%2e/etc", "/%2e%2e/etc"),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }

    #[test]
    fn decodes_each_escape_once() {
        for (path, text) in [("/%70ods", "/pods"), ("/a%2Fb", "/a/b"), ("/%252e", "/%2e"), ("/%c3%a4", "/ä")]
        {
            assert!(is_well_formed(path));
            assert_eq!(decoded(path), text);
        }
        for path in ["/%", "/%2", "/%zz", "/a%2/b", "/%-1"] {
            assert!(!is_well_formed(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_clean_path_has_nothing_to_clean(path in "[/.a%2]{0,30}") {
            let cleaned = clean(&path);
            prop_assert_eq!(clean(&cleaned), cleaned.clone());
            prop_assert!(cleaned.starts_with('/') && !cleaned.starts_with("//"));
            prop_assert!(!cleaned.split('/').any(|segment| segment == ".." || segment == "."));
        }

        #[test]
        fn any_text_can_be_decoded(path in ".{0,40}") {
            let _ = decoded(&path);
            let _ = is_well_formed(&path);
        }
    }
}
