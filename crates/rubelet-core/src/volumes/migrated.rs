//! Volumes of kinds that were once built in and that drivers stand in for: from the old source to the driver's volume.
//!
//! Owns the translation of the node's part (upstream `csi-translation-lib`): handles, attributes, access modes and the
//! labels by which a volume says where it is. Handles have to be upstream's to the letter: the attacher names the same.

mod inline;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, PersistentVolume, PersistentVolumeSpec, VolumeNodeAffinity};

pub(super) use self::inline::migrated_inline;
use super::{CsiVolume, SecretPlace, SourceError, VolumeMode};

const EBS: &str = "ebs.csi.aws.com";
const GCE: &str = "pd.csi.storage.gke.io";
const AZURE_DISK: &str = "disk.csi.azure.com";
const AZURE_FILE: &str = "file.csi.azure.com";
const CINDER: &str = "cinder.csi.openstack.org";
const PORTWORX: &str = "pxd.portworx.com";
const VSPHERE: &str = "csi.vsphere.vmware.com";

const ZONES: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];
const REGIONS: [&str; 2] = ["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"];

/// Stands between the zones of a volume that is in several.
const BETWEEN_ZONES: &str = "__";
/// What the driver finds out by itself.
const UNSPECIFIED: &str = "UNSPECIFIED";

/// Whether a driver stands in for the kind of this volume.
pub fn is_migrated(spec: &PersistentVolumeSpec) -> bool {
    spec.aws_elastic_block_store.is_some()
        || spec.gce_persistent_disk.is_some()
        || spec.azure_disk.is_some()
        || spec.azure_file.is_some()
        || spec.cinder.is_some()
        || spec.portworx_volume.is_some()
        || spec.vsphere_volume.is_some()
}

/// The driver's volume that stands in for a PersistentVolume; `None` for kinds that are not of this sort. Mode and
/// mount options are the caller's to add, and access modes unless they are set here.
///
/// # Errors
/// When the old source says what no driver understands.
pub fn migrated(name: &str, object: &PersistentVolume) -> Option<Result<CsiVolume, SourceError>> {
    let spec = object.spec.as_ref()?;
    let named = |volume: CsiVolume| CsiVolume { spec_name: name.to_owned(), ..volume };
    if let Some(ebs) = &spec.aws_elastic_block_store {
        let partition = ebs.partition.unwrap_or_default().to_string();
        return Some(
            ebs_handle(&ebs.volume_id)
                .map(|handle| named(volume(EBS, handle, ebs.fs_type.as_deref(), [("partition", partition)]))),
        );
    }
    if let Some(disk) = &spec.gce_persistent_disk {
        return Some(gce_handle(object, &disk.pd_name).map(|handle| {
            let partition = gce_partition(disk.partition);
            let found = named(volume(GCE, handle, disk.fs_type.as_deref(), [("partition", partition)]));
            CsiVolume { access_modes: gce_access_modes(spec), ..found }
        }));
    }
    if let Some(disk) = &spec.azure_disk {
        let caching = disk.caching_mode.as_deref();
        let found = azure_disk(disk.kind.as_deref(), &disk.disk_uri, disk.fs_type.as_deref(), caching);
        return Some(found.map(named));
    }
    if let Some(share) = &spec.azure_file {
        let claimed = spec.claim_ref.as_ref().and_then(|claim| claim.namespace.clone());
        let namespace = share.secret_namespace.clone().or(claimed).unwrap_or_default();
        if namespace.is_empty() {
            let problem =
                "could not find a secret namespace in PersistentVolumeSource or ClaimRef".to_owned();
            return Some(Err(SourceError::Translation { kind: "azureFile", problem }));
        }
        let annotations = object.metadata.annotations.as_ref();
        let group = annotations.and_then(|all| all.get("kubernetes.io/azure-file-resource-group"));
        let group = group.map(String::as_str).unwrap_or_default();
        let found = azure_file(group, &share.secret_name, &share.share_name, name, &namespace);
        return Some(Ok(named(found)));
    }
    if let Some(cinder) = &spec.cinder {
        return Some(Ok(named(volume(CINDER, cinder.volume_id.clone(), cinder.fs_type.as_deref(), []))));
    }
    if let Some(portworx) = &spec.portworx_volume {
        let found = named(volume(PORTWORX, portworx.volume_id.clone(), portworx.fs_type.as_deref(), []));
        let secret = portworx_secret(object);
        return Some(Ok(CsiVolume {
            stage_secret: secret.clone(),
            publish_secret: secret.clone(),
            expand_secret: secret,
            ..found
        }));
    }
    let disk = spec.vsphere_volume.as_ref()?;
    Some(Ok(named(vsphere(&disk.volume_path, disk.fs_type.as_deref(), disk.storage_policy_name.as_deref()))))
}

