//! The driver's three services on the wire: registration, identity and node. They check what the protocol demands of
//! every request, and hand it to `calls`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rubelet_csi::v1;
use rubelet_csi::v1::identity_server::Identity;
use rubelet_csi::v1::node_server::Node;
use rubelet_csi::v1::volume_capability::AccessType;
use rubelet_csi::v1::volume_capability::access_mode::Mode;
use rubelet_plugins::registration::v1 as registration;
use serde_json::{Value, json};
use tonic::{Code, Request, Response, Status};

use super::calls::Shared;
use super::disk::{Wanted, mistake};
use super::script::{Capability, Method, Usage};

/// The services, over what they share.
#[derive(Clone)]
pub(super) struct Wire {
    pub shared: Arc<Shared>,
    /// Path of the socket that identity and node are on.
    pub endpoint: PathBuf,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl registration::registration_server::Registration for Wire {
    async fn get_info(&self, _: Request<registration::InfoRequest>) -> Answer<registration::PluginInfo> {
        let endpoint = self.endpoint.display().to_string();
        let info = move |shared: &Shared| {
            let character = shared.character();
            Ok(registration::PluginInfo {
                r#type: character.kind.clone(),
                name: character.name.clone(),
                endpoint: character.endpoint.clone().unwrap_or(endpoint),
                supported_versions: character.versions.clone(),
            })
        };
        self.shared.call(Method::GetInfo, "", Value::Null, info, registration::PluginInfo::default()).await
    }

    async fn notify_registration_status(
        &self,
        request: Request<registration::RegistrationStatus>,
    ) -> Answer<registration::RegistrationStatusResponse> {
        let request = request.into_inner();
        let told = json!({"plugin_registered": request.plugin_registered, "error": request.error});
        let done = registration::RegistrationStatusResponse {};
        self.shared.call(Method::NotifyRegistrationStatus, "", told, move |_| Ok(done), done).await
    }
}

#[tonic::async_trait]
impl Identity for Wire {
    async fn get_plugin_info(
        &self,
        _: Request<v1::GetPluginInfoRequest>,
    ) -> Answer<v1::GetPluginInfoResponse> {
        let info = |shared: &Shared| {
            let name = shared.character().name.clone();
            Ok(v1::GetPluginInfoResponse { name, vendor_version: "1".to_owned(), manifest: BTreeMap::new() })
        };
        let lie = v1::GetPluginInfoResponse::default();
        self.shared.call(Method::GetPluginInfo, "", Value::Null, info, lie).await
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<v1::GetPluginCapabilitiesRequest>,
    ) -> Answer<v1::GetPluginCapabilitiesResponse> {
        let none = v1::GetPluginCapabilitiesResponse::default();
        let lie = none.clone();
        self.shared.call(Method::GetPluginCapabilities, "", Value::Null, move |_| Ok(none), lie).await
    }

    async fn probe(&self, _: Request<v1::ProbeRequest>) -> Answer<v1::ProbeResponse> {
        let lie = v1::ProbeResponse { ready: Some(false) };
        let ready = v1::ProbeResponse { ready: Some(true) };
        self.shared.call(Method::Probe, "", Value::Null, move |_| Ok(ready), lie).await
    }
}

#[tonic::async_trait]
impl Node for Wire {
    async fn node_get_info(&self, _: Request<v1::NodeGetInfoRequest>) -> Answer<v1::NodeGetInfoResponse> {
        let info = |shared: &Shared| {
            let character = shared.character();
            let segments = character.topology.clone();
            Ok(v1::NodeGetInfoResponse {
                node_id: character.node_id.clone(),
                max_volumes_per_node: character.max_volumes,
                accessible_topology: (!segments.is_empty()).then_some(v1::Topology { segments }),
            })
        };
        let lie = v1::NodeGetInfoResponse::default();
        self.shared.call(Method::NodeGetInfo, "", Value::Null, info, lie).await
    }

    async fn node_get_capabilities(
        &self,
        _: Request<v1::NodeGetCapabilitiesRequest>,
    ) -> Answer<v1::NodeGetCapabilitiesResponse> {
        let told = |shared: &Shared| {
            let capabilities = shared.character().capabilities.iter().map(|known| on_wire(*known)).collect();
            Ok(v1::NodeGetCapabilitiesResponse { capabilities })
        };
        let lie = v1::NodeGetCapabilitiesResponse::default();
        self.shared.call(Method::NodeGetCapabilities, "", Value::Null, told, lie).await
    }

