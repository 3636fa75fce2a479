//! What a file is to a browser: by its extension, else by its first bytes, as Go's `mime` and
//! `http.DetectContentType` tell it (the tables of the system's own MIME files are not read).
//!
//! Pure.

/// How many bytes say what a file is.
pub(super) const SNIFFED: usize = 512;

/// By the extension of a file name, if that is known.
pub(super) fn by_name(name: &[u8]) -> Option<&'static str> {
    let dot = name.iter().rposition(|byte| *byte == b'.')?;
    let extension = std::str::from_utf8(&name[dot + 1..]).ok()?.to_ascii_lowercase();
    Some(match extension.as_str() {
        "ai" | "eps" | "ps" => "application/postscript",
        "apk" => "application/vnd.android.package-archive",
        "apng" => "image/apng",
        "avif" => "image/avif",
        "bin" | "com" | "exe" => "application/octet-stream",
        "bmp" => "image/bmp",
        "css" => "text/css; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "doc" => "application/msword",
        "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "ehtml" | "htm" | "html" | "shtml" => "text/html; charset=utf-8",
        "eml" => "message/rfc822",
        "flac" => "audio/flac",
        "gif" => "image/gif",
        "gz" => "application/gzip",
        "ico" => "image/vnd.microsoft.icon",
        "ics" => "text/calendar; charset=utf-8",
        "jfif" | "jpeg" | "jpg" | "pjp" | "pjpeg" => "image/jpeg",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "m4a" => "audio/mp4",
        "mp3" => "audio/mpeg",
        "mp4" => "video/mp4",
        "oga" | "ogg" | "opus" => "audio/ogg",
        "ogv" => "video/ogg",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "ppt" => "application/vnd.ms-powerpoint",
        "pptx" => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        "rdf" => "application/rdf+xml",
        "rtf" => "application/rtf",
        "svg" => "image/svg+xml",
        "text" | "txt" => "text/plain; charset=utf-8",
        "tif" | "tiff" => "image/tiff",
        "vtt" => "text/vtt; charset=utf-8",
        "wasm" => "application/wasm",
        "wav" => "audio/wav",
        "webm" => "audio/webm",
        "webp" => "image/webp",
        "xbl" | "xml" | "xsl" => "text/xml; charset=utf-8",
        "xbm" => "image/x-xbitmap",
        "xht" | "xhtml" => "application/xhtml+xml",
        "xls" => "application/vnd.ms-excel",
        "xlsx" => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "zip" => "application/zip",
        _ => return None,
    })
}

/// Beginnings of HTML, whatever their case, after white space and before a space or `>`.
const HTML: [&str; 17] = [
    "<!DOCTYPE HTML",
    "<HTML",
    "<HEAD",
    "<SCRIPT",
    "<IFRAME",
    "<H1",
    "<DIV",
    "<FONT",
    "<TABLE",
    "<A",
    "<STYLE",
    "<TITLE",
    "<B",
    "<BODY",
    "<BR",
    "<P",
    "<!--",
];

/// Beginnings, in the order they are looked for; a `?` stands for any byte.
const BEGINNINGS: [(&[u8], &str); 28] = [
    (b"%PDF-", "application/pdf"),
    (b"%!PS-Adobe-", "application/postscript"),
    (b"\xfe\xff??", "text/plain; charset=utf-16be"),
    (b"\xff\xfe??", "text/plain; charset=utf-16le"),
    (b"\xef\xbb\xbf?", "text/plain; charset=utf-8"),
    (b"\x00\x00\x01\x00", "image/x-icon"),
    (b"\x00\x00\x02\x00", "image/x-icon"),
    (b"BM", "image/bmp"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"RIFF????WEBPVP", "image/webp"),
    (b"\x89PNG\x0d\x0a\x1a\x0a", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"FORM????AIFF", "audio/aiff"),
    (b"ID3", "audio/mpeg"),
    (b"OggS\x00", "application/ogg"),
    (b"MThd\x00\x00\x00\x06", "audio/midi"),
    (b"RIFF????AVI ", "video/avi"),
    (b"RIFF????WAVE", "audio/wave"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
    (b"\x00\x01\x00\x00", "font/ttf"),
    (b"OTTO", "font/otf"),
    (b"ttcf", "font/collection"),
    (b"wOFF", "font/woff"),
    (b"wOF2", "font/woff2"),
    (b"\x1f\x8b\x08", "application/x-gzip"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x00asm", "application/wasm"),
];

/// By the first bytes. Films and fonts of rarer kinds are only bytes.
pub(super) fn by_content(bytes: &[u8]) -> &'static str {
    let bytes = &bytes[..bytes.len().min(SNIFFED)];
    let space = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\x0c' | b'\r' | b' ');
    let begin = bytes.iter().position(|byte| !space(byte)).unwrap_or(bytes.len());
    let visible = &bytes[begin..];
    let is_html = |tag: &str| {
        visible.len() > tag.len()
            && visible[..tag.len()].eq_ignore_ascii_case(tag.as_bytes())
            && matches!(visible[tag.len()], b' ' | b'>')
    };
    if HTML.iter().any(|tag| is_html(tag)) {
        return "text/html; charset=utf-8";
    }
    if visible.starts_with(b"<?xml") {
        return "text/xml; charset=utf-8";
    }
    let begins = |pattern: &[u8]| {
        bytes.len() >= pattern.len()
            && pattern.iter().zip(bytes).all(|(wanted, byte)| *wanted == b'?' || wanted == byte)
    };
    if let Some((_, kind)) = BEGINNINGS.iter().find(|(pattern, _)| begins(pattern)) {
        return kind;
    }
    let binary = |byte: &u8| matches!(byte, 0..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    if visible.iter().any(binary) { "application/octet-stream" } else { "text/plain; charset=utf-8" }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_tell() {
        assert_eq!(by_name(b"a.HTML"), Some("text/html; charset=utf-8"));
        assert_eq!(by_name(b"syslog.2.gz"), Some("application/gzip"));
        assert_eq!(by_name(b"audit.json"), Some("application/json"));
        for unknown in ["syslog", "0.log", "a.", "x.log.20260102-030405", ".bashrc"] {
            assert_eq!(by_name(unknown.as_bytes()), None, "{unknown}");
        }
    }

    #[test]
    fn bytes_tell() {
        let check = |bytes: &[u8], expected: &str| {
            assert_eq!(by_content(bytes), expected, "{}", bytes.escape_ascii())
        };
        let text = "text/plain; charset=utf-8";
        check(b"", text);
        check(b"2026-01-02T03:04:05Z stdout F hello\n", text);
        check("grüße".as_bytes(), text);
        check(b"\x1b[1mbold", text);
        check(b"a\x00b", "application/octet-stream");
        check(b"  <html>", "text/html; charset=utf-8");
        check(b"<!doctype html >", "text/html; charset=utf-8");
        check(b"<pre>", text);
        check(b"<br/>", text);
        check(b"\n<?xml version", "text/xml; charset=utf-8");
        check(b"%PDF-1.4", "application/pdf");
        check(b"\x1f\x8b\x08\x00", "application/x-gzip");
        check(b"RIFF1234WAVE", "audio/wave");
        check(b"\xff\xfea\x00", "text/plain; charset=utf-16le");
        check(b"LPKSHHRH\x01", "application/octet-stream");
    }

    proptest! {
        #[test]
        fn any_bytes_are_something(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(by_content(&bytes).contains('/'));
            let _ = by_name(&bytes);
        }
    }
}
