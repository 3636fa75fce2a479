//! What containers, sandboxes and pods need of images.

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use rubelet_core::image_gc::{ImageUse, ListedImage};
use rubelet_core::labels;
use rubelet_core::lifecycle::PodState;
use rubelet_cri::{CriError, v1};

use super::Shared;

impl Shared {
    /// Images that pods are made of which live or are still to begin, by the names they use. Asks nobody.
    pub(super) fn wanted_by_pods(&self) -> ImageUse {
        let mut uses = ImageUse::default();
        let rows = self.parts.table.snapshot();
        let has_ended =
            |state: &PodState| matches!(state, PodState::Terminated { .. } | PodState::Finished { .. });
        for row in rows.values().filter(|row| !has_ended(&row.state)) {
            insert_pod(&mut uses, &row.pod);
            let statuses = [
                &row.status.init_container_statuses,
                &row.status.container_statuses,
                &row.status.ephemeral_container_statuses,
            ];
            statuses.into_iter().flatten().flatten().for_each(|status| uses.insert(&status.image_id));
        }
        for (uid, wanted) in &self.parts.desired.borrow().pods {
            if !rows.contains_key(uid) {
                insert_pod(&mut uses, &wanted.pod);
            }
        }
        uses
    }

    /// Everything that needs an image now, containers that have ended included: who looks at one wants to know what it
    /// was made of, and the runtime may refuse to remove it.
    pub(super) async fn uses(&self) -> Result<ImageUse, CriError> {
        let mut uses = self.wanted_by_pods();
        let containers = self.parts.runtime.list_containers(v1::ListContainersRequest::default());
        let (containers, status) =
            futures::join!(containers, self.parts.runtime.status(v1::StatusRequest { verbose: true }));
        let containers = containers?.containers;
        for container in &containers {
            container.image.iter().for_each(|image| uses.insert(&image.image));
            uses.insert(&container.image_ref);
            uses.insert(&container.image_id);
        }
        // Older runtimes do not pin the image of sandboxes, and nothing pulls it where there is no network.
        if let Ok(status) = status {
            sandbox_images(&status).iter().for_each(|image| uses.insert(image));
        }
        // A mounted image may have lost its name to a newer one.
        let mounting = containers.iter().filter(|container| self.may_mount_images(container));
        let statuses = mounting.map(|container| {
            let request = v1::ContainerStatusRequest { container_id: container.id.clone(), verbose: false };
            async {
                match self.parts.runtime.container_status(request).await {
                    Ok(answer) => Ok(answer.status),
                    Err(error) if error.is_not_found() => Ok(None),
                    Err(error) => Err(error),
                }
            }
        });
        for status in try_join_all(statuses).await?.into_iter().flatten() {
            let mounted = status.mounts.iter().filter_map(|mount| mount.image.as_ref());
            mounted.for_each(|image| uses.insert(&image.image));
        }
        Ok(uses)
    }

    /// Whether a container may mount an image: it is of a pod that has one as a volume, or of a pod that is not known.
    fn may_mount_images(&self, container: &v1::Container) -> bool {
        let uid = container.labels.get(labels::POD_UID).map(String::as_str).unwrap_or_default();
        let Some(row) = self.parts.table.get(&uid.into()) else { return true };
        let volumes = row.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        volumes.into_iter().any(|volume| volume.image.is_some())
    }
}

fn insert_pod(uses: &mut ImageUse, pod: &Pod) {
    let Some(spec) = &pod.spec else { return };
    let own = spec.init_containers.iter().flatten().chain(&spec.containers).map(|container| &container.image);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| &container.image);
    let mounted = spec.volumes.iter().flatten().filter_map(|volume| Some(&volume.image.as_ref()?.reference));
    own.chain(ephemeral).chain(mounted).flatten().for_each(|image| uses.insert(image));
}

/// The image that the runtime makes sandboxes of, where it tells (containerd 1).
fn sandbox_images(status: &v1::StatusResponse) -> Vec<String> {
    let config =
        status.info.get("config").and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let image = config.as_ref().and_then(|config| config.get("sandboxImage")?.as_str());
    image.map(str::to_owned).into_iter().collect()
}

/// An image as the runtime lists it.
pub(super) fn listed(image: v1::Image) -> ListedImage {
    ListedImage {
        id: image.id,
        handler: image.spec.map(|spec| spec.runtime_handler).unwrap_or_default(),
        names: image.repo_tags.into_iter().chain(image.repo_digests).collect(),
        size: image.size,
        pinned: image.pinned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_of_sandboxes_is_found_where_the_runtime_tells() {
        let status = |text: &str| v1::StatusResponse {
            info: [("config".to_owned(), text.to_owned())].into(),
            ..v1::StatusResponse::default()
        };
        let found = |text| sandbox_images(&status(text));
        assert_eq!(found(r#"{"sandboxImage":"registry.k8s.io/pause:3.6"}"#), ["registry.k8s.io/pause:3.6"]);
        for other in ["", "[]", "{}", r#"{"sandboxImage":7}"#] {
            assert!(found(other).is_empty(), "{other}");
        }
        assert!(sandbox_images(&v1::StatusResponse::default()).is_empty());
    }
}
