//! The SELinux label that a driver's volume is mounted with (`-o context=…`), instead of labelling its files one by one.
//!
//! Owns when that may be done: by default only for volumes of one pod (`ReadWriteOncePod`), drivers that say they can
//! (`seLinuxMount`) and pods that do not ask for files to be labelled (`seLinuxChangePolicy`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, SELinuxOptions};
use k8s_openapi::api::storage::v1::CSIDriver;

use super::CsiVolume;
use crate::containers::{ephemeral_as_container, regular_containers, spec_of};

/// Containers of the pod use the volume with different labels, of which a mount has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("multiple SELinux labels found: {}", labels.join(","))]
pub struct LabelConflict {
    /// The labels, sorted.
    pub labels: Vec<String>,
}

/// The label of the mount; `None` leaves the labels to the runtime. `file_label`: that of the files of containers on
/// this node, `None` without SELinux. `volume_name` is the pod's name for the volume.
///
/// # Errors
/// When the pod's containers do not agree on a label.
pub fn mount_label(
    volume: &CsiVolume,
    pod: &Pod,
    volume_name: &str,
    driver: Option<&CSIDriver>,
    file_label: Option<&str>,
) -> Result<Option<String>, LabelConflict> {
    let can = driver.is_some_and(|driver| driver.spec.se_linux_mount == Some(true));
    let one_pod = !volume.inline && volume.access_modes == ["ReadWriteOncePod"];
    let (Some(file_label), true, true) = (file_label, can, one_pod) else { return Ok(None) };
    let mut labels = BTreeSet::new();
    let spec = spec_of(pod);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(ephemeral_as_container);
    for container in regular_containers(spec).cloned().chain(ephemeral) {
        if container.volume_mounts.iter().flatten().any(|mount| mount.name == volume_name)
            && let Some(options) = effective_options(pod, &container)
        {
            labels.insert(label_of(file_label, &options));
        }
    }
    if labels.len() > 1 {
        return Err(LabelConflict { labels: labels.into_iter().flatten().collect() });
    }
    let context = spec.security_context.as_ref();
    let by_file = context.and_then(|context| context.se_linux_change_policy.as_deref()) == Some("Recursive");
    Ok(labels.into_iter().next().flatten().filter(|_| !by_file))
}

fn effective_options(pod: &Pod, container: &k8s_openapi::api::core::v1::Container) -> Option<SELinuxOptions> {
    let of_container =
        container.security_context.as_ref().and_then(|context| context.se_linux_options.clone());
    let of_pod = spec_of(pod).security_context.as_ref().and_then(|context| context.se_linux_options.clone());
    of_container.or(of_pod)
}

/// The label of files for processes with these options: user and level are theirs, the rest the node's. `None` without
/// a level, because the runtime makes one up for each container, which nobody can know before.
fn label_of(file_label: &str, options: &SELinuxOptions) -> Option<String> {
    let mut parts = file_label.splitn(4, ':');
    let (user, role, kind) = (parts.next()?, parts.next()?, parts.next()?);
    let given = |option: &Option<String>| option.clone().filter(|text| !text.is_empty());
    let level = given(&options.level)?;
    let user = given(&options.user).unwrap_or_else(|| user.to_owned());
    Some(format!("{user}:{role}:{kind}:{level}"))
}

/// The mount option for a label, which may have commas.
pub fn context_option(label: &str) -> String {
    format!("context=\"{label}\"")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures::pod;
    use crate::volumes::tests::csi_volume;

    const FILES: &str = "system_u:object_r:container_file_t:s0";

    fn label(spec: &Value, modes: &[&str], can: bool) -> Result<Option<String>, String> {
        let driver: CSIDriver = serde_json::from_value(json!({"spec": {"seLinuxMount": can}})).unwrap();
        let access_modes = modes.iter().map(|mode| (*mode).to_owned()).collect();
        let volume = CsiVolume { access_modes, ..csi_volume() };
        mount_label(&volume, &pod(spec.clone()), "data", Some(&driver), Some(FILES))
            .map_err(|conflict| conflict.to_string())
    }

    fn container(level: Option<&str>, mounts: bool) -> Value {
        let mounts = if mounts { json!([{"name": "data", "mountPath": "/d"}]) } else { json!([]) };
        let options = level.map(|level| json!({"level": level}));
        json!({"name": "c", "volumeMounts": mounts, "securityContext": {"seLinuxOptions": options}})
    }

    #[test]
    fn one_label_of_one_pod_is_mounted() {
        let plain = json!({"containers": [container(Some("s0:c1,c2"), true)]});
        let labelled = Some("system_u:object_r:container_file_t:s0:c1,c2".to_owned());
        assert_eq!(label(&plain, &["ReadWriteOncePod"], true), Ok(labelled.clone()));
        assert_eq!(label(&plain, &["ReadWriteOncePod"], false), Ok(None));
        assert_eq!(label(&plain, &["ReadWriteOnce"], true), Ok(None));
        assert_eq!(label(&plain, &["ReadWriteOncePod", "ReadWriteOnce"], true), Ok(None));

        // The pod's options count where a container has none; containers that do not mount it do not.
        let of_pod = json!({
            "securityContext": {"seLinuxOptions": {"level": "s0:c1,c2", "user": "u_u", "type": "t"}},
            "containers": [container(None, true), container(Some("s0:c9"), false)],
        });
        assert_eq!(
            label(&of_pod, &["ReadWriteOncePod"], true),
            Ok(Some("u_u:object_r:container_file_t:s0:c1,c2".to_owned()))
        );

        let mut by_file = plain.clone();
        by_file["securityContext"] = json!({"seLinuxChangePolicy": "Recursive"});
        assert_eq!(label(&by_file, &["ReadWriteOncePod"], true), Ok(None));
        by_file["securityContext"] = json!({"seLinuxChangePolicy": "MountOption"});
        assert_eq!(label(&by_file, &["ReadWriteOncePod"], true), Ok(labelled));
    }

    #[test]
    fn labels_that_differ_or_are_not_known_are_no_mounts() {
        let two = json!({"containers": [container(Some("s0:c1"), true)], "initContainers": [container(Some("s0:c2"), true)]});
        assert_eq!(
            label(&two, &["ReadWriteOncePod"], true),
            Err("multiple SELinux labels found: system_u:object_r:container_file_t:s0:c1,\
                 system_u:object_r:container_file_t:s0:c2"
                .to_owned())
        );
        assert_eq!(label(&two, &["ReadWriteMany"], true), Ok(None));
        let unknown = json!({"containers": [container(None, true)]});
        assert_eq!(label(&unknown, &["ReadWriteOncePod"], true), Ok(None));
        let driver: CSIDriver = serde_json::from_value(json!({"spec": {"seLinuxMount": true}})).unwrap();
        let volume = CsiVolume { access_modes: vec!["ReadWriteOncePod".into()], ..csi_volume() };
        let one = pod(json!({"containers": [container(Some("s0"), true)]}));
        assert_eq!(mount_label(&volume, &one, "data", Some(&driver), None), Ok(None));
        assert_eq!(mount_label(&volume, &one, "data", None, Some(FILES)), Ok(None));
        assert_eq!(mount_label(&volume, &one, "data", Some(&driver), Some("nonsense")), Ok(None));
    }

    #[test]
    fn an_option_keeps_its_commas() {
        assert_eq!(context_option("a:b:c:s0:c1,c2"), "context=\"a:b:c:s0:c1,c2\"");
    }
}
