//! Volumes: every source a pod can name.
//!
//! A table of facts (see the parent module): the order and the names are upstream's, because the hash is
//! made of them. No logic.

use super::Field;
use super::Source::{Inline, Key};
use super::Type::{self, Bool, Int32, Int64, List, Map, Pointer, Quantity, Struct, Text};
use super::shared::{
    KEY_TO_PATH, LABEL_SELECTOR, LOCAL_OBJECT_REFERENCE, OBJECT_FIELD_SELECTOR, OBJECT_META,
    RESOURCE_FIELD_SELECTOR,
};

pub(super) static HOST_PATH_VOLUME_SOURCE: Type = Struct(
    "core.HostPathVolumeSource",
    &[
        Field("Path", Key("path"), &Text("string")),
        Field("Type", Key("type"), &Pointer(&Text("core.HostPathType"))),
    ],
    &[],
);

pub(super) static EMPTY_DIR_VOLUME_SOURCE: Type = Struct(
    "core.EmptyDirVolumeSource",
    &[
        Field("Medium", Key("medium"), &Text("core.StorageMedium")),
        Field("SizeLimit", Key("sizeLimit"), &Pointer(&Quantity)),
    ],
    &[],
);

pub(super) static GCE_PERSISTENT_DISK_VOLUME_SOURCE: Type = Struct(
    "core.GCEPersistentDiskVolumeSource",
    &[
        Field("PDName", Key("pdName"), &Text("string")),
        Field("FSType", Key("fsType"), &Text("string")),
        Field("Partition", Key("partition"), &Int32),
        Field("ReadOnly", Key("readOnly"), &Bool),
    ],
    &[],
);

pub(super) static AWS_ELASTIC_BLOCK_STORE_VOLUME_SOURCE: Type = Struct(
    "core.AWSElasticBlockStoreVolumeSource",
    &[
        Field("VolumeID", Key("volumeID"), &Text("string")),
        Field("FSType", Key("fsType"), &Text("string")),
        Field("Partition", Key("partition"), &Int32),
        Field("ReadOnly", Key("readOnly"), &Bool),
    ],
    &[],
);

pub(super) static GIT_REPO_VOLUME_SOURCE: Type = Struct(
    "core.GitRepoVolumeSource",
    &[
        Field("Repository", Key("repository"), &Text("string")),
        Field("Revision", Key("revision"), &Text("string")),
        Field("Directory", Key("directory"), &Text("string")),
    ],
    &[],
);

pub(super) static SECRET_VOLUME_SOURCE: Type = Struct(
    "core.SecretVolumeSource",
    &[
        Field("SecretName", Key("secretName"), &Text("string")),
        Field("Items", Key("items"), &List(&KEY_TO_PATH)),
        Field("DefaultMode", Key("defaultMode"), &Pointer(&Int32)),
        Field("Optional", Key("optional"), &Pointer(&Bool)),
    ],
    &[],
);

pub(super) static NFS_VOLUME_SOURCE: Type = Struct(
    "core.NFSVolumeSource",
    &[
        Field("Server", Key("server"), &Text("string")),
        Field("Path", Key("path"), &Text("string")),
        Field("ReadOnly", Key("readOnly"), &Bool),
    ],
    &[],
);

pub(super) static ISCSI_VOLUME_SOURCE: Type = Struct(
    "core.ISCSIVolumeSource",
    &[
        Field("TargetPortal", Key("targetPortal"), &Text("string")),
        Field("IQN", Key("iqn"), &Text("string")),
        Field("Lun", Key("lun"), &Int32),
        Field("ISCSIInterface", Key("iscsiInterface"), &Text("string")),
        Field("FSType", Key("fsType"), &Text("string")),
        Field("ReadOnly", Key("readOnly"), &Bool),
        Field("Portals", Key("portals"), &List(&Text("string"))),
        Field("DiscoveryCHAPAuth", Key("chapAuthDiscovery"), &Bool),
        Field("SessionCHAPAuth", Key("chapAuthSession"), &Bool),
        Field("SecretRef", Key("secretRef"), &Pointer(&LOCAL_OBJECT_REFERENCE)),
        Field("InitiatorName", Key("initiatorName"), &Pointer(&Text("string"))),
    ],
    &[],
);

