//! The host name of a pod.
//!
//! Owns how name, domain and kernel node name follow from the spec (upstream `GeneratePodHostNameAndDomain`,
//! `GetNodenameForKernel`). Called when a sandbox and a hosts file are made.

use k8s_openapi::api::core::v1::Pod;

use crate::containers::spec_of;

/// Longest host name: 64 bytes in the kernel with the closing zero.
const HOSTNAME_LIMIT: usize = 63;
/// Longest fully qualified name that fits the kernel's node name.
const FQDN_LIMIT: usize = 64;

/// Short name and domain of a pod; the domain is empty without a subdomain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodHostname {
    /// Host name without domain.
    pub hostname: String,
    /// `<subdomain>.<namespace>.svc.<cluster domain>`, or empty.
    pub domain: String,
}

/// Why a pod has no valid host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// A name in the spec is not a DNS name.
    #[error("pod {field} {value:?} is not a valid DNS {kind}")]
    Invalid {
        /// Field name as upstream writes it.
        field: &'static str,
        /// What it holds.
        value: String,
        /// `label` or `subdomain`.
        kind: &'static str,
    },
    /// Nothing is left after cutting.
    #[error("hostname for pod {pod:?} was invalid: {hostname:?}")]
    Empty {
        /// Pod name.
        pod: String,
        /// What was cut.
        hostname: String,
    },
    /// `setHostnameAsFQDN` and the name does not fit.
    #[error(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long \
         ({FQDN_LIMIT} characters is the max, {} characters requested)", fqdn.len()
    )]
    FqdnTooLong {
        /// The name.
        fqdn: String,
    },
}

/// Host name and domain of a pod that has its own network namespace.
pub fn pod_hostname(pod: &Pod, cluster_domain: &str) -> Result<PodHostname, HostnameError> {
    let spec = spec_of(pod);
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let invalid = |field, value: &str, kind| HostnameError::Invalid { field, value: value.to_owned(), kind };
    if let Some(hostname) = spec.hostname_override.as_deref() {
        if !is_dns_subdomain(hostname) {
            return Err(invalid("HostnameOverride", hostname, "subdomain"));
        }
        return Ok(PodHostname { hostname: shortened(pod_name, hostname)?, domain: String::new() });
    }
    let hostname = match spec.hostname.as_deref() {
        None | Some("") => pod_name,
        Some(hostname) if is_dns_label(hostname) => hostname,
        Some(hostname) => return Err(invalid("Hostname", hostname, "label")),
    };
    let domain = match spec.subdomain.as_deref() {
        None | Some("") => String::new(),
        Some(subdomain) if is_dns_label(subdomain) => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            format!("{subdomain}.{namespace}.svc.{cluster_domain}")
        }
        Some(subdomain) => return Err(invalid("Subdomain", subdomain, "label")),
    };
    Ok(PodHostname { hostname: shortened(pod_name, hostname)?, domain })
}

/// The name the kernel is given: the short one, or the full one when the pod asks for it.
pub fn kernel_nodename(pod: &Pod, name: &PodHostname) -> Result<String, HostnameError> {
    if name.domain.is_empty() || spec_of(pod).set_hostname_as_fqdn != Some(true) {
        return Ok(name.hostname.clone());
    }
    let fqdn = format!("{}.{}", name.hostname, name.domain);
    if fqdn.len() > FQDN_LIMIT { Err(HostnameError::FqdnTooLong { fqdn }) } else { Ok(fqdn) }
}

fn shortened(pod_name: &str, hostname: &str) -> Result<String, HostnameError> {
    if hostname.len() <= HOSTNAME_LIMIT {
        return Ok(hostname.to_owned());
    }
    let mut end = HOSTNAME_LIMIT;
    while !hostname.is_char_boundary(end) {
        end -= 1;
    }
    let cut = hostname[..end].trim_end_matches(['-', '.']);
    if cut.is_empty() {
        return Err(HostnameError::Empty { pod: pod_name.to_owned(), hostname: hostname.to_owned() });
    }
    Ok(cut.to_owned())
}

/// Whether a text is an RFC 1123 label: at most 63 of `[a-z0-9-]`, alphanumeric at both ends.
pub fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= 63
        && !text.is_empty()
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether a text is an RFC 1123 subdomain: labels joined by dots, at most 253 bytes.
pub fn is_dns_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec}))
            .unwrap()
    }

    #[track_caller]
    fn check(name: &str, spec: serde_json::Value, expected: Result<(&str, &str, &str), &str>) {
        let pod = pod(name, spec);
        let found = pod_hostname(&pod, "cluster.local").and_then(|found| {
            let kernel = kernel_nodename(&pod, &found)?;
            Ok((found.hostname, found.domain, kernel))
        });
        match (&found, expected) {
            (Ok((a, b, c)), Ok(expected)) => assert_eq!((a.as_str(), b.as_str(), c.as_str()), expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            _ => panic!("{found:?}"),
        }
    }

    #[test]
    fn the_name_comes_from_override_hostname_or_pod() {
        check("web", json!({}), Ok(("web", "", "web")));
        check("web", json!({"hostname": "h"}), Ok(("h", "", "h")));
        check("web", json!({"subdomain": "s"}), Ok(("web", "s.shop.svc.cluster.local", "web")));
        check(
            "web",
            json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}),
            Ok(("h", "s.shop.svc.cluster.local", "h.s.shop.svc.cluster.local")),
        );
        check("web", json!({"setHostnameAsFQDN": true}), Ok(("web", "", "web")));
        check(
            "web",
            json!({"hostnameOverride": "a.b", "hostname": "h", "subdomain": "s"}),
            Ok(("a.b", "", "a.b")),
        );
        check("web", json!({"hostname": "Bad"}), Err("pod Hostname \"Bad\" is not a valid DNS label"));
        check("web", json!({"subdomain": "a.b"}), Err("pod Subdomain \"a.b\""));
        check(
            "web",
            json!({"hostnameOverride": "-a"}),
            Err("pod HostnameOverride \"-a\" is not a valid DNS subdomain"),
        );
    }

    #[test]
    fn long_names_are_cut_and_do_not_end_in_punctuation() {
        let long = "a".repeat(70);
        check(&long, json!({}), Ok((&long[..63], "", &long[..63])));
        let dotted = format!("{}-.-{}", "a".repeat(60), "b".repeat(20));
        check(&dotted, json!({}), Ok((&dotted[..60], "", &dotted[..60])));
    }

    #[test]
    fn a_full_name_that_does_not_fit_is_an_error() {
        check(
            &"a".repeat(63),
            json!({"subdomain": "s", "setHostnameAsFQDN": true}),
            Err("is too long (64 characters is the max, 88 characters requested)"),
        );
    }

    proptest! {
        #[test]
        fn a_hostname_never_exceeds_the_kernels_limit(name in "\\PC{0,100}") {
            if let Ok(found) = pod_hostname(&pod(&name, json!({})), "cluster.local") {
                prop_assert!(found.hostname.len() <= HOSTNAME_LIMIT);
            }
        }
    }
}
