//! Environment variables and what they may be taken from.
//!
//! Owns the rules of `env` and `envFrom`, and the field selectors that the downward API volume shares.

use k8s_openapi::api::core::v1::{
    Container, EnvVar, FileKeySelector, ObjectFieldSelector, ResourceFieldSelector,
};

use super::field::{Errors, Path};
use super::{Facts, names, text, volumes};
use crate::quantity::Amount;

/// Pod fields that a variable may show, beside single labels and annotations.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Pod fields that are named but cannot all be shown everywhere.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `env` and `envFrom` of a container.
pub(super) fn validate(errors: &mut Errors, container: &Container, path: &Path) {
    let list = path.child("env");
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let path = list.index(index);
        match variable.name.as_str() {
            "" => errors.required(&path.child("name"), ""),
            name => errors.invalid_each(&path.child("name"), name, names::variable_name(name)),
        }
        value_from(errors, variable, &path.child("valueFrom"));
    }
    let list = path.child("envFrom");
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        let path = list.index(index);
        let prefix = text(&source.prefix);
        if !prefix.is_empty() {
            errors.invalid_each(&path.child("prefix"), prefix, names::variable_name(prefix));
        }
        let config_map = source.config_map_ref.as_ref().map(|source| ("configMapRef", source.name.as_str()));
        let secret = source.secret_ref.as_ref().map(|source| ("secretRef", source.name.as_str()));
        for (kind, name) in config_map.into_iter().chain(secret) {
            let path = path.child(kind).child("name");
            match name {
                "" => errors.required(&path, ""),
                name => errors.invalid_each(&path, name, names::dns_subdomain(name)),
            }
        }
        match (config_map, secret) {
            (None, None) => errors.invalid(&list, "", "must specify one of: `configMapRef` or `secretRef`"),
            (Some(_), Some(_)) => {
                errors.invalid(&list, "", "may not have more than one field specified at a time")
            }
            _ => {}
        }
    }
}