pub(super) static GLUSTERFS_VOLUME_SOURCE: Type = Struct(
    "core.GlusterfsVolumeSource",
    &[
        Field("EndpointsName", Key("endpoints"), &Text("string")),
        Field("Path", Key("path"), &Text("string")),
        Field("ReadOnly", Key("readOnly"), &Bool),
    ],
    &[],
);

pub(super) static PERSISTENT_VOLUME_CLAIM_VOLUME_SOURCE: Type = Struct(
    "core.PersistentVolumeClaimVolumeSource",
    &[Field("ClaimName", Key("claimName"), &Text("string")), Field("ReadOnly", Key("readOnly"), &Bool)],
    &[],
);

pub(super) static RBD_VOLUME_SOURCE: Type = Struct(
    "core.RBDVolumeSource",
    &[
        Field("CephMonitors", Key("monitors"), &List(&Text("string"))),
        Field("RBDImage", Key("image"), &Text("string")),
        Field("FSType", Key("fsType"), &Text("string")),
        Field("RBDPool", Key("pool"), &Text("string")),
        Field("RadosUser", Key("user"), &Text("string")),
        Field("Keyring", Key("keyring"), &Text("string")),
        Field("SecretRef", Key("secretRef"), &Pointer(&LOCAL_OBJECT_REFERENCE)),
        Field("ReadOnly", Key("readOnly"), &Bool),
    ],
    &[],
);

pub(super) static QUOBYTE_VOLUME_SOURCE: Type = Struct(
    "core.QuobyteVolumeSource",
    &[
        Field("Registry", Key("registry"), &Text("string")),
        Field("Volume", Key("volume"), &Text("string")),
        Field("ReadOnly", Key("readOnly"), &Bool),
        Field("User", Key("user"), &Text("string")),
        Field("Group", Key("group"), &Text("string")),
        Field("Tenant", Key("tenant"), &Text("string")),
    ],
    &[],
);

pub(super) static FLEX_VOLUME_SOURCE: Type = Struct(
    "core.FlexVolumeSource",
    &[
        Field("Driver", Key("driver"), &Text("string")),
        Field("FSType", Key("fsType"), &Text("string")),
        Field("SecretRef", Key("secretRef"), &Pointer(&LOCAL_OBJECT_REFERENCE)),
        Field("ReadOnly", Key("readOnly"), &Bool),
        Field("Options", Key("options"), &Map("map[string]string", &Text("string"))),
    ],
    &[],
);

pub(super) static CINDER_VOLUME_SOURCE: Type = Struct(
    "core.CinderVolumeSource",
    &[
        Field("VolumeID", Key("volumeID"), &Text("string")),
        Field("FSType", Key("fsType"), &Text("string")),
        Field("ReadOnly", Key("readOnly"), &Bool),
        Field("SecretRef", Key("secretRef"), &Pointer(&LOCAL_OBJECT_REFERENCE)),
    ],
    &[],
);

pub(super) static CEPH_FS_VOLUME_SOURCE: Type = Struct(
    "core.CephFSVolumeSource",
    &[
        Field("Monitors", Key("monitors"), &List(&Text("string"))),
        Field("Path", Key("path"), &Text("string")),
        Field("User", Key("user"), &Text("string")),
        Field("SecretFile", Key("secretFile"), &Text("string")),
        Field("SecretRef", Key("secretRef"), &Pointer(&LOCAL_OBJECT_REFERENCE)),
        Field("ReadOnly", Key("readOnly"), &Bool),
    ],
    &[],
);

pub(super) static FLOCKER_VOLUME_SOURCE: Type = Struct(
    "core.FlockerVolumeSource",
    &[
        Field("DatasetName", Key("datasetName"), &Text("string")),
        Field("DatasetUUID", Key("datasetUUID"), &Text("string")),
    ],
    &[],
);

pub(super) static DOWNWARD_API_VOLUME_FILE: Type = Struct(
    "core.DownwardAPIVolumeFile",
    &[
        Field("Path", Key("path"), &Text("string")),
        Field("FieldRef", Key("fieldRef"), &Pointer(&OBJECT_FIELD_SELECTOR)),
        Field("ResourceFieldRef", Key("resourceFieldRef"), &Pointer(&RESOURCE_FIELD_SELECTOR)),
        Field("Mode", Key("mode"), &Pointer(&Int32)),
    ],
    &[],
);

