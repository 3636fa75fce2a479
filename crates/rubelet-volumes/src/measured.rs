//! Which volumes of a pod can be measured, and where they lie. Touches no file; called by whoever tells what they use.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use rubelet_core::claims::{Claim, ClaimedSource};
use rubelet_core::ids::{PodUid, pod_uid};
use rubelet_core::static_pod::unsupported_volumes;
use rubelet_core::tally::volume_plugin;
use rubelet_core::volumes::{CsiVolume, VolumeMode, inline_csi};
use rubelet_csi::VolumeStats;

use crate::csi::{CsiCause, CsiProblem, CsiStep};
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
    /// Its driver says how full it is: see [`Volumes::ask_driver`].
    pub driver: Option<Box<DriverVolume>>,
}

/// A volume of a driver, as a pod has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverVolume {
    volume: CsiVolume,
    pod: PodUid,
    pod_dir: PathBuf,
}

impl Volumes {
    /// The volumes of a pod that can be measured, without those that do not answer. As upstream, nothing is told of
    /// hostPath, claimed or not: it is not known what of it is the pod's.
    pub fn measured(&self, pod: &Pod, pod_dir: &Path) -> Vec<MeasuredVolume> {
        let uid = pod_uid(pod);
        let unsupported = unsupported_volumes(pod);
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let volumes = volumes.filter(|volume| {
            let path = !matches!(volume.name.as_str(), "" | "." | "..") && !volume.name.contains(['/', '\0']);
            let elsewhere = ["kubernetes.io/host-path", "kubernetes.io/image"];
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
                    driver: None,
                };
                let of_driver = |volume: CsiVolume| {
                    let dir = match volume.mode {
                        VolumeMode::Filesystem => "volumes/kubernetes.io~csi",
                        VolumeMode::Block => "volumeDevices/kubernetes.io~csi",
                    };
                    let path = pod_dir.join(dir).join(&volume.spec_name);
                    let (pod, pod_dir) = (uid.clone(), pod_dir.to_owned());
                    let driver = Some(Box::new(DriverVolume { volume, pod, pod_dir }));
                    MeasuredVolume { driver, ..plain(path) }
                };
                if let Some(claim) = Claim::of(pod, volume) {
                    let claimed = self.journal.claimed(&uid, &volume.name)?;
                    let home = match claimed.source {
                        ClaimedSource::Csi(csi) => {
                            let claim = Some((claim.namespace, claim.name));
                            return Some(MeasuredVolume { claim, ..of_driver(csi) });
                        }
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
                match inline_csi(pod, volume) {
                    Ok(None) => {}
                    Ok(Some(csi)) => return Some(of_driver(csi)),
                    Err(_) => return None,
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

    /// What a driver says of a volume of its own.
    ///
    /// # Errors
    /// It cannot tell, does not, or has not answered the last question yet.
    pub async fn ask_driver(&self, volume: &DriverVolume) -> Result<VolumeStats, CsiProblem> {
        match &self.csi {
            Some(csi) => csi.stats(&volume.volume, &volume.pod, &volume.pod_dir).await,
            None => Err(CsiProblem {
                step: CsiStep::SetUp,
                cause: CsiCause::NotRegistered(volume.volume.driver.clone()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use rubelet_core::claims::ClaimedVolume;
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
                {"name": "driven", "persistentVolumeClaim": {"claimName": "driven"}},
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
        let driven: CsiVolume = serde_json::from_value(json!({
            "driver": "d", "handle": "h", "spec_name": "pv-driven", "inline": false, "mode": "Filesystem",
            "fs_type": "", "attributes": {}, "read_only": false, "access_modes": [], "mount_options": [],
        }))
        .unwrap();
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
            ("driven", ClaimedSource::Csi(driven), VolumeMode::Filesystem),
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
                let driver = v.driver.is_some();
                let marks = [(v.ephemeral, " ephemeral"), (v.settled, " settled"), (driver, " asked")];
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
                "driver /p/volumes/kubernetes.io~csi/driver asked",
                "disk /p/volumes/kubernetes.io~csi/cinder.csi.openstack.org-c asked",
                "driven /p/volumes/kubernetes.io~csi/pv-driven shop/driven asked",
                "data /p/volumes/kubernetes.io~local-volume/pv-data shop/data",
                "own /p/volumes/kubernetes.io~local-volume/pv-own shop/web-own",
            ]
        );
    }
}