    async fn node_stage_volume(
        &self,
        request: Request<v1::NodeStageVolumeRequest>,
    ) -> Answer<v1::NodeStageVolumeResponse> {
        let asked = request.into_inner();
        let told = json!({
            "volume_id": asked.volume_id, "publish_context": asked.publish_context,
            "staging_target_path": asked.staging_target_path, "secrets": asked.secrets,
            "volume_context": asked.volume_context, "volume_capability": capability(asked.volume_capability.as_ref()),
        });
        let handle = asked.volume_id.clone();
        let work = move |shared: &Shared| {
            required(&[&asked.volume_id, &asked.staging_target_path])?;
            needs(shared, Capability::StageUnstageVolume)?;
            let wanted = wanted(shared, asked.volume_capability.as_ref(), &asked.volume_context, false)?;
            shared.disk.stage(&asked.volume_id, Path::new(&asked.staging_target_path), &wanted)?;
            Ok(v1::NodeStageVolumeResponse {})
        };
        let lie = v1::NodeStageVolumeResponse {};
        self.shared.call(Method::NodeStageVolume, &handle, told, work, lie).await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<v1::NodeUnstageVolumeRequest>,
    ) -> Answer<v1::NodeUnstageVolumeResponse> {
        let asked = request.into_inner();
        let told = json!({"volume_id": asked.volume_id, "staging_target_path": asked.staging_target_path});
        let handle = asked.volume_id.clone();
        let work = move |shared: &Shared| {
            required(&[&asked.volume_id, &asked.staging_target_path])?;
            needs(shared, Capability::StageUnstageVolume)?;
            shared.disk.unstage(&asked.volume_id, Path::new(&asked.staging_target_path))?;
            Ok(v1::NodeUnstageVolumeResponse {})
        };
        let lie = v1::NodeUnstageVolumeResponse {};
        self.shared.call(Method::NodeUnstageVolume, &handle, told, work, lie).await
    }

    async fn node_publish_volume(
        &self,
        request: Request<v1::NodePublishVolumeRequest>,
    ) -> Answer<v1::NodePublishVolumeResponse> {
        let asked = request.into_inner();
        let told = json!({
            "volume_id": asked.volume_id, "publish_context": asked.publish_context,
            "staging_target_path": asked.staging_target_path, "target_path": asked.target_path,
            "readonly": asked.readonly, "secrets": asked.secrets, "volume_context": asked.volume_context,
            "volume_capability": capability(asked.volume_capability.as_ref()),
        });
        let handle = asked.volume_id.clone();
        let work = move |shared: &Shared| {
            required(&[&asked.volume_id, &asked.target_path])?;
            let wanted =
                wanted(shared, asked.volume_capability.as_ref(), &asked.volume_context, asked.readonly)?;
            let staging = Some(Path::new(&asked.staging_target_path)).filter(|path| *path != Path::new(""));
            shared.disk.publish(&asked.volume_id, staging, Path::new(&asked.target_path), &wanted)?;
            Ok(v1::NodePublishVolumeResponse {})
        };
        let lie = v1::NodePublishVolumeResponse {};
        self.shared.call(Method::NodePublishVolume, &handle, told, work, lie).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<v1::NodeUnpublishVolumeRequest>,
    ) -> Answer<v1::NodeUnpublishVolumeResponse> {
        let asked = request.into_inner();
        let told = json!({"volume_id": asked.volume_id, "target_path": asked.target_path});
        let handle = asked.volume_id.clone();
        let work = move |shared: &Shared| {
            required(&[&asked.volume_id, &asked.target_path])?;
            shared.disk.unpublish(&asked.volume_id, Path::new(&asked.target_path))?;
            Ok(v1::NodeUnpublishVolumeResponse {})
        };
        let lie = v1::NodeUnpublishVolumeResponse {};
        self.shared.call(Method::NodeUnpublishVolume, &handle, told, work, lie).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<v1::NodeGetVolumeStatsRequest>,
    ) -> Answer<v1::NodeGetVolumeStatsResponse> {
        let asked = request.into_inner();
        let told = json!({"volume_id": asked.volume_id, "volume_path": asked.volume_path,
            "staging_target_path": asked.staging_target_path});
        let handle = asked.volume_id.clone();
        let work = move |shared: &Shared| {
            required(&[&asked.volume_id, &asked.volume_path])?;
            needs(shared, Capability::GetVolumeStats)?;
            stats(shared, &asked.volume_id, Path::new(&asked.volume_path))
        };
        let lie = v1::NodeGetVolumeStatsResponse::default();
        self.shared.call(Method::NodeGetVolumeStats, &handle, told, work, lie).await
    }

