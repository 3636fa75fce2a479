//! Volumes that are images: which of them a container mounts, and which runtimes can mount one.
//!
//! Owns these two decisions; the runtime mounts them, the worker has them pulled first. The version of containerd is
//! that in which its CRI plugin learnt the field `image` of a mount.

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod};

/// First containerd that mounts images.
const CONTAINERD: (u32, u32) = (2, 1);

/// Images that a container mounts, with the volumes' names, each once, in the order of the pod's volumes.
pub fn image_volumes<'a>(pod: &'a Pod, container: &Container) -> Vec<(&'a str, &'a ImageVolumeSource)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mounted = |name: &str| container.volume_mounts.iter().flatten().any(|mount| mount.name == name);
    volumes
        .filter(|volume| mounted(&volume.name))
        .filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?)))
        .collect()
}

/// Why a runtime that is known not to mount images cannot: it would answer with nonsense about an empty path. Nothing is
/// said against one that is not known.
pub fn unsupported_by(runtime: &str, version: &str) -> Option<String> {
    if runtime != "containerd" {
        return None;
    }
    let mut parts = version.trim_start_matches('v').split(['.', '-', '~', '+']);
    let major: u32 = parts.next()?.parse().ok()?;
    let minor: u32 = parts.next()?.parse().ok()?;
    ((major, minor) < CONTAINERD).then(|| {
        let (major, minor) = CONTAINERD;
        format!("the container runtime ({runtime} {version}) cannot mount images as volumes; {runtime} {major}.{minor} and later can")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_gets_the_images_it_mounts() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {
                "containers": [
                    {"name": "a", "volumeMounts": [
                        {"name": "two", "mountPath": "/2"}, {"name": "one", "mountPath": "/1"},
                        {"name": "one", "mountPath": "/1b"}, {"name": "none", "mountPath": "/n"},
                    ]},
                    {"name": "b"},
                ],
                "volumes": [
                    {"name": "none", "emptyDir": {}}, {"name": "one", "image": {"reference": "r1"}},
                    {"name": "two", "image": {"reference": "r2"}}, {"name": "three", "image": {"reference": "r3"}},
                ],
            },
        }))
        .unwrap();
        let check = |index: usize, expected: &[&str]| {
            let container = &pod.spec.as_ref().unwrap().containers[index];
            let found: Vec<&str> = image_volumes(&pod, container).into_iter().map(|(name, _)| name).collect();
            assert_eq!(found, expected);
        };
        check(0, &["one", "two"]);
        check(1, &[]);
    }

    #[test]
    fn only_what_is_known_to_fail_is_refused() {
        let check = |runtime: &str, version: &str, refused: bool| {
            assert_eq!(unsupported_by(runtime, version).is_some(), refused, "{runtime} {version}");
        };
        check("containerd", "1.6.20~ds1", true);
        check("containerd", "v1.7.27", true);
        check("containerd", "v2.0.5", true);
        check("containerd", "2.1.0-beta.1", false);
        check("containerd", "v2.2.0", false);
        check("containerd", "v10.0.0", false);
        check("containerd", "unknown", false);
        check("containerd", "", false);
        check("cri-o", "1.20.0", false);
    }
}
