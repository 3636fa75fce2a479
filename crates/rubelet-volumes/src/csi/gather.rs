//! What has to be known before a driver is asked: its CSIDriver object, whether the volume is attached, Secrets, tokens,
//! what it wants to know of the pod. Asks the API; holds no turn, changes nothing, may be given up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSIDriver;
use rubelet_core::env::Missing;
use rubelet_core::ids::PodUid;
use rubelet_core::projection::IssuedToken;
use rubelet_core::volumes::access::{CsiAccessMode, csi_access_mode};
use rubelet_core::volumes::attach::{AttachError, attachment_name, is_attachable, is_attached};
use rubelet_core::volumes::group::{FsGroupPolicy, fs_group_plan};
use rubelet_core::volumes::lifecycle::{check_lifecycle, pod_info};
use rubelet_core::volumes::limits::is_exhausted;
use rubelet_core::volumes::selinux::{context_option, mount_label};
use rubelet_core::volumes::tokens::{TOKENS, token_requests, tokens_in_secrets, tokens_value};
use rubelet_core::volumes::{CsiVolume, SecretPlace};
use rubelet_csi::{AccessMode, Secrets};
use tokio::time::{Instant, sleep, timeout_at};

use super::problem::{CsiCause, CsiProblem, CsiStep};
use super::set_up::ATTACH_DEADLINE;
use super::work::Work;
use super::{CsiUse, Shared};
use crate::objects::VolumeApi;

/// Pause before an attachment that is not ready is looked at again; it grows up to [`ATTACH_LONGEST`], as upstream's.
const ATTACH_FIRST: Duration = Duration::from_millis(500);
const ATTACH_LONGEST: Duration = Duration::from_secs(7);

pub(super) fn words(missing: &Missing) -> String {
    match missing {
        Missing::NotFound(message) | Missing::Failed(message) => message.clone(),
    }
}

impl Shared {
    /// The CSIDriver object; none is an answer too.
    pub(super) async fn driver_object(
        &self,
        driver: &str,
        step: CsiStep,
    ) -> Result<Option<Arc<CSIDriver>>, CsiProblem> {
        let Some(api) = &self.api else { return Ok(None) };
        api.csi_driver(driver).await.map_err(|missing| CsiProblem::new(step, CsiCause::Api(words(&missing))))
    }

    /// Everything that bringing the volume to the pod needs.
    pub(super) async fn gather(
        &self,
        volume: &CsiVolume,
        uid: &PodUid,
        call: &CsiUse<'_>,
        object: Option<&CSIDriver>,
        step: CsiStep,
    ) -> Result<Work, CsiProblem> {
        let problem = |cause| CsiProblem::new(step, cause);
        check_lifecycle(volume, object)
            .map_err(|error| problem(CsiCause::NotSupported(error.to_string())))?;
        let policy =
            FsGroupPolicy::of(object).map_err(|error| problem(CsiCause::NotSupported(error.to_string())))?;
        let publish_context = if is_attachable(volume, object) {
            self.attached(volume, object, step).await?
        } else {
            BTreeMap::new()
        };
        let driver = self.drivers.wanted(&volume.driver, uid, step)?;
        let stage_secret =
            volume.stage_secret.as_ref().filter(|_| driver.can.stage_unstage && !volume.inline);
        let (stage_secrets, publish_secrets, tokens) = futures::try_join!(
            self.secrets("NodeStageSecretRef", stage_secret, step),
            self.secrets("NodePublishSecretRef", volume.publish_secret.as_ref(), step),
            self.tokens(call.pod, object, call.now, step),
        )?;
        let (mut publish_secrets, mut publish_attributes) = (publish_secrets, volume.attributes.clone());
        publish_attributes.extend(pod_info(volume, call.pod, object));
        if let Some(tokens) = tokens {
            if tokens_in_secrets(object) {
                publish_secrets.insert(TOKENS, tokens);
            } else {
                publish_attributes.insert(TOKENS.to_owned(), tokens);
            }
        }
        let file_label = self.file_label.as_deref();
        let selinux = mount_label(volume, call.pod, call.name, object, file_label)
            .map_err(|error| problem(CsiCause::NotSupported(error.to_string())))?;
        let mode = csi_access_mode(&volume.access_modes, driver.can.single_node_multi_writer);
        Ok(Work {
            access_mode: on_the_wire(mode),
            group: fs_group_plan(policy, driver.can.volume_mount_group, volume, call.pod),
            volume: volume.clone(),
            uid: uid.clone(),
            pod_dir: call.pod_dir.to_owned(),
            driver,
            read_only: volume.read_only,
            publish_context,
            stage_secrets,
            publish_secrets,
            publish_attributes,
            mount_flags: volume
                .mount_options
                .iter()
                .cloned()
                .chain(selinux.as_deref().map(context_option))
                .collect(),
            selinux: selinux.unwrap_or_default(),
        })
    }