pub(super) static DOWNWARD_API_VOLUME_SOURCE: Type = Struct(
    "core.DownwardAPIVolumeSource",
    &[
        Field("Items", Key("items"), &List(&DOWNWARD_API_VOLUME_FILE)),
        Field("DefaultMode", Key("defaultMode"), &Pointer(&Int32)),
    ],
    &[],
);

pub(super) static FC_VOLUME_SOURCE: Type = Struct(
    "core.FCVolumeSource",
    &[
        Field("TargetWWNs", Key("targetWWNs"), &List(&Text("string"))),
        Field("Lun", Key("lun"), &Pointer(&Int32)),
        Field("FSType", Key("fsType"), &Text("string")),
        Field("ReadOnly", Key("readOnly"), &Bool),
        Field("WWIDs", Key("wwids"), &List(&Text("string"))),
    ],
    &[],
);

pub(super) static AZURE_FILE_VOLUME_SOURCE: Type = Struct(
    "core.AzureFileVolumeSource",
    &[
        Field("SecretName", Key("secretName"), &Text("string")),
        Field("ShareName", Key("shareName"), &Text("string")),
        Field("ReadOnly", Key("readOnly"), &Bool),
    ],
    &[],
);

pub(super) static CONFIG_MAP_VOLUME_SOURCE: Type = Struct(
    "core.ConfigMapVolumeSource",
    &[
        Field("LocalObjectReference", Inline, &LOCAL_OBJECT_REFERENCE),
        Field("Items", Key("items"), &List(&KEY_TO_PATH)),
        Field("DefaultMode", Key("defaultMode"), &Pointer(&Int32)),
        Field("Optional", Key("optional"), &Pointer(&Bool)),
    ],
    &[],
);

pub(super) static VSPHERE_VIRTUAL_DISK_VOLUME_SOURCE: Type = Struct(
    "core.VsphereVirtualDiskVolumeSource",
    &[
        Field("VolumePath", Key("volumePath"), &Text("string")),
        Field("FSType", Key("fsType"), &Text("string")),
        Field("StoragePolicyName", Key("storagePolicyName"), &Text("string")),
        Field("StoragePolicyID", Key("storagePolicyID"), &Text("string")),
    ],
    &[],
);

pub(super) static AZURE_DISK_VOLUME_SOURCE: Type = Struct(
    "core.AzureDiskVolumeSource",
    &[
        Field("DiskName", Key("diskName"), &Text("string")),
        Field("DataDiskURI", Key("diskURI"), &Text("string")),
        Field("CachingMode", Key("cachingMode"), &Pointer(&Text("core.AzureDataDiskCachingMode"))),
        Field("FSType", Key("fsType"), &Pointer(&Text("string"))),
        Field("ReadOnly", Key("readOnly"), &Pointer(&Bool)),
        Field("Kind", Key("kind"), &Pointer(&Text("core.AzureDataDiskKind"))),
    ],
    &[],
);

pub(super) static PHOTON_PERSISTENT_DISK_VOLUME_SOURCE: Type = Struct(
    "core.PhotonPersistentDiskVolumeSource",
    &[Field("PdID", Key("pdID"), &Text("string")), Field("FSType", Key("fsType"), &Text("string"))],
    &[],
);

pub(super) static SECRET_PROJECTION: Type = Struct(
    "core.SecretProjection",
    &[
        Field("LocalObjectReference", Inline, &LOCAL_OBJECT_REFERENCE),
        Field("Items", Key("items"), &List(&KEY_TO_PATH)),
        Field("Optional", Key("optional"), &Pointer(&Bool)),
    ],
    &[],
);

pub(super) static DOWNWARD_API_PROJECTION: Type = Struct(
    "core.DownwardAPIProjection",
    &[Field("Items", Key("items"), &List(&DOWNWARD_API_VOLUME_FILE))],
    &[],
);

pub(super) static CONFIG_MAP_PROJECTION: Type = Struct(
    "core.ConfigMapProjection",
    &[
        Field("LocalObjectReference", Inline, &LOCAL_OBJECT_REFERENCE),
        Field("Items", Key("items"), &List(&KEY_TO_PATH)),
        Field("Optional", Key("optional"), &Pointer(&Bool)),
    ],
    &[],
);

