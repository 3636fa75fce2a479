//! The ServiceAccount plugin: who a pod is, and the token, CA and namespace that tell it so.
//!
//! Owns the account's name, the projected volume and the pull secrets that come with the account.

use k8s_openapi::api::core::v1::{Container, LocalObjectReference, Pod, Volume, VolumeMount};
use rubelet_core::projection::{ObjectKind, references};
use serde_json::{Value, json};

use super::super::Change;
use super::{forbidden, is_mirror, read, text};
use crate::kinds;
use crate::status::ApiError;

const DEFAULT_ACCOUNT: &str = "default";
/// Before the random part of the volume's name.
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// One hour, and seven seconds by which servers tell their own tokens from those that were asked for.
const TOKEN_SECONDS: i64 = 3607;

/// Gives a new pod its account and what comes with it.
pub(super) fn admit(change: &Change<'_>, pod: &mut Pod) -> Result<(), ApiError> {
    if is_mirror(pod) {
        return check_mirror(change, pod);
    }
    let name = {
        let spec = pod.spec.get_or_insert_default();
        if text(&spec.service_account_name).is_empty() {
            spec.service_account_name = Some(DEFAULT_ACCOUNT.to_owned());
        }
        spec.service_account = spec.service_account_name.clone();
        text(&spec.service_account_name).to_owned()
    };
    // Every namespace is given its default account a moment after it is made. Upstream waits for it here; what it says
    // is known before.
    let account = look_up(change, &name).or_else(|| (name == DEFAULT_ACCOUNT).then(|| json!({})));
    let account = account.ok_or_else(|| {
        let namespace = change.namespace;
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
        );
        forbidden(change, pod, &why)
    })?;
    let spec = pod.spec.get_or_insert_default();
    let automount = spec
        .automount_service_account_token
        .or_else(|| account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if automount {
        let name = spec.volumes.iter().flatten().find(|volume| volume.name.starts_with(VOLUME_PREFIX));
        let found = name.map(|volume| volume.name.clone());
        let name = found.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", (change.random)(5)));
        let mut needed = false;
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            needed |= mount(container, &name);
        }
        if needed && found.is_none() {
            spec.volumes.get_or_insert_default().push(volume(&name)?);
        }
    }
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        let secrets = account["imagePullSecrets"].as_array().into_iter().flatten();
        let secrets: Vec<LocalObjectReference> = secrets
            .filter_map(|secret| Some(LocalObjectReference { name: secret["name"].as_str()?.to_owned() }))
            .collect();
        spec.image_pull_secrets = Some(secrets).filter(|secrets| !secrets.is_empty());
    }
    Ok(())
}

fn look_up(change: &Change<'_>, name: &str) -> Option<Value> {
    change.lookup.get(kinds::find("", "v1", "serviceaccounts")?, change.namespace, name)
}

/// A mirror pod stands for a process that no API object could be given to.
fn check_mirror(change: &Change<'_>, pod: &Pod) -> Result<(), ApiError> {
    let spec = super::spec(pod);
    if !text(&spec.service_account_name).is_empty() {
        return Err(forbidden(change, pod, "a mirror pod may not reference service accounts"));
    }
    if references(pod).iter().any(|reference| reference.kind == ObjectKind::Secret)
        || spec.image_pull_secrets.as_ref().is_some_and(|secrets| !secrets.is_empty())
    {
        return Err(forbidden(change, pod, "a mirror pod may not reference secrets"));
    }
    let sources = spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    if sources.flat_map(|s| s.sources.iter().flatten()).any(|s| s.service_account_token.is_some()) {
        let why = "a mirror pod may not use ServiceAccountToken volume projections";
        return Err(forbidden(change, pod, why));
    }
    Ok(())
}

/// Mounts the volume, unless something is there already; says whether it did.
fn mount(container: &mut Container, volume: &str) -> bool {
    let mounts = container.volume_mounts.get_or_insert_default();
    if mounts.iter().any(|mount| mount.mount_path == MOUNT_PATH) {
        return false;
    }
    mounts.push(VolumeMount {
        name: volume.to_owned(),
        read_only: Some(true),
        mount_path: MOUNT_PATH.to_owned(),
        ..VolumeMount::default()
    });
    true
}

fn volume(name: &str) -> Result<Volume, ApiError> {
    read(&json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}}))
}