fn value_from(errors: &mut Errors, variable: &EnvVar, path: &Path) {
    let Some(source) = &variable.value_from else { return };
    let mut count = 0;
    if let Some(selector) = &source.field_ref {
        count += 1;
        field_selector(errors, selector, ENV_FIELDS, &path.child("fieldRef"));
    }
    if let Some(selector) = &source.resource_field_ref {
        count += 1;
        resource_selector(errors, selector, false, &path.child("resourceFieldRef"));
    }
    let keys = [
        ("configMapKeyRef", source.config_map_key_ref.as_ref().map(|s| (&s.name, &s.key))),
        ("secretKeyRef", source.secret_key_ref.as_ref().map(|s| (&s.name, &s.key))),
    ];
    for (kind, selector) in keys {
        let Some((name, key)) = selector else { continue };
        count += 1;
        let path = path.child(kind);
        errors.invalid_each(&path.child("name"), name, names::dns_subdomain(name));
        match key.as_str() {
            "" => errors.required(&path.child("key"), ""),
            key => errors.invalid_each(&path.child("key"), key, names::config_key(key)),
        }
    }
    if let Some(selector) = &source.file_key_ref {
        count += 1;
        file_selector(errors, selector, &path.child("fileKeyRef"));
    }
    if count == 0 {
        errors.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
    } else if !text(&variable.value).is_empty() {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

fn file_selector(errors: &mut Errors, selector: &FileKeySelector, path: &Path) {
    match selector.key.as_str() {
        "" => errors.required(&path.child("key"), ""),
        key => errors.invalid_each(&path.child("key"), key, names::variable_name(key)),
    }
    match selector.volume_name.as_str() {
        "" => errors.required(&path.child("volumeName"), ""),
        name => errors.invalid_each(&path.child("volumeName"), name, names::dns_label(name)),
    }
    match selector.path.as_str() {
        "" => errors.required(&path.child("path"), ""),
        file => volumes::no_backsteps(errors, file, &path.child("path")),
    }
}

/// Variables from files have to name an emptyDir of the pod.
pub(super) fn file_key_volumes(errors: &mut Errors, facts: &Facts<'_>, path: &Path) {
    let lists = [
        ("initContainers", facts.spec.init_containers.as_deref().unwrap_or_default()),
        ("containers", facts.spec.containers.as_slice()),
    ];
    for (list, containers) in lists {
        for (index, container) in containers.iter().enumerate() {
            let path = path.child(list).index(index).child("env");
            for (index, variable) in container.env.iter().flatten().enumerate() {
                let Some(file) = variable.value_from.as_ref().and_then(|source| source.file_key_ref.as_ref())
                else {
                    continue;
                };
                let path = path.index(index).child("valueFrom").child("fileKeyRef").child("volumeName");
                let mut volumes = facts.spec.volumes.iter().flatten();
                match volumes.find(|volume| volume.name == file.volume_name) {
                    None => errors.not_found(&path, &file.volume_name),
                    Some(volume) if volume.empty_dir.is_none() => {
                        let rule = "referenced volume must be of type emptyDir";
                        errors.invalid(&path, &file.volume_name, rule);
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

/// A selector of one of the pod's own fields; `allowed` depends on where it stands.
pub(super) fn field_selector(
    errors: &mut Errors,
    selector: &ObjectFieldSelector,
    allowed: &[&str],
    path: &Path,
) {
    let version = text(&selector.api_version);
    let field = selector.field_path.as_str();
    if version.is_empty() {
        return errors.required(&path.child("apiVersion"), "");
    }
    if field.is_empty() {
        return errors.required(&path.child("fieldPath"), "");
    }
    let mut cannot_convert = |reason: String| {
        errors.invalid(&path.child("fieldPath"), field, format!("error converting fieldPath: {reason}"));
    };
    if version != "v1" {
        return cannot_convert(format!("unsupported pod version: {version}"));
    }
    if let Some((base, subscript)) = field.strip_suffix("']").and_then(|field| field.split_once("['"))
        && !base.is_empty()
    {
        return match base {
            "metadata.annotations" => {
                let key = subscript.to_lowercase();
                errors.invalid_each(path, &key, names::qualified_name(&key));
            }
            "metadata.labels" => errors.invalid_each(path, subscript, names::qualified_name(subscript)),
            _ => cannot_convert(format!("field label does not support subscript: {field}")),
        };
    }
    let field = if field == "spec.host" { "spec.nodeName" } else { field };
    if !KNOWN_FIELDS.contains(&field) {
        return cannot_convert(format!("field label not supported: {field}"));
    }
    errors.optional_one_of(&path.child("fieldPath"), Some(field), allowed);
}

/// A selector of a container's resources.
pub(super) fn resource_selector(
    errors: &mut Errors,
    selector: &ResourceFieldSelector,
    needs_container: bool,
    path: &Path,
) {
    let resource = selector.resource.as_str();
    let huge_page = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if needs_container && text(&selector.container_name).is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !huge_page {
        errors.optional_one_of(&path.child("resource"), Some(resource), RESOURCES);
    }
    let Some(divisor) = selector.divisor.as_ref().and_then(|divisor| Amount::of(divisor).ok()) else {
        return;
    };
    if divisor.is_zero() {
        return;
    }
    let sizes = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let what = match resource.split_once('.').map(|(_, name)| name) {
        Some("cpu") if !["1m", "1"].contains(&divisor.to_string().as_str()) => {
            let rule = "only divisor's values 1m and 1 are supported with the cpu resource";
            return errors.invalid(&path.child("divisor"), resource, rule);
        }
        Some("memory") => "memory",
        Some("ephemeral-storage") => "local ephemeral storage",
        _ if huge_page => "hugepages",
        _ => return,
    };
    if !sizes.contains(&divisor.to_string().as_str()) {
        let rule =
            format!("only divisor's values {} are supported with the {what} resource", sizes.join(", "));
        errors.invalid(&path.child("divisor"), resource, rule);
    }
}