/// Where a volume may be used, in the labels that its driver puts on nodes.
pub fn migrated_affinity(spec: &PersistentVolumeSpec) -> Option<NodeSelector> {
    let VolumeNodeAffinity { required } = spec.node_affinity.as_ref()?;
    let mut required = required.clone()?;
    let (zone, region) = if spec.aws_elastic_block_store.is_some() {
        (Some("topology.ebs.csi.aws.com/zone"), None)
    } else if spec.gce_persistent_disk.is_some() {
        (Some("topology.gke.io/zone"), None)
    } else if spec.cinder.is_some() {
        (Some("topology.cinder.csi.openstack.org/zone"), None)
    } else if spec.vsphere_volume.is_some() {
        (Some("topology.csi.vmware.com/zone"), Some("topology.csi.vmware.com/region"))
    } else {
        (None, None)
    };
    for rule in
        required.node_selector_terms.iter_mut().flat_map(|term| term.match_expressions.iter_mut().flatten())
    {
        for (old, new) in [(ZONES, zone), (REGIONS, region)] {
            if let Some(new) = new.filter(|_| old.contains(&rule.key.as_str())) {
                rule.key = new.to_owned();
            }
        }
    }
    Some(required)
}

/// A volume by what most kinds have.
fn volume<const N: usize>(
    driver: &str,
    handle: String,
    fs_type: Option<&str>,
    attributes: [(&str, String); N],
) -> CsiVolume {
    CsiVolume {
        driver: driver.to_owned(),
        handle,
        spec_name: String::new(),
        inline: false,
        mode: VolumeMode::Filesystem,
        fs_type: fs_type.unwrap_or_default().to_owned(),
        attributes: BTreeMap::from(attributes.map(|(key, value)| (key.to_owned(), value))),
        read_only: false,
        access_modes: Vec::new(),
        mount_options: Vec::new(),
        stage_secret: None,
        publish_secret: None,
        expand_secret: None,
        migrated: true,
    }
}

/// The volume of `aws://<zone>/<volume>`, or the volume itself.
fn ebs_handle(id: &str) -> Result<String, SourceError> {
    let Some(address) = id.strip_prefix("aws://") else { return Ok(id.to_owned()) };
    let path = address.split_once('/').map(|(_, path)| path).unwrap_or_default();
    let path = path.split(['?', '#']).next().unwrap_or_default().trim_matches('/');
    if path.starts_with("vol-") && !path.contains('/') {
        return Ok(path.to_owned());
    }
    let problem = format!("Invalid format for AWS volume ({id})");
    Err(SourceError::Translation { kind: "awsElasticBlockStore", problem })
}

fn gce_handle(object: &PersistentVolume, disk: &str) -> Result<String, SourceError> {
    let labels = object.metadata.labels.as_ref();
    let label = |name: &str| labels.and_then(|labels| labels.get(name)).filter(|zones| !zones.is_empty());
    let [zone, beta] = ZONES;
    let zones: Vec<&str> =
        label(beta).or_else(|| label(zone)).map_or(Vec::new(), |all| all.split(BETWEEN_ZONES).collect());
    let place = match zones.as_slice() {
        [] => format!("zones/{UNSPECIFIED}"),
        [zone] => format!("zones/{zone}"),
        zones => format!("regions/{}", gce_region(zones)?),
    };
    Ok(format!("projects/{UNSPECIFIED}/{place}/disks/{disk}"))
}

