//! What the runtime alone knows: writable layers, the file system of images, the images of sandboxes.
//!
//! Asked at most every few seconds, however many want to know; a runtime that is slow or down is not waited for long,
//! and the last answer serves for a while.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use rubelet_cri::{CriError, CriErrorKind, ImageService, RuntimeService, v1};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// How long an answer is good.
const FRESH: Duration = Duration::from_secs(10);
/// How long an answer serves while there is no newer one.
const STALE: Duration = Duration::from_secs(300);
/// How long a question is waited for; it goes on without those who asked.
const WAIT: Duration = Duration::from_secs(2);
/// How long the images of new sandboxes are waited for in one reading.
const IMAGES_WAIT: Duration = Duration::from_secs(1);
/// Questions about sandboxes at a time.
const IMAGES_AT_ONCE: usize = 4;
/// When a sandbox is asked about again after a failure.
const IMAGES_RETRY: Duration = Duration::from_secs(60);

/// What something takes on a file system of the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// When the runtime measured.
    pub(super) at: Timestamp,
    /// Where the file system is mounted; empty when the runtime does not tell.
    pub(super) mountpoint: String,
    pub(super) bytes: Option<u64>,
    pub(super) inodes: Option<u64>,
}

/// One answer of the runtime.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// Writable layers by container.
    pub(super) layers: Arc<BTreeMap<String, Taken>>,
    /// What images take.
    pub(super) images: Option<Taken>,
    /// What writable layers take together, where that is not the file system of images.
    pub(super) containers: Option<Taken>,
    /// Why something is missing or old.
    pub(super) problems: Vec<String>,
}

/// Asks the runtime.
pub(super) struct RuntimeFigures {
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
    state: Mutex<State>,
    sandboxes: Mutex<BTreeMap<String, SandboxImage>>,
}

#[derive(Default)]
struct State {
    figures: Figures,
    answered_at: Option<Instant>,
    /// When all of it was last answered.
    complete_at: Option<Instant>,
    asked: Option<JoinHandle<Answer>>,
}

struct Answer {
    layers: Result<v1::ListContainerStatsResponse, CriError>,
    images: Result<v1::ImageFsInfoResponse, CriError>,
}

enum SandboxImage {
    Known(String),
    /// Not to be asked for again before this.
    Unknown(Instant),
}

impl RuntimeFigures {
    pub(super) fn new(runtime: Arc<dyn RuntimeService>, images: Arc<dyn ImageService>) -> Self {
        Self { runtime, images, state: Mutex::default(), sandboxes: Mutex::default() }
    }

    /// The newest figures that can be had soon. Cancel-safe: a question goes on and its answer is found next time.
    pub(super) async fn figures(&self) -> Figures {
        let mut state = self.state.lock().await;
        let fresh = |at: &Option<Instant>, limit| at.is_some_and(|at| at.elapsed() < limit);
        if state.asked.is_none() && !fresh(&state.answered_at, FRESH) {
            let layers = self.runtime.list_container_stats(v1::ListContainerStatsRequest::default());
            let images = self.images.image_fs_info(v1::ImageFsInfoRequest {});
            state.asked = Some(tokio::spawn(async move {
                let (layers, images) = futures::join!(layers, images);
                Answer { layers, images }
            }));
        }
        if let Some(asked) = &mut state.asked {
            match timeout(WAIT, asked).await {
                Ok(answer) => {
                    state.asked = None;
                    if let Ok(answer) = answer {
                        let old = std::mem::take(&mut state.figures);
                        state.figures = take(answer, old, fresh(&state.complete_at, STALE));
                        state.answered_at = Some(Instant::now());
                        if state.figures.problems.is_empty() {
                            state.complete_at = state.answered_at;
                        }
                    }
                }
                Err(_) if fresh(&state.complete_at, STALE) => {}
                Err(_) => {
                    let problem = "the runtime does not tell what containers and images take".to_owned();
                    state.figures = Figures { problems: vec![problem], ..Figures::default() };
                }
            }
        }
        state.figures.clone()
    }

