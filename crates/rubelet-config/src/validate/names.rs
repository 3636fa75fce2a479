//! The shapes of names: qualified names, label values, sysctl patterns, image patterns, CPU sets.
//!
//! Owns upstream's `IsQualifiedName`, `IsValidLabelValue`, `IsValidSysctlPattern`,
//! `ValidateAllowlistImagesPatterns` and `cpuset.Parse` as yes-or-why functions over text.

use rubelet_core::admission::check_sysctl_pattern;

/// Why a text is no label or taint key, if it is none.
pub(super) fn qualified_name(text: &str) -> Result<(), String> {
    let name = match text.split_once('/') {
        None => text,
        Some((prefix, name)) => {
            if !is_dns_subdomain(prefix) {
                return Err(format!("the prefix {prefix:?} is no DNS subdomain"));
            }
            name
        }
    };
    if name.is_empty() || name.len() > 63 || !is_label_text(name) {
        return Err(
            "the name must be 1 to 63 letters, digits, '-', '_' or '.', starting and ending with a letter or digit"
                .to_owned(),
        );
    }
    Ok(())
}

/// Why a text is no label value, if it is none.
pub(super) fn label_value(text: &str) -> Result<(), String> {
    if text.len() > 63 || !(text.is_empty() || is_label_text(text)) {
        return Err(
            "a label value must be at most 63 letters, digits, '-', '_' or '.', starting and ending with a letter or digit"
                .to_owned(),
        );
    }
    Ok(())
}

fn is_label_text(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    ends(text.chars().next())
        && ends(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn is_dns_subdomain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

/// Why a text is no sysctl pattern that may be allowed, if it is none.
pub(super) fn sysctl_pattern(text: &str) -> Result<(), String> {
    let segments: Vec<&str> = text.split(['.', '/']).collect();
    let last = segments.len() - 1;
    let well_formed = segments.iter().enumerate().all(|(index, segment)| {
        let body = if index == last { segment.strip_suffix('*').unwrap_or(segment) } else { segment };
        let wildcard = body.len() < segment.len();
        (wildcard && body.is_empty()) || is_sysctl_segment(body, wildcard)
    });
    if text.len() > 253 || !well_formed {
        return Err("not a sysctl name or a pattern ending in *".to_owned());
    }
    // What is namespaced is admission's to know.
    check_sysctl_pattern(text).map_err(|_| {
        "this sysctl belongs to the whole node; only kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.* are per pod".to_owned()
    })
}

fn is_sysctl_segment(text: &str, wildcard: bool) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    edge(bytes.first())
        && (wildcard || edge(bytes.last()))
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
}

/// Why a text is no pattern of preloaded images, if it is none.
pub(super) fn image_pattern(text: &str) -> Result<(), &'static str> {
    if text != text.trim() {
        return Err("spaces around the pattern are not allowed");
    }
    if let Some(prefix) = text.strip_suffix("/*") {
        if prefix.is_empty() {
            return Err("at least a registry host is needed before /*");
        }
        if prefix.contains('*') {
            return Err("a wildcard may only be at the end, as /*");
        }
        return Ok(());
    }
    if text.is_empty() {
        return Err("a pattern must not be empty");
    }
    if text.contains('*') {
        return Err("a wildcard may only be at the end, as /*");
    }
    let name = text.rsplit('/').next().unwrap_or(text);
    if name.contains([':', '@']) {
        return Err("neither tag nor digest is allowed");
    }
    Ok(())
}

/// Why a text is no list of CPUs such as `0-3,7`, if it is none.
pub(super) fn cpu_set(text: &str) -> Result<(), String> {
    for part in text.split(',') {
        let bad = || format!("{part:?} is neither a CPU number nor a range such as 0-3");
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.parse().map_err(|_| bad())?;
        let last: u32 = last.parse().map_err(|_| bad())?;
        if first > last {
            return Err(bad());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values() {
        for good in ["a", "A.b_c-1", "example.com/role", "kubernetes.io/hostname"] {
            assert_eq!(qualified_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "/a", "a/", "a/b/c", "Example.com/a", "a b", &"x".repeat(64)] {
            assert!(qualified_name(bad).is_err(), "{bad}");
        }
        assert_eq!(label_value(""), Ok(()));
        assert!(label_value("a b").is_err());
    }

    #[test]
    fn sysctls() {
        for good in [
            "net.ipv4.ip_forward",
            "net.*",
            "kernel.shm*",
            "kernel.msgmax",
            "net/ipv4/conf/eth0.1/x",
            "fs.mqueue.*",
            "net.ipv4.*",
        ] {
            assert_eq!(sysctl_pattern(good), Ok(()), "{good}");
        }
        for bad in ["", "*", "kernel.*", "vm.swappiness", "net.*.x", "Net.x", "net..x"] {
            assert!(sysctl_pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn image_patterns() {
        for good in ["busybox", "registry.local:5000/a/b", "example.com/*", "example.com/a/*"] {
            assert_eq!(image_pattern(good), Ok(()), "{good}");
        }
        for bad in ["", " a", "/*", "a*", "a/*/b", "busybox:1", "a/b@sha256:00"] {
            assert!(image_pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cpu_sets() {
        for good in ["0", "0-3", "0-3,7,9-9"] {
            assert_eq!(cpu_set(good), Ok(()), "{good}");
        }
        for bad in ["", "a", "3-0", "0,", "0-", "-1"] {
            assert!(cpu_set(bad).is_err(), "{bad}");
        }
    }
}