pub(super) static SERVICE_ACCOUNT_TOKEN_PROJECTION: Type = Struct(
    "core.ServiceAccountTokenProjection",
    &[
        Field("Audience", Key("audience"), &Text("string")),
        Field("ExpirationSeconds", Key("expirationSeconds"), &Int64),
        Field("Path", Key("path"), &Text("string")),
    ],
    &[],
);

pub(super) static CLUSTER_TRUST_BUNDLE_PROJECTION: Type = Struct(
    "core.ClusterTrustBundleProjection",
    &[
        Field("Name", Key("name"), &Pointer(&Text("string"))),
        Field("SignerName", Key("signerName"), &Pointer(&Text("string"))),
        Field("LabelSelector", Key("labelSelector"), &Pointer(&LABEL_SELECTOR)),
        Field("Optional", Key("optional"), &Pointer(&Bool)),
        Field("Path", Key("path"), &Text("string")),
    ],
    &[],
);

pub(super) static POD_CERTIFICATE_PROJECTION: Type = Struct(
    "core.PodCertificateProjection",
    &[
        Field("SignerName", Key("signerName"), &Text("string")),
        Field("KeyType", Key("keyType"), &Text("string")),
        Field("MaxExpirationSeconds", Key("maxExpirationSeconds"), &Pointer(&Int32)),
        Field("CredentialBundlePath", Key("credentialBundlePath"), &Text("string")),
        Field("KeyPath", Key("keyPath"), &Text("string")),
        Field("CertificateChainPath", Key("certificateChainPath"), &Text("string")),
        Field("UserAnnotations", Key("userAnnotations"), &Map("map[string]string", &Text("string"))),
    ],
    &[],
);

pub(super) static VOLUME_PROJECTION: Type = Struct(
    "core.VolumeProjection",
    &[
        Field("Secret", Key("secret"), &Pointer(&SECRET_PROJECTION)),
        Field("DownwardAPI", Key("downwardAPI"), &Pointer(&DOWNWARD_API_PROJECTION)),
        Field("ConfigMap", Key("configMap"), &Pointer(&CONFIG_MAP_PROJECTION)),
        Field("ServiceAccountToken", Key("serviceAccountToken"), &Pointer(&SERVICE_ACCOUNT_TOKEN_PROJECTION)),
        Field("ClusterTrustBundle", Key("clusterTrustBundle"), &Pointer(&CLUSTER_TRUST_BUNDLE_PROJECTION)),
        Field("PodCertificate", Key("podCertificate"), &Pointer(&POD_CERTIFICATE_PROJECTION)),
    ],
    &[],
);

pub(super) static PROJECTED_VOLUME_SOURCE: Type = Struct(
    "core.ProjectedVolumeSource",
    &[
        Field("Sources", Key("sources"), &List(&VOLUME_PROJECTION)),
        Field("DefaultMode", Key("defaultMode"), &Pointer(&Int32)),
    ],
    &[],
);

pub(super) static PORTWORX_VOLUME_SOURCE: Type = Struct(
    "core.PortworxVolumeSource",
    &[
        Field("VolumeID", Key("volumeID"), &Text("string")),
        Field("FSType", Key("fsType"), &Text("string")),
        Field("ReadOnly", Key("readOnly"), &Bool),
    ],
    &[],
);

pub(super) static SCALE_IO_VOLUME_SOURCE: Type = Struct(
    "core.ScaleIOVolumeSource",
    &[
        Field("Gateway", Key("gateway"), &Text("string")),
        Field("System", Key("system"), &Text("string")),
        Field("SecretRef", Key("secretRef"), &Pointer(&LOCAL_OBJECT_REFERENCE)),
        Field("SSLEnabled", Key("sslEnabled"), &Bool),
        Field("ProtectionDomain", Key("protectionDomain"), &Text("string")),
        Field("StoragePool", Key("storagePool"), &Text("string")),
        Field("StorageMode", Key("storageMode"), &Text("string")),
        Field("VolumeName", Key("volumeName"), &Text("string")),
        Field("FSType", Key("fsType"), &Text("string")),
        Field("ReadOnly", Key("readOnly"), &Bool),
    ],
    &[],
);

