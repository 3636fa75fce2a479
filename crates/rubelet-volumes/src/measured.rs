//! Which volumes of a pod can be measured, and where they lie. Touches no file; called by whoever tells what they use.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use rubelet_core::claims::{Claim, ClaimedSource};
use rubelet_core::ids::pod_uid;
use rubelet_core::static_pod::unsupported_volumes;
use rubelet_core::tally::volume_plugin;
use rubelet_core::volumes::VolumeMode;

use crate::kinds::files_home;
use crate::layout::Home;
use crate::volumes::Volumes;

/// A volume that can be measured. A mount of its own is as full as its file system; otherwise it is a directory on the
/// node's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredVolume {
    /// Its name in the pod.
    pub name: String,
    /// Where it lies on the node.
    pub path: PathBuf,
    /// Namespace and name of the claim it is of.
    pub claim: Option<(String, String)>,
    /// Whether it takes of the node's ephemeral storage (upstream `IsLocalEphemeralVolume`).
    pub ephemeral: bool,
    /// Whether it holds objects of the API, which change seldom and little.
    pub settled: bool,
}

impl Volumes {
    /// The volumes of a pod that can be measured, without those that do not answer. As upstream, nothing is told of hostPath, claimed or not: it is not
    /// known what of it is the pod's.
    pub fn measured(&self, pod: &Pod, pod_dir: &Path) -> Vec<MeasuredVolume> {
        let uid = pod_uid(pod);
        let unsupported = unsupported_volumes(pod);
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let volumes = volumes.filter(|volume| {
            let path = !matches!(volume.name.as_str(), "" | "." | "..") && !volume.name.contains(['/', '\0']);
            // Those of drivers are measured by their drivers.
            let elsewhere = ["kubernetes.io/host-path", "kubernetes.io/image", "kubernetes.io/csi"];
            let here = !elsewhere.contains(&volume_plugin(volume));
            path && here && !unsupported.iter().any(|(name, _)| *name == volume.name)
        });
        volumes
            .filter_map(|volume| {
                let plain = |path| MeasuredVolume {
                    name: volume.name.clone(),
                    path,
                    claim: None,
                    ephemeral: false,
                    settled: false,
                };
                if let Some(claim) = Claim::of(pod, volume) {
                    let claimed = self.journal.claimed(&uid, &volume.name)?;
                    let home = match claimed.source {
                        ClaimedSource::Local { .. } if claimed.mode == VolumeMode::Filesystem => Home::Local,
                        ClaimedSource::Nfs(_) => Home::Nfs,
                        _ => return None,
                    };
                    let path = home.volume(pod_dir, &claimed.name);
                    return Some(MeasuredVolume {
                        claim: Some((claim.namespace, claim.name)),
                        ..plain(path)
                    });
                }
                if let Some((home, path)) = files_home(volume, pod_dir) {
                    let ephemeral = home == Home::ConfigMap;
                    return Some(MeasuredVolume { ephemeral, settled: true, ..plain(path) });
                }
                if volume.nfs.is_some() {
                    return Some(plain(Home::Nfs.volume(pod_dir, &volume.name)));
                }
                let medium = volume.empty_dir.as_ref().and_then(|dir| dir.medium.as_deref());
                let ephemeral = medium.unwrap_or_default().is_empty();
                let path = Home::EmptyDir.volume(pod_dir, &volume.name);
                Some(MeasuredVolume { ephemeral, ..plain(path) })
            })
            // Whoever measures one that does not answer would not either.
            .filter(|volume| !self.fs.hangs(&volume.path))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use rubelet_core::claims::ClaimedVolume;
    use rubelet_core::ids::PodUid;
    use rubelet_linux::fs_pool::FsPool;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn each_kind_lies_where_it_was_made() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
            "spec": {"containers": [], "volumes": [
                {"name": "scratch", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory"}},
                {"name": "config", "configMap": {"name": "c"}},
                {"name": "secret", "secret": {"secretName": "s"}},
                {"name": "host", "hostPath": {"path": "/"}},
                {"name": "net", "nfs": {"server": "s", "path": "/"}},
                {"name": "driver", "csi": {"driver": "d"}},
                {"name": "disk", "cinder": {"volumeID": "c"}},
                {"name": "image", "image": {"reference": "r"}},
                {"name": "device", "persistentVolumeClaim": {"claimName": "device"}},
                {"name": "..", "emptyDir": {}},
                {"name": "waits", "persistentVolumeClaim": {"claimName": "waits"}},
                {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "own", "ephemeral": {}},
                {"name": "path", "persistentVolumeClaim": {"claimName": "path"}},
            ]}
        }))
        .unwrap();
        let volumes = Volumes::new(FsPool::inline(), None, None);
        let local = || ClaimedSource::Local {
            path: "/disk".into(),
            flags: vec![],
            options: vec![],
            fs_type: String::new(),
        };
        for (name, source, mode) in [
            ("data", local(), VolumeMode::Filesystem),
            ("own", local(), VolumeMode::Filesystem),
            ("device", local(), VolumeMode::Block),
            ("path", ClaimedSource::HostPath(Default::default()), VolumeMode::Filesystem),
        ] {
            let claimed = ClaimedVolume {
                name: format!("pv-{name}"),
                source,
                mode,
                read_only: false,
                group: None,
                claim: ("shop".into(), name.into()),
                capacity: None,
            };
            let source = crate::journal::MountSource::Claimed(claimed);
            volumes.journal.begin(&PodUid::from("u"), name, source).await.unwrap();
            volumes.journal.mounted(&PodUid::from("u"), name).await.unwrap();
        }
        let found = volumes.measured(&pod, Path::new("/p"));
        let told: Vec<String> = found
            .iter()
            .map(|v| {
                let claim = v.claim.as_ref().map(|(namespace, name)| format!(" {namespace}/{name}"));
                let marks = [(v.ephemeral, " ephemeral"), (v.settled, " settled")];
                let marks: String = marks.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
                format!("{} {}{}{marks}", v.name, v.path.display(), claim.unwrap_or_default())
            })
            .collect();
        assert_eq!(
            told,
            [
                "scratch /p/volumes/kubernetes.io~empty-dir/scratch ephemeral",
                "memory /p/volumes/kubernetes.io~empty-dir/memory",
                "config /p/volumes/kubernetes.io~configmap/config ephemeral settled",
                "secret /p/volumes/kubernetes.io~secret/secret settled",
                "net /p/volumes/kubernetes.io~nfs/net",
                "data /p/volumes/kubernetes.io~local-volume/pv-data shop/data",
                "own /p/volumes/kubernetes.io~local-volume/pv-own shop/web-own",
            ]
        );
    }
}