    /// The images of these sandboxes, as far as the runtime tells. What is not among them is forgotten.
    pub(super) async fn sandbox_images(&self, ids: &[String]) -> BTreeMap<String, String> {
        let mut known = self.sandboxes.lock().await;
        known.retain(|id, _| ids.contains(id));
        let wanted: Vec<String> = ids
            .iter()
            .filter(|id| match known.get(*id) {
                Some(SandboxImage::Known(_)) => false,
                Some(SandboxImage::Unknown(until)) => *until <= Instant::now(),
                None => true,
            })
            .cloned()
            .collect();
        if !wanted.is_empty() {
            let runtime = &self.runtime;
            let questions = wanted.into_iter().map(|id| async move {
                let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: true };
                let answer = runtime.pod_sandbox_status(request).await.ok();
                (id, answer.and_then(|answer| image_of(&answer.info)))
            });
            let mut answers = futures::stream::iter(questions).buffer_unordered(IMAGES_AT_ONCE);
            let deadline = Instant::now() + IMAGES_WAIT;
            while let Ok(Some((id, image))) = tokio::time::timeout_at(deadline, answers.next()).await {
                let image = image.map_or_else(
                    || SandboxImage::Unknown(Instant::now() + IMAGES_RETRY),
                    SandboxImage::Known,
                );
                known.insert(id, image);
            }
        }
        let images = known.iter().filter_map(|(id, image)| match image {
            SandboxImage::Known(image) => Some((id.clone(), image.clone())),
            SandboxImage::Unknown(_) => None,
        });
        images.collect()
    }

    /// Forgets everything: nobody has asked for a while.
    pub(super) async fn clear(&self) {
        *self.state.lock().await = State::default();
        self.sandboxes.lock().await.clear();
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(asked) = &self.asked {
            asked.abort();
        }
    }
}

/// Takes an answer; where it has none, the old figures go on for as long as they may.
fn take(answer: Answer, old: Figures, old_serves: bool) -> Figures {
    let old = if old_serves { old } else { Figures::default() };
    let mut figures = Figures { problems: vec![], ..old };
    match answer.layers {
        Ok(answer) => figures.layers = Arc::new(layers(answer)),
        // A runtime without such figures is in no trouble.
        Err(error) if error.kind == CriErrorKind::Unimplemented => {}
        Err(error) => figures.problems.push(format!("writable layers: {error}")),
    }
    match answer.images {
        Ok(answer) => {
            figures.images = answer.image_filesystems.first().and_then(taken);
            figures.containers = answer.container_filesystems.first().and_then(taken).filter(|containers| {
                figures.images.as_ref().is_none_or(|images| images.mountpoint != containers.mountpoint)
            });
        }
        Err(error) => figures.problems.push(format!("the file system of images: {error}")),
    }
    figures
}

fn layers(answer: v1::ListContainerStatsResponse) -> BTreeMap<String, Taken> {
    let told = answer.stats.into_iter().filter_map(|stats| {
        let id = stats.attributes?.id;
        Some((id, taken(&stats.writable_layer?)?))
    });
    told.collect()
}

fn taken(usage: &v1::FilesystemUsage) -> Option<Taken> {
    Some(Taken {
        at: Timestamp::from_nanosecond(i128::from(usage.timestamp)).ok()?,
        mountpoint: usage.fs_id.as_ref().map(|id| id.mountpoint.clone()).unwrap_or_default(),
        bytes: usage.used_bytes.as_ref().map(|bytes| bytes.value),
        inodes: usage.inodes_used.as_ref().map(|inodes| inodes.value),
    })
}

