//! Whose control group a path names. Pure text; whether such a container is there is for others to know.

use crate::ids::{ContainerId, PodUid};

/// Length of the IDs that containerd, CRI-O and docker give: a SHA-256 in hexadecimal.
const ID_LENGTH: usize = 64;

/// The container whose control group this is, or is above it: `…/<id>`, `…/<runtime>-<id>.scope`, or with a colon where
/// a runtime that knows no systemd was given a name for systemd. The innermost wins: containers run containers.
///
/// What has a sandbox's ID is named like a container. CRI-O's monitor (`crio-conmon-…`) is no container.
pub fn container_of(memcg: &str) -> Option<ContainerId> {
    memcg.rsplit('/').find_map(|component| {
        let stem = component.strip_suffix(".scope").unwrap_or(component);
        let (before, id) = stem.split_at_checked(stem.len().checked_sub(ID_LENGTH)?)?;
        let is_id = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_container =
            before.is_empty() || (before.ends_with(['-', ':']) && !before.ends_with("conmon-"));
        (is_id && is_container).then(|| ContainerId::from(id))
    })
}

/// The pod whose control group this is, or is above it: `…/pod<uid>` or `…-pod<uid with _ for ->.slice`. The innermost
/// wins.
pub fn pod_of(memcg: &str) -> Option<PodUid> {
    memcg.rsplit('/').find_map(|component| {
        let uid = match component.strip_suffix(".slice") {
            // A runtime without systemd appends the container to the slice in one component.
            None => match component.split_once(".slice:") {
                Some((slice, _)) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
                None => component.strip_prefix("pod")?.to_owned(),
            },
            Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        };
        (!uid.is_empty()).then(|| PodUid::from(uid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn groups_are_of_pods_and_containers() {
        let check = |path: &str, pod: Option<&str>, is_container: bool| {
            let path = path.replace("ID", ID);
            assert_eq!(pod_of(&path), pod.map(PodUid::from), "{path}");
            assert_eq!(container_of(&path), is_container.then(|| ContainerId::from(ID)), "{path}");
        };
        check("/kubepods/burstable/pod11-22/ID", Some("11-22"), true);
        check("/kubepods/pod11-22", Some("11-22"), false);
        check("/kubepods/besteffort/pod11-22/ID/system.slice/a.service", Some("11-22"), true);
        let slice = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod11_22.slice/cri-containerd-ID.scope";
        check(slice, Some("11-22"), true);
        check(&slice.replace("cri-containerd", "crio"), Some("11-22"), true);
        check(&slice.replace("cri-containerd", "docker"), Some("11-22"), true);
        check(&slice.replace("cri-containerd", "crio-conmon"), Some("11-22"), false);
        check("/k/kubepods-pod11_22.slice:cri-containerd:ID", Some("11-22"), true);
        check("/x/ID", None, true);
        for path in
            ["", "/", "/kubepods", "/kubepods/burstable", "/system.slice/a.service", "/pod", "é", "/a/éID"]
        {
            check(path, None, false);
        }
        check("/xID", None, false);
    }

    #[test]
    fn the_innermost_container_counts() {
        let inner = ID.replace('0', "f");
        let path = format!("/kubepods/poda/{ID}/kubepods/podb/{inner}");
        assert_eq!(container_of(&path), Some(inner.into()));
        assert_eq!(pod_of(&path), Some("b".into()));
    }
}