    /// Waits until the volume is attached to this node; answers with what the attach left behind.
    async fn attached(
        &self,
        volume: &CsiVolume,
        object: Option<&CSIDriver>,
        step: CsiStep,
    ) -> Result<BTreeMap<String, String>, CsiProblem> {
        let step = match step {
            CsiStep::MapDevice => CsiStep::WaitForAttachDevice,
            _ => CsiStep::WaitForAttach,
        };
        let api = self
            .api
            .as_ref()
            .ok_or_else(|| CsiProblem::new(step, CsiCause::Api("this node has no API server".to_owned())))?;
        let unique = volume.unique_name();
        // Before anything is looked at: from then on nobody detaches it.
        api.use_volume(&unique).await.map_err(|missing| {
            CsiProblem::new(
                step,
                CsiCause::Api(format!(
                    "Volume has not been added to the list of VolumesInUse in the node's volume status: {}",
                    words(&missing)
                )),
            )
        })?;
        let name = attachment_name(&volume.handle, &volume.driver, &self.places.node_name);
        let deadline = Instant::now() + ATTACH_DEADLINE;
        let problem = |cause| CsiProblem::new(step, cause);
        self.await_node_status(api.as_ref(), volume, object, &name, deadline).await.map_err(problem)?;
        let mut pause = ATTACH_FIRST;
        loop {
            let why = match self.attachment(api.as_ref(), volume, object, &name).await.map_err(problem)? {
                Ok(context) => return Ok(context),
                Err(why) => why,
            };
            if Instant::now() + pause > deadline {
                return Err(problem(CsiCause::NotAttached(why)));
            }
            sleep(pause).await;
            pause = longer(pause);
        }
    }

    /// Waits until the node's status has the volume as attached. Meanwhile the attachment is looked at: one that has
    /// failed for good is not waited for.
    async fn await_node_status(
        &self,
        api: &dyn VolumeApi,
        volume: &CsiVolume,
        object: Option<&CSIDriver>,
        name: &str,
        deadline: Instant,
    ) -> Result<(), CsiCause> {
        let unique = volume.unique_name();
        if api.attached(&unique).is_some() {
            return Ok(());
        }
        let mut waiting = api.wait_attached(&unique);
        let mut pause = ATTACH_FIRST;
        loop {
            let until = (Instant::now() + pause).min(deadline);
            // Cancel safe: whoever waits here only looks.
            if timeout_at(until, &mut waiting).await.is_ok() {
                return Ok(());
            }
            let looked = self.attachment(api, volume, object, name).await;
            if looked.is_err() {
                return looked.map(|_| ());
            }
            if Instant::now() >= deadline {
                let why = match looked {
                    Ok(Err(why)) => why,
                    Err(cause) => return Err(cause),
                    Ok(Ok(_)) => "it is not in the node's status".to_owned(),
                };
                return Err(CsiCause::NotAttached(format!(
                    "volume {unique} is not yet in node's status, timed out waiting for it to be attached: {why}"
                )));
            }
            pause = longer(pause);
        }
    }