/// The image in what containerd and CRI-O tell of a sandbox beside CRI's own fields.
fn image_of(info: &BTreeMap<String, String>) -> Option<String> {
    let info: serde_json::Value = serde_json::from_str(info.get("info")?).ok()?;
    Some(info.get("image")?.as_str()?.to_owned()).filter(|image| !image.is_empty())
}

#[cfg(test)]
mod tests {
    use rubelet_testkit::scripted::{Fault, Op, RuntimeKind, ScriptedCri};

    use super::*;

    fn figures(cri: &ScriptedCri) -> RuntimeFigures {
        RuntimeFigures::new(Arc::new(cri.clone()), Arc::new(cri.clone()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_runtime_is_asked_once_for_many() {
        let cri = ScriptedCri::new(RuntimeKind::Containerd2);
        cri.add_image("a:1", 500);
        let asked = figures(&cri);
        let (first, second) = futures::join!(asked.figures(), asked.figures());
        assert_eq!(first.images.as_ref().unwrap().bytes, Some(500));
        assert_eq!(second.images, first.images);
        assert!(first.problems.is_empty() && first.containers.is_none(), "{first:?}");
        asked.figures().await;
        assert_eq!(cri.calls_of(Op::ImageFsInfo), 1);
        tokio::time::advance(FRESH).await;
        asked.figures().await;
        assert_eq!(cri.calls_of(Op::ImageFsInfo), 2);
        asked.clear().await;
        asked.figures().await;
        assert_eq!(cri.calls_of(Op::ImageFsInfo), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn old_figures_serve_while_the_runtime_is_in_trouble() {
        let cri = ScriptedCri::new(RuntimeKind::Containerd2);
        cri.add_image("a:1", 500);
        let asked = figures(&cri);
        asked.figures().await;
        tokio::time::advance(FRESH).await;
        cri.inject(Op::ImageFsInfo, Fault::ErrorBefore(CriErrorKind::Unreachable), 1);
        let failed = asked.figures().await;
        assert_eq!(failed.images.as_ref().unwrap().bytes, Some(500));
        assert_eq!(failed.problems.len(), 1, "{failed:?}");
        // One that does not answer is not waited for.
        tokio::time::advance(FRESH).await;
        cri.set_duration(Op::ImageFsInfo, STALE * 10);
        let before = Instant::now();
        let slow = asked.figures().await;
        assert!(before.elapsed() <= WAIT && slow.images.is_some());
        tokio::time::advance(STALE).await;
        let silent = asked.figures().await;
        assert!(silent.images.is_none() && !silent.problems.is_empty(), "{silent:?}");
    }

    #[test]
    fn images_of_sandboxes() {
        let info = |text: &str| BTreeMap::from([("info".to_owned(), text.to_owned())]);
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(image_of(&info(text)).as_deref(), expected, "{text}")
        };
        check(
            r#"{"pid": 1, "image": "registry.example.com/pause:3.10"}"#,
            Some("registry.example.com/pause:3.10"),
        );
        check(r#"{"image": ""}"#, None);
        check(r#"{"image": 1}"#, None);
        check("nonsense", None);
        assert_eq!(image_of(&BTreeMap::new()), None);
    }

    #[test]
    fn a_second_file_system_is_told_of_only_when_it_is_another() {
        let fs = |mountpoint: &str, bytes| v1::FilesystemUsage {
            timestamp: 1,
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: mountpoint.into() }),
            used_bytes: Some(v1::UInt64Value { value: bytes }),
            inodes_used: None,
        };
        let answer = |containers| Answer {
            layers: Ok(v1::ListContainerStatsResponse::default()),
            images: Ok(v1::ImageFsInfoResponse {
                image_filesystems: vec![fs("/a", 1)],
                container_filesystems: vec![containers],
            }),
        };
        assert!(take(answer(fs("/a", 2)), Figures::default(), true).containers.is_none());
        assert_eq!(take(answer(fs("/b", 2)), Figures::default(), true).containers.unwrap().bytes, Some(2));
    }
}
