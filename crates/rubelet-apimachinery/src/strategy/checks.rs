//! Rules that several kinds share: labels and selectors, quantities, addresses, immutable fields.
//!
//! Owns no kind and no wording of its own: each says what kube-apiserver's function of the same purpose says.

use std::net::IpAddr;

use rubelet_core::quantity::Amount;
use rubelet_core::validation::field::{Errors, FieldError, Json, Path, Reason};
use rubelet_core::validation::names;
use serde_json::Value;

use super::value::{entries, has, items, text};

/// What protocols ports have.
pub(crate) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// A field that may not change.
pub(crate) fn immutable(errors: &mut Errors, path: &Path, new: &Value, old: &Value) {
    if new != old {
        errors.invalid(path, &Json(new), "field is immutable");
    }
}

/// An object that may not change but for one of its fields.
pub(crate) fn immutable_but(errors: &mut Errors, path: &Path, new: &Value, old: &Value, but: &str) {
    let fixed = |object: &Value| {
        let mut object = object.clone();
        super::value::remove(&mut object, &[but]);
        object
    };
    if fixed(new) != fixed(old) {
        errors.invalid(path, &Json(new), "field is immutable");
    }
}

/// A value that occurs twice and is no text.
pub(crate) fn duplicate(errors: &mut Errors, path: &Path, value: &Value) {
    errors.0.push(FieldError {
        // A path prints as nothing but itself.
        field: path_text(path),
        reason: Reason::Duplicate,
        value: Some(value.to_string()),
        detail: String::new(),
    });
}

fn path_text(path: &Path) -> String {
    let mut probe = Errors::default();
    probe.required(path, "");
    probe.0.pop().map(|error| error.field).unwrap_or_default()
}