    /// The attachment as it is: what the attach left behind, or why it is worth waiting.
    async fn attachment(
        &self,
        api: &dyn VolumeApi,
        volume: &CsiVolume,
        object: Option<&CSIDriver>,
        name: &str,
    ) -> Result<Result<BTreeMap<String, String>, String>, CsiCause> {
        match api.volume_attachment(name).await {
            Ok(attachment) => match is_attached(&attachment, &volume.handle) {
                Ok(context) => Ok(Ok(context)),
                Err(error @ AttachError::NotYet { .. }) => Ok(Err(error.to_string())),
                Err(error) if is_exhausted(&attachment, object) => {
                    if let Some(full) = &self.full {
                        full(&volume.driver);
                    }
                    Err(CsiCause::Exhausted(error.to_string()))
                }
                Err(error) => Err(CsiCause::NotAttached(error.to_string())),
            },
            Err(missing) => Ok(Err(format!(
                "volume {} has GET error for volume attachment {name}: {}",
                volume.handle,
                words(&missing)
            ))),
        }
    }

    /// The contents of a Secret that a driver is to be given.
    pub(super) async fn secrets(
        &self,
        what: &str,
        place: Option<&SecretPlace>,
        step: CsiStep,
    ) -> Result<Secrets, CsiProblem> {
        let Some(SecretPlace { namespace, name }) = place else { return Ok(Secrets::default()) };
        let failed = |why: &str| {
            let text = format!("fetching {what} {namespace}/{name} failed: {why}");
            CsiProblem::new(step, CsiCause::Api(text))
        };
        let Some(objects) = &self.objects else { return Err(failed("this node has no API server")) };
        let secret = objects.secret(namespace, name).await.map_err(|missing| failed(&words(&missing)))?;
        let data = secret.data.iter().flatten();
        // As upstream: whatever the bytes are, the protocol has only text.
        let text = data.map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned()));
        Ok(Secrets::from(text.collect::<BTreeMap<_, _>>()))
    }

    /// The tokens that the driver asks for, as it wants them; none if it asks for none.
    async fn tokens(
        &self,
        pod: &Pod,
        object: Option<&CSIDriver>,
        now: Timestamp,
        step: CsiStep,
    ) -> Result<Option<String>, CsiProblem> {
        let wanted = token_requests(pod, object);
        if wanted.is_empty() {
            return Ok(None);
        }
        let failed = |why: String| {
            let text = format!("failed to get service account token attributes: {why}");
            CsiProblem::new(step, CsiCause::Api(text))
        };
        let manager = self.tokens.as_ref().ok_or_else(|| failed("this node has no API server".to_owned()))?;
        let mut tokens = BTreeMap::new();
        for (audience, key) in &wanted {
            let current = manager.token(key, now).await.map_err(|error| failed(error.to_string()))?;
            let issued = IssuedToken {
                token: current.token,
                expires: current.expires,
                life_seconds: key.expiration_seconds,
            };
            tokens.insert(audience.as_str(), issued);
        }
        Ok(Some(tokens_value(tokens.iter().map(|(audience, issued)| (*audience, issued)))))
    }
}

/// The access mode in the protocol's type.
pub(super) fn on_the_wire(mode: CsiAccessMode) -> AccessMode {
    match mode {
        CsiAccessMode::Unknown => AccessMode::Unknown,
        CsiAccessMode::SingleNodeWriter => AccessMode::SingleNodeWriter,
        CsiAccessMode::MultiNodeReaderOnly => AccessMode::MultiNodeReaderOnly,
        CsiAccessMode::MultiNodeMultiWriter => AccessMode::MultiNodeMultiWriter,
        CsiAccessMode::SingleNodeSingleWriter => AccessMode::SingleNodeSingleWriter,
        CsiAccessMode::SingleNodeMultiWriter => AccessMode::SingleNodeMultiWriter,
    }
}

fn longer(pause: Duration) -> Duration {
    pause.mul_f64(1.5).min(ATTACH_LONGEST)
}
