//! The image service of the scripted runtime.

use std::time::Duration;

use rubelet_cri::{CriError, CriFuture, ImageService, v1};

use super::ScriptedCri;
use super::calls::About;
use super::history::Subject;
use super::op::Op;

/// Size of an image that was pulled, in bytes.
const PULLED_SIZE: u64 = 5 << 20;

fn name_of(spec: Option<v1::ImageSpec>) -> String {
    spec.map(|spec| spec.image).unwrap_or_default()
}

fn about(image: &str) -> About {
    About::subject(Subject { id: image.to_owned(), ..Default::default() })
}

async fn pull(cri: ScriptedCri, image: String) -> Result<v1::PullImageResponse, CriError> {
    let script = cri.with(|model, _| model.script.next_pull(&image));
    tokio::time::sleep(script.takes).await;
    match script.error {
        Some((kind, words)) => Err(CriError::new(Op::PullImage.name(), kind, words)),
        None => {
            let image_ref = cri.with(|model, _| model.add_image(&image, PULLED_SIZE));
            Ok(v1::PullImageResponse { image_ref })
        }
    }
}

impl ImageService for ScriptedCri {
    fn list_images(&self, request: v1::ListImagesRequest) -> CriFuture<v1::ListImagesResponse> {
        let wanted = name_of(request.filter.and_then(|filter| filter.image));
        self.at_once(Op::ListImages, About::default(), self.deadlines.request, move |model, _| {
            let images = match wanted.as_str() {
                "" => model.images.values().cloned().collect(),
                wanted => model.find_image(wanted).cloned().into_iter().collect(),
            };
            Ok(v1::ListImagesResponse { images })
        })
    }
    fn image_status(&self, request: v1::ImageStatusRequest) -> CriFuture<v1::ImageStatusResponse> {
        let wanted = name_of(request.image);
        self.at_once(Op::ImageStatus, about(&wanted), self.deadlines.request, move |model, _| {
            let image = model.find_image(&wanted).cloned();
            Ok(v1::ImageStatusResponse { image, info: Default::default() })
        })
    }
    fn remove_image(&self, request: v1::RemoveImageRequest) -> CriFuture<v1::RemoveImageResponse> {
        let wanted = name_of(request.image);
        self.at_once(Op::RemoveImage, about(&wanted), self.deadlines.request, move |model, _| {
            if let Some(id) = model.find_image(&wanted).map(|image| image.id.clone()) {
                model.images.remove(&id);
                model.version += 1;
            }
            Ok(v1::RemoveImageResponse {})
        })
    }
    fn image_fs_info(&self, _request: v1::ImageFsInfoRequest) -> CriFuture<v1::ImageFsInfoResponse> {
        self.at_once(Op::ImageFsInfo, About::default(), self.deadlines.request, move |model, now| {
            let used = model.images.values().map(|image| image.size).sum();
            let usage = v1::FilesystemUsage {
                timestamp: i64::try_from(model.wall(now).as_nanosecond()).unwrap_or_default(),
                fs_id: Some(v1::FilesystemIdentifier { mountpoint: "/var/lib/scripted".to_owned() }),
                used_bytes: Some(v1::UInt64Value { value: used }),
                inodes_used: Some(v1::UInt64Value { value: 1 }),
            };
            Ok(v1::ImageFsInfoResponse { image_filesystems: vec![usage], container_filesystems: vec![] })
        })
    }
    fn pull_image(&self, request: v1::PullImageRequest, limit: Duration) -> CriFuture<v1::PullImageResponse> {
        let image = name_of(request.image);
        let deadline = self.deadlines.pull_image(limit);
        self.call(Op::PullImage, about(&image), deadline, move |cri| pull(cri, image))
    }
}