pub(super) static STORAGE_OS_VOLUME_SOURCE: Type = Struct(
    "core.StorageOSVolumeSource",
    &[
        Field("VolumeName", Key("volumeName"), &Text("string")),
        Field("VolumeNamespace", Key("volumeNamespace"), &Text("string")),
        Field("FSType", Key("fsType"), &Text("string")),
        Field("ReadOnly", Key("readOnly"), &Bool),
        Field("SecretRef", Key("secretRef"), &Pointer(&LOCAL_OBJECT_REFERENCE)),
    ],
    &[],
);

pub(super) static CSI_VOLUME_SOURCE: Type = Struct(
    "core.CSIVolumeSource",
    &[
        Field("Driver", Key("driver"), &Text("string")),
        Field("ReadOnly", Key("readOnly"), &Pointer(&Bool)),
        Field("FSType", Key("fsType"), &Pointer(&Text("string"))),
        Field("VolumeAttributes", Key("volumeAttributes"), &Map("map[string]string", &Text("string"))),
        Field("NodePublishSecretRef", Key("nodePublishSecretRef"), &Pointer(&LOCAL_OBJECT_REFERENCE)),
    ],
    &[],
);

pub(super) static VOLUME_RESOURCE_REQUIREMENTS: Type = Struct(
    "core.VolumeResourceRequirements",
    &[
        Field("Limits", Key("limits"), &Map("core.ResourceList", &Quantity)),
        Field("Requests", Key("requests"), &Map("core.ResourceList", &Quantity)),
    ],
    &[],
);

pub(super) static TYPED_LOCAL_OBJECT_REFERENCE: Type = Struct(
    "core.TypedLocalObjectReference",
    &[
        Field("APIGroup", Key("apiGroup"), &Pointer(&Text("string"))),
        Field("Kind", Key("kind"), &Text("string")),
        Field("Name", Key("name"), &Text("string")),
    ],
    &[],
);

pub(super) static TYPED_OBJECT_REFERENCE: Type = Struct(
    "core.TypedObjectReference",
    &[
        Field("APIGroup", Key("apiGroup"), &Pointer(&Text("string"))),
        Field("Kind", Key("kind"), &Text("string")),
        Field("Name", Key("name"), &Text("string")),
        Field("Namespace", Key("namespace"), &Pointer(&Text("string"))),
    ],
    &[],
);

pub(super) static PERSISTENT_VOLUME_CLAIM_SPEC: Type = Struct(
    "core.PersistentVolumeClaimSpec",
    &[
        Field("AccessModes", Key("accessModes"), &List(&Text("core.PersistentVolumeAccessMode"))),
        Field("Selector", Key("selector"), &Pointer(&LABEL_SELECTOR)),
        Field("Resources", Key("resources"), &VOLUME_RESOURCE_REQUIREMENTS),
        Field("VolumeName", Key("volumeName"), &Text("string")),
        Field("StorageClassName", Key("storageClassName"), &Pointer(&Text("string"))),
        Field("VolumeMode", Key("volumeMode"), &Pointer(&Text("core.PersistentVolumeMode"))),
        Field("DataSource", Key("dataSource"), &Pointer(&TYPED_LOCAL_OBJECT_REFERENCE)),
        Field("DataSourceRef", Key("dataSourceRef"), &Pointer(&TYPED_OBJECT_REFERENCE)),
        Field("VolumeAttributesClassName", Key("volumeAttributesClassName"), &Pointer(&Text("string"))),
    ],
    &[],
);

pub(super) static PERSISTENT_VOLUME_CLAIM_TEMPLATE: Type = Struct(
    "core.PersistentVolumeClaimTemplate",
    &[
        Field("ObjectMeta", Key("metadata"), &OBJECT_META),
        Field("Spec", Key("spec"), &PERSISTENT_VOLUME_CLAIM_SPEC),
    ],
    &[],
);

pub(super) static EPHEMERAL_VOLUME_SOURCE: Type = Struct(
    "core.EphemeralVolumeSource",
    &[Field("VolumeClaimTemplate", Key("volumeClaimTemplate"), &Pointer(&PERSISTENT_VOLUME_CLAIM_TEMPLATE))],
    &[],
);

pub(super) static IMAGE_VOLUME_SOURCE: Type = Struct(
    "core.ImageVolumeSource",
    &[
        Field("Reference", Key("reference"), &Text("string")),
        Field("PullPolicy", Key("pullPolicy"), &Text("core.PullPolicy")),
    ],
    &[],
);