/// The region that all of the zones are in.
fn gce_region(zones: &[&str]) -> Result<String, SourceError> {
    let failed = |problem: String| {
        let problem = format!("failed to get region from zones: {problem}");
        Err(SourceError::Translation { kind: "gcePersistentDisk", problem })
    };
    let mut found: Option<&str> = None;
    for zone in zones {
        let region = match (zone.rsplit_once('-'), zone.split('-').count()) {
            (Some((region, _)), 3) => region,
            _ => {
                let expected = "expected: {locale}-{region}-{zone}";
                return failed(format!("zone in unexpected format, {expected}, got: {zone}"));
            }
        };
        if found.is_some_and(|found| found != region) {
            return failed(format!("multiple or no regions gotten from zones, got: {}", zones.join(" ")));
        }
        found = Some(region);
    }
    Ok(found.unwrap_or_default().to_owned())
}

fn gce_partition(partition: Option<i32>) -> String {
    partition.filter(|partition| *partition != 0).map(|partition| partition.to_string()).unwrap_or_default()
}

/// The disk has one writer or many readers, whatever used to be written there.
fn gce_access_modes(spec: &PersistentVolumeSpec) -> Vec<String> {
    let Some(modes) = &spec.access_modes else { return Vec::new() };
    let any = |wanted: &[&str]| modes.iter().any(|mode| wanted.contains(&mode.as_str()));
    let only_read = any(&["ReadOnlyMany"]) && !any(&["ReadWriteOnce", "ReadWriteMany"]);
    vec![if only_read { "ReadOnlyMany" } else { "ReadWriteOnce" }.to_owned()]
}

fn azure_disk(
    kind: Option<&str>,
    uri: &str,
    fs_type: Option<&str>,
    caching: Option<&str>,
) -> Result<CsiVolume, SourceError> {
    if let Some(kind) = kind.filter(|kind| !kind.eq_ignore_ascii_case("Managed")) {
        let problem = format!("kind({kind}) is not supported in csi migration");
        return Err(SourceError::Translation { kind: "azureDisk", problem });
    }
    let mut found = volume(AZURE_DISK, uri.to_owned(), fs_type, [("kind", "Managed".to_owned())]);
    for (key, value) in [("fstype", fs_type), ("cachingmode", caching)] {
        if let Some(value) = value {
            found.attributes.insert(key.to_owned(), value.to_owned());
        }
    }
    Ok(found)
}

fn azure_file(group: &str, secret: &str, share: &str, name: &str, namespace: &str) -> CsiVolume {
    let account = secret
        .split_once("azure-storage-account-")
        .and_then(|(_, rest)| rest.rsplit_once("-secret"))
        .map(|(account, _)| account)
        .filter(|account| !account.is_empty())
        .unwrap_or(secret);
    let handle = format!("{group}#{account}#{share}#{name}#{namespace}");
    let secret = SecretPlace { namespace: namespace.to_owned(), name: secret.to_owned() };
    let found = volume(AZURE_FILE, handle, None, [("sharename", share.to_owned())]);
    CsiVolume { stage_secret: Some(secret), ..found }
}

fn portworx_secret(object: &PersistentVolume) -> Option<SecretPlace> {
    let annotations = object.metadata.annotations.as_ref()?;
    let name = annotations.get("openstorage.io/auth-secret-name")?.clone();
    let namespace = annotations.get("openstorage.io/auth-secret-namespace")?.clone();
    Some(SecretPlace { namespace, name })
}

fn vsphere(path: &str, fs_type: Option<&str>, policy: Option<&str>) -> CsiVolume {
    let mut found = volume(VSPHERE, path.to_owned(), fs_type, []);
    if let Some(policy) = policy.filter(|policy| !policy.is_empty()) {
        found.attributes.insert("storagepolicyname".to_owned(), policy.to_owned());
    }
    found
}
