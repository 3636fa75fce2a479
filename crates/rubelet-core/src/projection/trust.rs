//! Trust anchors of ClusterTrustBundles, as a projected volume shows them.
//!
//! Owns which bundles a source selects, and the normal form of their certificates: each once, nothing between them
//! (upstream `clustertrustbundle.Manager`). Upstream shuffles them, so that nobody relies on an order; here they are
//! sorted, so that the same bundles make the same file. Called by the payload's maker; never fetches anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Length of a line of base64 in PEM.
const LINE: usize = 64;

/// The file of a source: the anchors of the bundle it names, or of those of its signer that its selector matches.
///
/// # Errors
/// When there is no such bundle and the source is not optional; when its selector makes no sense.
pub fn trust_anchors(
    source: &ClusterTrustBundleProjection,
    bundles: &[Arc<ClusterTrustBundle>],
) -> Result<String, String> {
    let optional = source.optional == Some(true);
    if let Some(name) = &source.name {
        let named = bundles.iter().find(|bundle| bundle.metadata.name.as_ref() == Some(name));
        return match named {
            Some(bundle) => Ok(normal_form([&*bundle.spec.trust_bundle])),
            None if optional => Ok(String::new()),
            None => Err(format!(
                "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io {name:?} not found"
            )),
        };
    }
    let Some(signer) = &source.signer_name else {
        return Err("ClusterTrustBundle projection requires either name or signerName to be set".to_owned());
    };
    let mut chosen = Vec::new();
    for bundle in bundles.iter().filter(|bundle| bundle.spec.signer_name.as_ref() == Some(signer)) {
        let labels = bundle.metadata.labels.as_ref();
        if selects(source.label_selector.as_ref(), labels)? {
            chosen.push(&*bundle.spec.trust_bundle);
        }
    }
    if chosen.is_empty() && !optional {
        return Err("combination of signerName and labelSelector matched zero ClusterTrustBundles".to_owned());
    }
    Ok(normal_form(chosen))
}

/// Whether a selector matches labels: none matches nothing, an empty one everything.
fn selects(
    selector: Option<&LabelSelector>,
    labels: Option<&BTreeMap<String, String>>,
) -> Result<bool, String> {
    let Some(selector) = selector else { return Ok(false) };
    let value = |key: &str| labels.and_then(|labels| labels.get(key));
    let mut matches = selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted));
    for term in selector.match_expressions.iter().flatten() {
        let present = value(&term.key);
        let listed = present.is_some_and(|value| term.values.iter().flatten().any(|wanted| wanted == value));
        matches &= match term.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => present.is_some(),
            "DoesNotExist" => present.is_none(),
            other => {
                return Err(format!(
                    "while parsing label selector: {other:?} is not a valid label selector operator"
                ));
            }
        };
    }
    Ok(matches)
}

/// Every certificate of these PEM texts once; what is no block of PEM is left out.
fn normal_form<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let bodies: BTreeSet<String> = texts.into_iter().flat_map(bodies).collect();
    let mut all = String::new();
    for body in bodies {
        all.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in body.as_bytes().chunks(LINE) {
            // Nothing but base64 is in a body.
            let _always_written = writeln!(all, "{}", String::from_utf8_lossy(line));
        }
        all.push_str("-----END CERTIFICATE-----\n");
    }
    all
}

/// The base64 of each block without its white space.
fn bodies(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in text.lines().map(str::trim_end) {
        if let Some(kind) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
            open = Some((kind, String::new()));
        } else if let Some(kind) = line.strip_prefix("-----END ").and_then(|rest| rest.strip_suffix("-----"))
        {
            if let Some((begun, body)) = open.take()
                && begun == kind
                && is_base64(&body)
            {
                found.push(body);
            }
        } else if let Some((_, body)) = &mut open {
            // Headers of a block are no part of it.
            if !line.contains(':') {
                body.extend(line.chars().filter(|letter| !letter.is_ascii_whitespace()));
            }
        }
    }
    found
}