pub(super) static VOLUME_SOURCE: Type = Struct(
    "core.VolumeSource",
    &[
        Field("HostPath", Key("hostPath"), &Pointer(&HOST_PATH_VOLUME_SOURCE)),
        Field("EmptyDir", Key("emptyDir"), &Pointer(&EMPTY_DIR_VOLUME_SOURCE)),
        Field("GCEPersistentDisk", Key("gcePersistentDisk"), &Pointer(&GCE_PERSISTENT_DISK_VOLUME_SOURCE)),
        Field(
            "AWSElasticBlockStore",
            Key("awsElasticBlockStore"),
            &Pointer(&AWS_ELASTIC_BLOCK_STORE_VOLUME_SOURCE),
        ),
        Field("GitRepo", Key("gitRepo"), &Pointer(&GIT_REPO_VOLUME_SOURCE)),
        Field("Secret", Key("secret"), &Pointer(&SECRET_VOLUME_SOURCE)),
        Field("NFS", Key("nfs"), &Pointer(&NFS_VOLUME_SOURCE)),
        Field("ISCSI", Key("iscsi"), &Pointer(&ISCSI_VOLUME_SOURCE)),
        Field("Glusterfs", Key("glusterfs"), &Pointer(&GLUSTERFS_VOLUME_SOURCE)),
        Field(
            "PersistentVolumeClaim",
            Key("persistentVolumeClaim"),
            &Pointer(&PERSISTENT_VOLUME_CLAIM_VOLUME_SOURCE),
        ),
        Field("RBD", Key("rbd"), &Pointer(&RBD_VOLUME_SOURCE)),
        Field("Quobyte", Key("quobyte"), &Pointer(&QUOBYTE_VOLUME_SOURCE)),
        Field("FlexVolume", Key("flexVolume"), &Pointer(&FLEX_VOLUME_SOURCE)),
        Field("Cinder", Key("cinder"), &Pointer(&CINDER_VOLUME_SOURCE)),
        Field("CephFS", Key("cephfs"), &Pointer(&CEPH_FS_VOLUME_SOURCE)),
        Field("Flocker", Key("flocker"), &Pointer(&FLOCKER_VOLUME_SOURCE)),
        Field("DownwardAPI", Key("downwardAPI"), &Pointer(&DOWNWARD_API_VOLUME_SOURCE)),
        Field("FC", Key("fc"), &Pointer(&FC_VOLUME_SOURCE)),
        Field("AzureFile", Key("azureFile"), &Pointer(&AZURE_FILE_VOLUME_SOURCE)),
        Field("ConfigMap", Key("configMap"), &Pointer(&CONFIG_MAP_VOLUME_SOURCE)),
        Field("VsphereVolume", Key("vsphereVolume"), &Pointer(&VSPHERE_VIRTUAL_DISK_VOLUME_SOURCE)),
        Field("AzureDisk", Key("azureDisk"), &Pointer(&AZURE_DISK_VOLUME_SOURCE)),
        Field(
            "PhotonPersistentDisk",
            Key("photonPersistentDisk"),
            &Pointer(&PHOTON_PERSISTENT_DISK_VOLUME_SOURCE),
        ),
        Field("Projected", Key("projected"), &Pointer(&PROJECTED_VOLUME_SOURCE)),
        Field("PortworxVolume", Key("portworxVolume"), &Pointer(&PORTWORX_VOLUME_SOURCE)),
        Field("ScaleIO", Key("scaleIO"), &Pointer(&SCALE_IO_VOLUME_SOURCE)),
        Field("StorageOS", Key("storageos"), &Pointer(&STORAGE_OS_VOLUME_SOURCE)),
        Field("CSI", Key("csi"), &Pointer(&CSI_VOLUME_SOURCE)),
        Field("Ephemeral", Key("ephemeral"), &Pointer(&EPHEMERAL_VOLUME_SOURCE)),
        Field("Image", Key("image"), &Pointer(&IMAGE_VOLUME_SOURCE)),
    ],
    &[],
);

pub(super) static VOLUME: Type = Struct(
    "core.Volume",
    &[Field("Name", Key("name"), &Text("string")), Field("VolumeSource", Inline, &VOLUME_SOURCE)],
    &[],
);
