//! The same kinds in a pod's own spec: they are attached and staged as a PersistentVolume would be, named by the disk.

use k8s_openapi::api::core::v1::{Pod, Volume};

use super::{
    CINDER, EBS, GCE, PORTWORX, UNSPECIFIED, VSPHERE, azure_disk, azure_file, ebs_handle, gce_partition,
    volume, vsphere,
};
use crate::volumes::{CsiVolume, SourceError};

/// The driver's volume that stands in for a volume of a pod's spec; `None` for other kinds.
///
/// Unlike upstream, which forgets it on the way, one that says it is read-only is only read.
pub(in crate::volumes) fn migrated_inline(
    pod: &Pod,
    of_pod: &Volume,
) -> Option<Result<CsiVolume, SourceError>> {
    if let Some(ebs) = &of_pod.aws_elastic_block_store {
        let partition = ebs.partition.unwrap_or_default().to_string();
        return Some(ebs_handle(&ebs.volume_id).map(|handle| {
            let name = format!("{EBS}-{handle}");
            let found = volume(EBS, handle, ebs.fs_type.as_deref(), [("partition", partition)]);
            as_inline(found, name, ebs.read_only, "ReadWriteOnce")
        }));
    }
    if let Some(disk) = &of_pod.gce_persistent_disk {
        let handle = format!("projects/{UNSPECIFIED}/zones/{UNSPECIFIED}/disks/{}", disk.pd_name);
        let attributes = [("partition", gce_partition(disk.partition))];
        let found = volume(GCE, handle, disk.fs_type.as_deref(), attributes);
        let name = format!("{GCE}-{}", disk.pd_name);
        return Some(Ok(as_inline(found, name, disk.read_only, one_or_readers(disk.read_only))));
    }
    if let Some(disk) = &of_pod.azure_disk {
        let caching = disk.caching_mode.as_deref().filter(|caching| !caching.is_empty());
        let found = azure_disk(disk.kind.as_deref(), &disk.disk_uri, disk.fs_type.as_deref(), caching);
        let name = disk.disk_uri.clone();
        return Some(found.map(|found| as_inline(found, name, disk.read_only, "ReadWriteOnce")));
    }
    if let Some(share) = &of_pod.azure_file {
        let namespace = pod.metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        let namespace = namespace.unwrap_or("default");
        let found = azure_file("", &share.secret_name, &share.share_name, &of_pod.name, namespace);
        let name = found.handle.clone();
        return Some(Ok(as_inline(found, name, share.read_only, "ReadWriteMany")));
    }
    if let Some(cinder) = &of_pod.cinder {
        let found = volume(CINDER, cinder.volume_id.clone(), cinder.fs_type.as_deref(), []);
        let name = format!("{CINDER}-{}", cinder.volume_id);
        return Some(Ok(as_inline(found, name, cinder.read_only, "ReadWriteOnce")));
    }
    if let Some(portworx) = &of_pod.portworx_volume {
        let found = volume(PORTWORX, portworx.volume_id.clone(), portworx.fs_type.as_deref(), []);
        let name = format!("{PORTWORX}-{}", portworx.volume_id);
        return Some(Ok(as_inline(found, name, portworx.read_only, one_or_readers(portworx.read_only))));
    }
    let disk = of_pod.vsphere_volume.as_ref()?;
    let found = vsphere(&disk.volume_path, disk.fs_type.as_deref(), disk.storage_policy_name.as_deref());
    let name = format!("{VSPHERE}-{}", disk.volume_path);
    Some(Ok(as_inline(found, name, None, "ReadWriteOnce")))
}

fn as_inline(volume: CsiVolume, spec_name: String, read_only: Option<bool>, access_mode: &str) -> CsiVolume {
    CsiVolume {
        spec_name,
        read_only: read_only == Some(true),
        access_modes: vec![access_mode.to_owned()],
        ..volume
    }
}

fn one_or_readers(read_only: Option<bool>) -> &'static str {
    if read_only == Some(true) { "ReadOnlyMany" } else { "ReadWriteOnce" }
}