fn is_base64(body: &str) -> bool {
    let content = body.trim_end_matches('=');
    !content.is_empty()
        && body.len().is_multiple_of(4)
        && body.len() - content.len() <= 2
        && content.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pem(body: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    fn bundles() -> Vec<Arc<ClusterTrustBundle>> {
        let bundle = |name: &str, signer: Option<&str>, labels: Value, text: String| {
            let object = json!({"metadata": {"name": name, "labels": labels},
                "spec": {"signerName": signer, "trustBundle": text}});
            Arc::new(serde_json::from_value(object).unwrap())
        };
        vec![
            bundle("plain", None, json!({}), pem("Q0FC") + "a remark\n" + &pem("Q0FB") + &pem("Q0\nFC")),
            bundle("s:one", Some("s/x"), json!({"env": "live"}), pem("MTEx")),
            bundle("s:two", Some("s/x"), json!({"env": "test"}), pem("MjIy") + &pem("MTEx")),
            bundle("other", Some("s/y"), json!({"env": "live"}), pem("MzMz")),
        ]
    }

    /// What a source shows: the bodies of its certificates, or its error.
    fn check(source: Value, expected: Result<&[&str], &str>) {
        let parsed = serde_json::from_value(source.clone()).unwrap();
        let anchors = trust_anchors(&parsed, &bundles());
        let expected = expected
            .map(|bodies| bodies.iter().map(|body| pem(body)).collect::<String>())
            .map_err(str::to_owned);
        assert_eq!(anchors, expected, "{source}");
    }

    #[test]
    fn bundles_are_named_or_selected() {
        check(json!({"path": "p", "name": "plain"}), Ok(&["Q0FB", "Q0FC"]));
        let nothing = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
        let signed = |selector: Value| json!({"path": "p", "signerName": "s/x", "labelSelector": selector});
        let by = |key: &str, operator: &str, values: Value| {
            signed(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
        };
        check(signed(Value::Null), Err(nothing));
        check(signed(json!({})), Ok(&["MTEx", "MjIy"]));
        check(signed(json!({"matchLabels": {"env": "live"}})), Ok(&["MTEx"]));
        check(by("env", "In", json!(["test", "none"])), Ok(&["MTEx", "MjIy"]));
        check(by("env", "NotIn", json!(["test"])), Ok(&["MTEx"]));
        check(by("env", "Exists", Value::Null), Ok(&["MTEx", "MjIy"]));
        check(by("env", "DoesNotExist", Value::Null), Err(nothing));
        check(
            by("env", "Near", Value::Null),
            Err("while parsing label selector: \"Near\" is not a valid label selector operator"),
        );
    }

    #[test]
    fn what_is_not_there_may_be_optional() {
        check(json!({"path": "p", "name": "none", "optional": true}), Ok(&[]));
        check(
            json!({"path": "p", "name": "none"}),
            Err(
                "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"none\" not found",
            ),
        );
        check(json!({"path": "p", "signerName": "s/z", "labelSelector": {}, "optional": true}), Ok(&[]));
        check(
            json!({"path": "p"}),
            Err("ClusterTrustBundle projection requires either name or signerName to be set"),
        );
    }

    #[test]
    fn long_certificates_get_lines_and_nonsense_is_left_out() {
        let text = normal_form([pem(&"QUJD".repeat(33)).as_str()]);
        let lengths: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(lengths, [27, 64, 64, 4, 25]);
        let nonsense =
            ["", "-----BEGIN A-----\nQUJD\n-----END B-----", "-----BEGIN A-----\nQUJ\n-----END A-----"];
        for text in nonsense.iter().copied().chain(["-----BEGIN A-----", "-----END A-----", "QUJD"]) {
            assert_eq!(normal_form([text]), "", "{text}");
        }
        let headed = "-----BEGIN CERTIFICATE-----\nA: b\n\nQUJD\r\n-----END CERTIFICATE-----";
        assert_eq!(normal_form([headed]), pem("QUJD"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_a_normal_form_that_stays(text in "(-----BEGIN A-----|-----END A-----|\n|[A-Za-z0-9=: ]{0,9}|.){0,40}") {
            let once = normal_form([text.as_str()]);
            proptest::prop_assert_eq!(normal_form([once.as_str()]), once);
        }
    }
}
