//! emptyDirs of huge pages: which size of page one has, and mounting it.

use std::io;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use rubelet_core::containers::regular_containers;
use rubelet_core::quantity::Amount;
use rubelet_linux::mounts;

use crate::error::Problem;

/// What a medium of huge pages begins with; `-<size>` may follow.
const MEDIUM: &str = "HugePages";
/// What the names of resources begin with that are huge pages.
const RESOURCE: &str = "hugepages-";

/// Whether a medium is one of huge pages.
pub(super) fn is_medium(medium: &str) -> bool {
    medium == MEDIUM || medium.starts_with("HugePages-")
}

/// The size of the pages of a volume, bytes: the medium's own, for which the pod has to have asked too, or the only one
/// that the pod asked for (upstream `getPageSizeMountOption`).
pub(super) fn page_bytes(pod: &Pod, medium: &str) -> Result<u64, Problem> {
    let wrong = |problem: String| Err(Problem::HugePages(problem));
    let asked = requested(pod)?;
    let Some(size) = medium.strip_prefix("HugePages-") else {
        let mut sizes = asked;
        sizes.sort_unstable();
        sizes.dedup();
        return match sizes.as_slice() {
            [size] => Ok(*size),
            [] => wrong(none_requested(medium)),
            _ => wrong(format!(
                "medium: {medium} can't be used if container requests multiple huge page sizes"
            )),
        };
    };
    let Some(size) = bytes(size) else {
        return wrong(format!("medium: {medium} is no size of huge pages"));
    };
    if asked.contains(&size) { Ok(size) } else { wrong(none_requested(medium)) }
}

fn none_requested(medium: &str) -> String {
    format!("medium {medium}: hugePages storage requested, but there is no resource request for huge pages")
}

/// The sizes of pages that the pod or a container of it asked for.
fn requested(pod: &Pod) -> Result<Vec<u64>, Problem> {
    let all = pod.spec.iter().flat_map(|spec| {
        let of_containers = regular_containers(spec).map(|container| container.resources.as_ref());
        of_containers.chain([spec.resources.as_ref()]).flatten()
    });
    // What is limited and not asked for is asked for as well.
    let names = all.flat_map(|resources| {
        resources.requests.iter().chain(resources.limits.iter()).flat_map(|amounts| amounts.keys())
    });
    names
        .filter_map(|name| name.strip_prefix(RESOURCE))
        .map(|size| {
            bytes(size)
                .ok_or_else(|| Problem::HugePages(format!("{RESOURCE}{size} is no size of huge pages")))
        })
        .collect()
}

fn bytes(size: &str) -> Option<u64> {
    u64::try_from(Amount::parse(size).ok()?.value()).ok().filter(|bytes| *bytes > 0)
}

/// Mounts huge pages on a directory unless they are mounted there.
///
/// # Errors
/// When the kernel refuses, or something else is mounted there; the message says what to do.
pub(super) fn ensure(path: &Path, page_bytes: u64, group: Option<u32>) -> io::Result<()> {
    if mounts::is_mount_point(path)? {
        return match mounts::huge_page_bytes(path)? {
            Some(present) if present == page_bytes => Ok(()),
            Some(present) => Err(io::Error::other(format!(
                "mounted dir {} pagesize '{present}' and requested medium size '{page_bytes}' differ",
                path.display()
            ))),
            None => Err(io::Error::other(format!(
                "something else than huge pages is mounted on {}",
                path.display()
            ))),
        };
    }
    mounts::mount_huge_pages(path, page_bytes, group).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => ": the agent has to run as root (CAP_SYS_ADMIN)",
            io::ErrorKind::InvalidInput => ": this kernel has no huge pages of that size",
            _ => "",
        };
        let what = format!("mount huge pages of {page_bytes} bytes on {}: {error}{hint}", path.display());
        io::Error::new(error.kind(), what)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_size_is_the_mediums_or_the_only_one_asked_for() {
        let check = |medium: &str, containers: Value, expected: Result<u64, &str>| {
            let pod: Pod = serde_json::from_value(json!({"spec": containers})).unwrap();
            let found = page_bytes(&pod, medium).map_err(|problem| problem.to_string());
            assert_eq!(
                found,
                expected.map_err(str::to_owned),
                "{medium} {containers:?}",
                containers = pod.spec
            );
        };
        let asks = |sizes: &[&str]| {
            let limits: Value =
                sizes.iter().map(|size| (format!("hugepages-{size}"), json!("1Gi"))).collect();
            json!({"name": "c", "resources": {"requests": limits}})
        };
        let pod = |sizes: &[&str]| json!({"containers": [asks(sizes)]});
        check("HugePages", pod(&["2Mi"]), Ok(2 << 20));
        check("HugePages", json!({"containers": [], "initContainers": [asks(&["1Gi"])]}), Ok(1 << 30));
        check("HugePages-1Gi", pod(&["2Mi", "1Gi"]), Ok(1 << 30));
        check(
            "HugePages",
            pod(&["2Mi", "1Gi"]),
            Err("medium: HugePages can't be used if container requests multiple huge page sizes"),
        );
        let none = |medium: &str| {
            format!(
                "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
            )
        };
        check("HugePages", pod(&[]), Err(&none("HugePages")));
        check("HugePages-1Gi", pod(&["2Mi"]), Err(&none("HugePages-1Gi")));
        check("HugePages-lots", pod(&["2Mi"]), Err("medium: HugePages-lots is no size of huge pages"));
        check("HugePages", pod(&["-1"]), Err("hugepages--1 is no size of huge pages"));
    }
}
