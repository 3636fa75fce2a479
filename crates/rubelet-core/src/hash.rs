//! The hash by which a running container is told from a changed definition.
//!
//! Owns the one algorithm; never decides what to do about a difference (the planner does). The value is
//! written on every container and compared at take-over from an upstream kubelet, so it has to agree with
//! upstream's `HashContainer` to the bit.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer};

/// The hash of a container's definition: name and image, nothing else (upstream `HashContainer`).
///
/// A differing hash means "kill and start again". Written in lower-case hexadecimal as the annotation
/// `io.kubernetes.container.hash`.
pub fn container_hash(container: &Container) -> u32 {
    definition_hash(&container.name, container.image.as_deref().unwrap_or_default())
}

/// The hash of an ephemeral container, which counts as the ordinary container of the same fields.
pub fn ephemeral_container_hash(container: &EphemeralContainer) -> u32 {
    definition_hash(&container.name, container.image.as_deref().unwrap_or_default())
}

/// Upstream serialises `{image, name}` to JSON and hashes Go's `%#v`-like dump of those bytes with 32-bit
/// FNV-1a. The dump of a byte slice is `([]uint8)[123 34 …]`.
fn definition_hash(name: &str, image: &str) -> u32 {
    let mut json = String::with_capacity(name.len() + image.len() + 24);
    json.push_str("{\"image\":");
    push_go_json_string(&mut json, image);
    json.push_str(",\"name\":");
    push_go_json_string(&mut json, name);
    json.push('}');

    let mut hash = Fnv1a32::new();
    hash.write(b"([]uint8)[");
    let mut separator = false;
    for byte in json.bytes() {
        if separator {
            hash.write(b" ");
        }
        separator = true;
        let digits = [b'0' + byte / 100, b'0' + byte / 10 % 10, b'0' + byte % 10];
        let leading_zeros = usize::from(byte < 100) + usize::from(byte < 10);
        hash.write(&digits[leading_zeros..]);
    }
    hash.write(b"]");
    hash.finish()
}

/// Appends a JSON string as Go's `encoding/json` writes it: `<`, `>`, `&`, U+2028 and U+2029 are escaped too.
pub(crate) fn push_go_json_string(out: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\0'..='\u{1f}' => {
                let code = character as usize;
                out.push_str("\\u00");
                out.push(HEX[code >> 4] as char);
                out.push(HEX[code & 15] as char);
            }
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            other => out.push(other),
        }
    }
    out.push('"');
}

/// Rewrites compact JSON so that it escapes what Go's encoder escapes. The five characters can only stand
/// inside strings, so a replacement over the whole text is exact.
pub fn go_escaped_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            other => out.push(other),
        }
    }
    out
}

/// 32-bit FNV-1a, the sum in upstream's checkpoints.
pub fn fnv1a32(bytes: &[u8]) -> u32 {
    let mut hash = Fnv1a32::new();
    hash.write(bytes);
    hash.finish()
}

struct Fnv1a32(u32);

impl Fnv1a32 {
    fn new() -> Self {
        Self(0x811c_9dc5)
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
    fn finish(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, image: &str) -> Container {
        Container { name: name.into(), image: Some(image.into()), ..Container::default() }
    }

    /// Upstream's own vector (`TestConsistentHashContainer`).
    #[test]
    fn agrees_with_upstreams_vector() {
        assert_eq!(container_hash(&container("test_container", "foo/image:v1")), 0x8e45_cbd0);
    }

    #[test]
    fn only_name_and_image_count() {
        let mut changed = container("test_container", "foo/image:v1");
        changed.args = Some(vec!["/bin/sh".into()]);
        changed.tty = Some(true);
        assert_eq!(container_hash(&changed), 0x8e45_cbd0);
        assert_ne!(container_hash(&container("test_container", "foo/image:v2")), 0x8e45_cbd0);
        assert_ne!(container_hash(&container("other", "foo/image:v1")), 0x8e45_cbd0);
    }

    #[test]
    fn ephemeral_containers_hash_like_ordinary_ones() {
        let ephemeral = EphemeralContainer {
            name: "test_container".into(),
            image: Some("foo/image:v1".into()),
            target_container_name: Some("app".into()),
            ..EphemeralContainer::default()
        };
        assert_eq!(ephemeral_container_hash(&ephemeral), 0x8e45_cbd0);
    }

    #[test]
    fn strings_are_escaped_as_go_escapes_them() {
        let check = |text: &str, expected: &str| {
            let mut out = String::new();
            push_go_json_string(&mut out, text);
            assert_eq!(out, expected);
        };
        check("plain é", "\"plain é\"");
        check("a<b>&c", "\"a\\u003cb\\u003e\\u0026c\"");
        check("\"\\\n\r\t", "\"\\\"\\\\\\n\\r\\t\"");
        check("\u{1}\u{8}\u{c}\u{1f}\u{7f}", "\"\\u0001\\b\\f\\u001f\u{7f}\"");
        check("\u{2028}\u{2029}", "\"\\u2028\\u2029\"");
    }

    #[test]
    fn a_missing_image_hashes_as_an_empty_one() {
        let none = Container { name: "a".into(), ..Container::default() };
        assert_eq!(container_hash(&none), container_hash(&container("a", "")));
    }
}
