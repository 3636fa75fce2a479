//! What plugins said a container needs for its devices. Where two plugins say different things of one name, the first
//! has it, as upstream.

use std::collections::BTreeSet;

use rubelet_core::devices::DeviceBook;
use rubelet_core::ids::PodUid;
use rubelet_cri::v1;
use rubelet_plugins::device::decode;
use tracing::warn;

use crate::container_manager::ContainerShare;

/// What a container gets for its devices.
pub(super) fn of_container(book: &DeviceBook, uid: &PodUid, container: &str) -> ContainerShare {
    let mut share = ContainerShare::default();
    let mut seen: BTreeSet<(&str, String)> = BTreeSet::new();
    for (resource, had) in book.of_container(uid, container) {
        let answer = match decode(&had.response) {
            Ok(answer) => answer,
            Err(problem) => {
                warn!(%uid, container, resource, problem, "what a device plugin once said cannot be read");
                continue;
            }
        };
        let mut is_first = |kind: &'static str, name: &str| {
            let first = seen.insert((kind, name.to_owned()));
            if !first && kind != "cdi" {
                warn!(%uid, container, resource, kind, name, "device plugins ask for one thing twice: the first is taken");
            }
            first
        };
        share.envs.extend(answer.envs.into_iter().filter(|(name, _)| is_first("env", name)));
        for device in answer.devices.into_iter().filter(|device| is_first("device", &device.container_path)) {
            share.devices.push(v1::Device {
                container_path: device.container_path,
                host_path: device.host_path,
                permissions: device.permissions,
            });
        }
        for mount in answer.mounts.into_iter().filter(|mount| is_first("mount", &mount.container_path)) {
            share.mounts.push(v1::Mount {
                container_path: mount.container_path,
                host_path: mount.host_path,
                readonly: mount.read_only,
                ..v1::Mount::default()
            });
        }
        share
            .annotations
            .extend(answer.annotations.into_iter().filter(|(name, _)| is_first("annotation", name)));
        let names = answer.cdi_devices.into_iter().map(|device| device.name);
        share.cdi_devices.extend(names.filter(|name| is_first("cdi", name)));
    }
    share
}
