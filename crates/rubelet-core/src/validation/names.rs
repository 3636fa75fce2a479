//! What names may look like: labels, subdomains, ports, variables, keys.
//!
//! Owns the character rules and their wording (upstream `apimachinery` `util/validation`). Every function
//! returns the broken rules; none means the name is fine.

const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const KEY_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

fn too_long(length: usize) -> String {
    format!("must be no more than {length} characters")
}

fn pattern(rule: &str, format: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}'")).collect();
    format!("{rule} (e.g. {}, regex used for validation is '{format}')", examples.join(",  or "))
}

/// The message for a number outside its range.
pub fn range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn is_label(text: &str, inner: impl Fn(u8) -> bool) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|b| plain(*b))
        && bytes.last().is_some_and(|b| plain(*b))
        && bytes.iter().all(|b| plain(*b) || inner(*b))
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(|label| is_label(label, |b| b == b'-'))
}

/// A DNS label (RFC 1123).
pub fn dns_label(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if text.len() > 63 {
        broken.push(too_long(63));
    }
    if !is_label(text, |b| b == b'-') {
        broken.push(if is_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            pattern(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                 start and end with an alphanumeric character",
                LABEL_FORMAT,
                &["my-name", "123-abc"],
            )
        });
    }
    broken
}

/// A DNS subdomain (RFC 1123): labels joined by dots.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
                must start and end with an alphanumeric character";
    subdomain(text, rule, LABEL_FORMAT, is_subdomain(text))
}

/// A DNS subdomain whose labels may hold underscores, as search domains do.
pub fn dns_subdomain_with_underscore(text: &str) -> Vec<String> {
    let rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', \
                and must start and end with an alphanumeric character";
    let well_formed = text
        .split('.')
        .all(|label| is_label(label.strip_prefix('_').unwrap_or(label), |b| b == b'-' || b == b'_'));
    subdomain(text, rule, "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?", well_formed)
}

fn subdomain(text: &str, rule: &str, label: &str, well_formed: bool) -> Vec<String> {
    let mut broken = Vec::new();
    if text.len() > 253 {
        broken.push(too_long(253));
    }
    if !well_formed {
        broken.push(pattern(rule, &format!("{label}(\\.{label})*"), &["example.com"]));
    }
    broken
}

fn is_key(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A qualified name: a label key, an annotation key, a condition type, a resource name.
pub fn qualified_name(text: &str) -> Vec<String> {
    let rule = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                alphanumeric character";
    let pattern = pattern(rule, KEY_FORMAT, &["MyName", "my.name", "123-abc"]);
    let mut broken = Vec::new();
    let mut parts = text.split('/');
    let name = match (parts.next().unwrap_or_default(), parts.next(), parts.next()) {
        (name, None, _) => name,
        (prefix, Some(name), None) => {
            if prefix.is_empty() {
                broken.push("prefix part must be non-empty".to_owned());
            } else {
                broken.extend(dns_subdomain(prefix).into_iter().map(|rule| format!("prefix part {rule}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {pattern} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        broken.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        broken.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_key(name) {
        broken.push(format!("name part {pattern}"));
    }
    broken
}

/// The value of a label.
pub fn label_value(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if text.len() > 63 {
        broken.push("must be no more than 63 bytes".to_owned());
    }
    if !text.is_empty() && !is_key(text) {
        broken.push(pattern(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            &format!("({KEY_FORMAT})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    broken
}

/// The name of a port (IANA service name).
pub fn port_name(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if text.len() > 15 {
        broken.push(too_long(15));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        broken.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        broken.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        broken.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        broken.push("must not begin or end with a hyphen".into());
    }
    broken
}

/// The number of a port.
pub fn port_number(port: i32) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![range(1, 65535)] }
}

/// The number of a user or group.
pub fn user_or_group(id: i64) -> Vec<String> {
    let high = i64::from(i32::MAX);
    if (0..=high).contains(&id) { Vec::new() } else { vec![range(0, high)] }
}

/// The name of an environment variable: anything printable without `=` (RelaxedEnvironmentVariableValidation).
pub fn variable_name(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if text.is_empty() {
        broken.push("environment variable name must be non-empty".to_owned());
    }
    if !text.bytes().all(|b| (b.is_ascii_graphic() || b == b' ') && b != b'=') {
        broken.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='".into(),
        );
    }
    broken
}

/// The key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if text.len() > 253 {
        broken.push(too_long(253));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(plain) {
        broken.push(pattern(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." => broken.push("must not be '.'".into()),
        ".." => broken.push("must not be '..'".into()),
        _ if text.starts_with("..") => broken.push("must not start with '..'".into()),
        _ => {}
    }
    broken
}

/// The name of an HTTP header.
pub fn header_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    let rule = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![pattern(rule, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// The name of a sysctl, with dots or slashes between its segments.
pub fn sysctl_name(text: &str) -> Vec<String> {
    let segment = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
    let well_formed = text.split(['.', '/']).all(|segment| is_label(segment, |b| b == b'-' || b == b'_'));
    if text.len() <= 253 && well_formed {
        return Vec::new();
    }
    vec![format!("must have at most 253 characters and match regex ^({segment}[\\./])*{segment}$")]
}

/// An IP address as a field that always had to be strict takes it.
pub fn ip_address(text: &str) -> Vec<String> {
    match text.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".into()]
        }
        Ok(_) => Vec::new(),
        Err(_) if is_ip_with_leading_zeros(text) => vec!["must not have leading 0s".into()],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
    }
}

fn is_ip_with_leading_zeros(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    parts.len() == 4
        && parts.iter().all(|part| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_digit())
                && part.trim_start_matches('0').len() <= 3
                && part.parse::<u32>().is_ok_and(|number| number <= 255)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_accept_and_refuse() {
        type Rule = fn(&str) -> Vec<String>;
        let table: [(&str, Rule, &[&str], &[&str]); 8] = [
            ("label", dns_label, &["a", "a-b", "1"], &["", "A", "a.b", "-a", "a-", "a_b"]),
            ("subdomain", dns_subdomain, &["a", "a.b-c.1"], &["", "a..b", ".a", "a.", "a_b"]),
            ("search", dns_subdomain_with_underscore, &["_tcp.x", "a_b.c"], &["__x", "a_", ""]),
            ("key", qualified_name, &["a", "A.b_c-d", "x.y/z"], &["", "/a", "a/", "a/b/c", "X/a", "-a"]),
            ("value", label_value, &["", "a", "A.b"], &["a/b", "-", "a."]),
            ("port", port_name, &["http", "a1"], &["", "80", "a--b", "-a", "UPPER", "much-too-long-it-is"]),
            ("sysctl", sysctl_name, &["net.ipv4.x", "net/ipv4/x", "a_b"], &["", "a..b", "A"]),
            ("ip", ip_address, &["1.2.3.4", "::1"], &["", "1.2.3", "01.2.3.4", "::ffff:1.2.3.4", "x"]),
        ];
        for (name, rule, good, bad) in table {
            good.iter().for_each(|text| assert_eq!(rule(text), Vec::<String>::new(), "{name} {text:?}"));
            bad.iter().for_each(|text| assert_ne!(rule(text), Vec::<String>::new(), "{name} {text:?}"));
        }
    }
}
