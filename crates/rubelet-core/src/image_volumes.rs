//! Volumes that are images: which of them a container mounts, and which runtimes can mount one.
//!
//! Owns these two decisions; the runtime mounts them, the worker has them pulled first. The version of containerd is
//! that in which its CRI plugin learnt the field `image` of a mount.

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod};

/// First containerd that mounts images.
const CONTAINERD: (u32, u32) = (2, 1);
/// First containerd that mounts parts of them.
const CONTAINERD_PARTS: (u32, u32) = (2, 2);

/// Images that a container mounts, with the volumes' names, each once, in the order of the pod's volumes.
pub fn image_volumes<'a>(pod: &'a Pod, container: &Container) -> Vec<(&'a str, &'a ImageVolumeSource)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mounted = |name: &str| container.volume_mounts.iter().flatten().any(|mount| mount.name == name);
    volumes
        .filter(|volume| mounted(&volume.name))
        .filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?)))
        .collect()
}

/// Why a runtime that is known not to mount images, or not by `part` (subPath), cannot: without the first it answers with
/// nonsense about an empty path, without the second it would show the container the whole image and say nothing. Nothing
/// is said against a runtime that is not known.
pub fn unsupported_by(runtime: &str, version: &str, part: bool) -> Option<String> {
    if runtime != "containerd" {
        return None;
    }
    let mut parts = version.trim_start_matches('v').split(['.', '-', '~', '+']);
    let major: u32 = parts.next()?.parse().ok()?;
    let minor: u32 = parts.next()?.parse().ok()?;
    let (needs, what) = if (major, minor) < CONTAINERD {
        (CONTAINERD, "images as volumes")
    } else if part && (major, minor) < CONTAINERD_PARTS {
        (CONTAINERD_PARTS, "a subPath of an image")
    } else {
        return None;
    };
    let (major, minor) = needs;
    Some(format!(
        "the container runtime ({runtime} {version}) cannot mount {what}; {runtime} {major}.{minor} and later can"
    ))
}

/// Whether the container mounts only a part of one of its images.
pub fn mounts_parts(pod: &Pod, container: &Container) -> bool {
    let images = image_volumes(pod, container);
    container.volume_mounts.iter().flatten().any(|mount| {
        let path = mount.sub_path.as_deref().or(mount.sub_path_expr.as_deref()).unwrap_or_default();
        !path.is_empty() && images.iter().any(|(name, _)| *name == mount.name)
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
                        {"name": "one", "mountPath": "/1b", "subPath": "x"}, {"name": "none", "mountPath": "/n"},
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
        assert!(mounts_parts(&pod, &pod.spec.as_ref().unwrap().containers[0]));
        assert!(!mounts_parts(&pod, &pod.spec.as_ref().unwrap().containers[1]));
        check(0, &["one", "two"]);
        check(1, &[]);
    }

    #[test]
    fn only_what_is_known_to_fail_is_refused() {
        let check = |runtime: &str, version: &str, whole: bool, part: bool| {
            let refused = [false, true].map(|part| unsupported_by(runtime, version, part).is_some());
            assert_eq!(refused, [whole, part], "{runtime} {version}");
        };
        check("containerd", "1.6.20~ds1", true, true);
        check("containerd", "v1.7.27", true, true);
        check("containerd", "v2.0.5", true, true);
        check("containerd", "2.1.0-beta.1", false, true);
        check("containerd", "v2.2.0", false, false);
        check("containerd", "v10.0.0", false, false);
        check("containerd", "unknown", false, false);
        check("containerd", "", false, false);
        check("cri-o", "1.20.0", false, false);
    }
}