/// A name that can be part of a path (`IsPathSegmentName`).
pub(crate) fn path_segment(name: &str) -> Vec<String> {
    if matches!(name, "." | "..") {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"].iter().filter(|c| name.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// A finalizer without a domain is one of the well-known ones.
pub(crate) fn standard_finalizer(errors: &mut Errors, path: &Path, finalizer: &str) {
    if !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion") {
        errors.invalid(
            path,
            finalizer,
            "name is neither a standard finalizer name nor is it fully qualified",
        );
    }
}

/// A map of labels.
pub(crate) fn labels(errors: &mut Errors, path: &Path, labels: &Value) {
    for (key, value) in entries(labels, &[]) {
        errors.invalid_each(path, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        errors.invalid_each(path, value, names::label_value(value));
    }
}

/// A qualified name that has to be there (`ValidateQualifiedName`).
pub(crate) fn qualified(errors: &mut Errors, path: &Path, name: &str) {
    errors.invalid_each(path, name, names::qualified_name(name));
}

/// A `LabelSelector`.
pub(crate) fn label_selector(errors: &mut Errors, path: &Path, selector: &Value) {
    labels(errors, &path.child("matchLabels"), &selector["matchLabels"]);
    for (index, requirement) in items(selector, &["matchExpressions"]).iter().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let values = items(requirement, &["values"]);
        match text(requirement, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                errors
                    .required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.forbidden(
                    &path.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        let key = text(requirement, &["key"]);
        errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            errors.invalid_each(&path.child("values").index(index), value, names::label_value(value));
        }
    }
}

/// A `NodeSelector`.
pub(crate) fn node_selector(errors: &mut Errors, path: &Path, selector: &Value) {
    let path = path.child("nodeSelectorTerms");
    let terms = items(selector, &["nodeSelectorTerms"]);
    if terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (index, term) in terms.iter().enumerate() {
        let path = path.index(index);
        for (index, requirement) in items(term, &["matchExpressions"]).iter().enumerate() {
            node_requirement(errors, &path.child("matchExpressions").index(index), requirement);
        }
        for (index, requirement) in items(term, &["matchFields"]).iter().enumerate() {
            let path = path.child("matchFields").index(index);
            match text(requirement, &["key"]) {
                "metadata.name" => {}
                other => errors.invalid(&path.child("key"), other, "not a valid field selector key"),
            }
        }
    }
}

fn node_requirement(errors: &mut Errors, path: &Path, requirement: &Value) {
    let values = items(requirement, &["values"]);
    let at = path.child("values");
    match text(requirement, &["operator"]) {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&at, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(&at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(&at, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    let key = text(requirement, &["key"]);
    errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
    for (index, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or_default();
        errors.invalid_each(&at.index(index), value, names::label_value(value));
    }
}

/// The amount a quantity says; nothing for what is none.
pub(crate) fn amount(quantity: &Value) -> Option<Amount> {
    quantity.as_str().and_then(|text| Amount::parse(text.trim()).ok())
}

/// A quantity above zero.
pub(crate) fn positive_quantity(errors: &mut Errors, path: &Path, quantity: &Value) {
    let bad = amount(quantity).is_none_or(|amount| amount.is_negative() || amount.is_zero());
    if bad {
        errors.invalid(path, &Json(quantity), "must be greater than zero");
    }
}

/// A quantity that is not below zero.
pub(crate) fn quantity(errors: &mut Errors, path: &Path, quantity: &Value) {
    if amount(quantity).is_none_or(Amount::is_negative) {
        errors.invalid(path, &Json(quantity), "must be greater than or equal to 0");
    }
}

/// An IP address in a field that has always taken sloppy ones: leading zeros are read as decimal.
pub(crate) fn sloppy_ip(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() != 4 {
        return None;
    }
    let trimmed: Vec<&str> = parts
        .iter()
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0",
            rest => rest,
        })
        .collect();
    trimmed.join(".").parse().ok()
}

/// An IP address in a field that predates strict reading (`IsValidIPForLegacyField`); true when it is fine.
pub(crate) fn legacy_ip(errors: &mut Errors, path: &Path, text: &str) -> bool {
    let broken = names::ip_address(text);
    let fine = broken.is_empty();
    errors.invalid_each(path, text, broken);
    fine
}

/// An address that traffic can be sent to (`ValidateEndpointIP`).
pub(crate) fn endpoint_ip(errors: &mut Errors, path: &Path, text: &str) {
    let Some(address) = sloppy_ip(text) else {
        errors.invalid(path, text, "must be a valid IP address");
        return;
    };
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets().starts_with(&[224, 0, 0])),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        errors.invalid(path, text, format!("may not be unspecified ({text})"));
    }
    if address.is_loopback() {
        errors.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        errors.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        errors.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

/// A network such as `10.0.0.0/8`.
pub(crate) fn cidr(errors: &mut Errors, path: &Path, text: &str) {
    let fine = text.split_once('/').is_some_and(|(address, length)| {
        let most = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        !length.starts_with('+') && length.parse::<u8>().is_ok_and(|length| length <= most)
    });
    if !fine {
        errors.invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
}

/// The port of a service or an endpoint: protocol and application protocol.
pub(crate) fn protocols(errors: &mut Errors, path: &Path, port: &Value) {
    errors.one_of(&path.child("protocol"), port["protocol"].as_str(), PROTOCOLS);
    if has(port, &["appProtocol"]) {
        qualified(errors, &path.child("appProtocol"), text(port, &["appProtocol"]));
    }
}

/// A number of a port (32 bits in the types).
pub(crate) fn port_number(errors: &mut Errors, path: &Path, port: &Value) {
    let number = port.as_i64().unwrap_or(0);
    let broken = i32::try_from(number).map(names::port_number).unwrap_or_default();
    errors.invalid_each(path, &number, broken);
}

/// The name of a CSI driver.
pub(crate) fn csi_driver_name(errors: &mut Errors, path: &Path, name: &str) {
    if name.is_empty() {
        errors.required(path, "");
    }
    if name.len() > 63 {
        errors.too_long(path, 63);
    }
    if !name.is_empty() {
        errors.invalid_each(path, name, names::dns_subdomain(&name.to_lowercase()));
    }
}
