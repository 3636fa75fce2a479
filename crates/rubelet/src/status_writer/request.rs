//! The three requests of the status writer, each bounded in time. Decides nothing: the book says what to send and
//! what follows from the answer.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use rubelet_core::ids::{PodKey, PodUid};
use serde_json::Value;

use super::trouble::Trouble;

/// Longest wait for an answer. Dead connections are noticed earlier by the connection itself.
const LIMIT: Duration = Duration::from_secs(30);

/// What to send about one pod of the API.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Request {
    /// GET: what the server holds is not known well enough.
    Read,
    /// PATCH of the status with this body.
    Patch(Value),
    /// DELETE without grace, if it still has this UID.
    Delete(PodUid),
}

/// What came back.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// The pod as it is now: metadata and status.
    Pod(Arc<Pod>),
    /// It is deleted.
    Deleted,
}

/// Sends one request.
pub(super) async fn send(client: Client, key: PodKey, request: Request) -> Result<Answer, Trouble> {
    let pods: Api<Pod> = Api::namespaced(client, &key.namespace);
    let answer = async {
        match &request {
            Request::Read => pods.get(&key.name).await.map(found),
            Request::Patch(body) => {
                let patched =
                    pods.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(body)).await;
                patched.map(found)
            }
            Request::Delete(uid) => pods.delete(&key.name, &at_once(uid)).await.map(|_| Answer::Deleted),
        }
    };
    match tokio::time::timeout(LIMIT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Trouble::of(&error)),
        Err(_) => Err(Trouble::timeout(LIMIT)),
    }
}

/// Deletion without grace of the object with this UID and no other.
pub(crate) fn at_once(uid: &PodUid) -> DeleteParams {
    let uid = Some(uid.to_string());
    DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid, ..Preconditions::default() }),
        ..DeleteParams::default()
    }
}

fn found(mut pod: Pod) -> Answer {
    // The spec is known from where it is run.
    (pod.spec, pod.metadata.managed_fields, pod.metadata.labels) = (None, None, None);
    Answer::Pod(Arc::new(pod))
}
