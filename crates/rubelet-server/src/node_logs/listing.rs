//! The page of a directory, as Go's `http.FileServer` writes it: a link for each entry, sorted by name.
//!
//! Pure. Names are the system's and may hold anything: in links they are escaped as a path, in text as HTML.

use super::beneath::Entry;

/// How many entries a page has at most.
pub(super) const LIMIT: usize = 50_000;

/// The page of these entries; `more` says that they are not all.
pub(super) fn page(entries: &[Entry], more: bool) -> String {
    let mut page =
        String::from("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n");
    for Entry { name, is_directory } in entries {
        let end = if *is_directory { "/" } else { "" };
        let text = escape_html(&String::from_utf8_lossy(name));
        page.push_str(&format!("<a href=\"{}{end}\">{text}{end}</a>\n", escape_path(name)));
    }
    if more {
        page.push_str(&format!("(only {LIMIT} entries are shown)\n"));
    }
    page.push_str("</pre>\n");
    page
}

/// A name as a relative link.
pub(super) fn escape_path(name: &[u8]) -> String {
    // What has a colon would be read as a scheme.
    let mut link = String::from(if name.contains(&b':') { "./" } else { "" });
    for byte in name {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => link.push(char::from(*byte)),
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b':' | b';' | b'=' | b'@' => {
                link.push(char::from(*byte));
            }
            other => link.push_str(&format!("%{other:02X}")),
        }
    }
    link
}

fn escape_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_as_go_writes_it() {
        let entry = |name: &str, is_directory| Entry { name: name.into(), is_directory };
        let entries = [
            entry("<script>alert(\"1\")</script>", false),
            entry("a b?c#d", false),
            entry("pods", true),
            entry("x:y", false),
        ];
        let expected = "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n\
            <a href=\"%3Cscript%3Ealert%28%221%22%29%3C%2Fscript%3E\">&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;</a>\n\
            <a href=\"a%20b%3Fc%23d\">a b?c#d</a>\n\
            <a href=\"pods/\">pods/</a>\n\
            <a href=\"./x:y\">x:y</a>\n</pre>\n";
        assert_eq!(page(&entries, false), expected);
        assert!(page(&[], true).contains("only"));
    }

    proptest! {
        #[test]
        fn no_name_breaks_out(name in prop::collection::vec(any::<u8>(), 1..20)) {
            let page = page(&[Entry { name, is_directory: false }], false);
            // The document type, the view, the two of the link, and the two of the whole.
            prop_assert_eq!(page.matches('<').count(), 6);
            prop_assert_eq!(page.matches('"').count(), 6);
        }
    }
}