    async fn node_expand_volume(
        &self,
        request: Request<v1::NodeExpandVolumeRequest>,
    ) -> Answer<v1::NodeExpandVolumeResponse> {
        let asked = request.into_inner();
        let range = asked.capacity_range.unwrap_or_default();
        let told = json!({
            "volume_id": asked.volume_id, "volume_path": asked.volume_path, "secrets": asked.secrets,
            "staging_target_path": asked.staging_target_path,
            "required_bytes": range.required_bytes, "limit_bytes": range.limit_bytes,
            "volume_capability": capability(asked.volume_capability.as_ref()),
        });
        let handle = asked.volume_id.clone();
        let work = move |shared: &Shared| {
            required(&[&asked.volume_id, &asked.volume_path])?;
            needs(shared, Capability::ExpandVolume)?;
            let place = Path::new(&asked.volume_path);
            let capacity = shared.disk.expand(&asked.volume_id, place, range.required_bytes)?;
            let capacity_bytes = shared.character().expanded_to.unwrap_or(capacity);
            Ok(v1::NodeExpandVolumeResponse { capacity_bytes })
        };
        let lie = v1::NodeExpandVolumeResponse { capacity_bytes: range.required_bytes };
        self.shared.call(Method::NodeExpandVolume, &handle, told, work, lie).await
    }
}

fn required(fields: &[&str]) -> Result<(), Status> {
    if fields.contains(&"") {
        Err(mistake(Code::InvalidArgument, "a required field is empty"))
    } else {
        Ok(())
    }
}

fn needs(shared: &Shared, capability: Capability) -> Result<(), Status> {
    if shared.character().can(capability) {
        return Ok(());
    }
    Err(mistake(Code::Unimplemented, format!("the driver has no {capability:?}")))
}

fn on_wire(capability: Capability) -> v1::NodeServiceCapability {
    use v1::node_service_capability::rpc::Type;
    use v1::node_service_capability::{Rpc, Type as Kind};
    let number = match capability {
        Capability::StageUnstageVolume => Type::StageUnstageVolume,
        Capability::GetVolumeStats => Type::GetVolumeStats,
        Capability::ExpandVolume => Type::ExpandVolume,
        Capability::VolumeCondition => Type::VolumeCondition,
        Capability::SingleNodeMultiWriter => Type::SingleNodeMultiWriter,
        Capability::VolumeMountGroup => Type::VolumeMountGroup,
    };
    v1::NodeServiceCapability { r#type: Some(Kind::Rpc(Rpc { r#type: number.into() })) }
}

/// A capability of a volume, for the log: `access_mode`, and either `block` or the fields of a mount.
fn capability(asked: Option<&v1::VolumeCapability>) -> Value {
    let Some(asked) = asked else { return Value::Null };
    let mode = asked.access_mode.as_ref().and_then(|mode| Mode::try_from(mode.mode).ok());
    let mode = mode.map(|mode| mode.as_str_name());
    match &asked.access_type {
        None => json!({"access_mode": mode}),
        Some(AccessType::Block(_)) => json!({"access_mode": mode, "block": true}),
        Some(AccessType::Mount(mount)) => json!({"access_mode": mode, "fs_type": mount.fs_type,
            "mount_flags": mount.mount_flags, "volume_mount_group": mount.volume_mount_group}),
    }
}

fn wanted(
    shared: &Shared,
    asked: Option<&v1::VolumeCapability>,
    context: &BTreeMap<String, String>,
    read_only: bool,
) -> Result<Wanted, Status> {
    let wrong = |what: &str| mistake(Code::InvalidArgument, what);
    let asked = asked.ok_or_else(|| wrong("there is no volume capability"))?;
    let mode = asked.access_mode.as_ref().and_then(|mode| Mode::try_from(mode.mode).ok());
    match mode {
        None | Some(Mode::Unknown) => return Err(wrong("there is no access mode")),
        Some(Mode::SingleNodeSingleWriter | Mode::SingleNodeMultiWriter) => {
            needs(shared, Capability::SingleNodeMultiWriter)?;
        }
        _ => {}
    }
    let inline = context.get("csi.storage.k8s.io/ephemeral").is_some_and(|word| word == "true");
    let content = context.clone();
    match &asked.access_type {
        None => Err(wrong("neither files nor a device are asked for")),
        Some(AccessType::Block(_)) => {
            Ok(Wanted { block: true, read_only, inline, content, ..Wanted::default() })
        }
        Some(AccessType::Mount(mount)) => {
            let group = if mount.volume_mount_group.is_empty() {
                None
            } else {
                needs(shared, Capability::VolumeMountGroup)?;
                Some(mount.volume_mount_group.parse().map_err(|_| wrong("the group is no number"))?)
            };
            let mount_flags = mount.mount_flags.clone();
            Ok(Wanted { block: false, mount_flags, group, read_only, inline, content })
        }
    }
}

fn stats(shared: &Shared, handle: &str, place: &Path) -> Result<v1::NodeGetVolumeStatsResponse, Status> {
    let block = shared.disk.is_block(handle, place)?;
    let capacity = shared.disk.capacity(handle).unwrap_or_default();
    let character = shared.character();
    let usage = character.usage.get(handle).copied().unwrap_or(Usage {
        total: capacity,
        used: 4096,
        available: capacity - 4096,
        inodes: (1000, 10, 990),
    });
    let bytes = v1::VolumeUsage {
        available: usage.available,
        total: usage.total,
        used: usage.used,
        unit: v1::volume_usage::Unit::Bytes.into(),
    };
    let (total, used, available) = usage.inodes;
    let inodes = v1::VolumeUsage { available, total, used, unit: v1::volume_usage::Unit::Inodes.into() };
    let volume_condition = character.can(Capability::VolumeCondition).then(|| {
        let message = character.abnormal.get(handle);
        v1::VolumeCondition {
            abnormal: message.is_some(),
            message: message.cloned().unwrap_or_else(|| "all is well".to_owned()),
        }
    });
    let usage =
        if block { vec![v1::VolumeUsage { used: 0, available: 0, ..bytes }] } else { vec![bytes, inodes] };
    Ok(v1::NodeGetVolumeStatsResponse { usage, volume_condition })
}
