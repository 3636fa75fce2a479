//! One object by GET, bounded in time and in number. Remembers nothing.

use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use kube::api::GetParams;
use tokio::time::{sleep, timeout};

use super::{Kept, ObjectError, Shared, clean};
use crate::watch::chain;

/// How long a GET may take, from asking for its turn to the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// There is a last known value to fall back on.
    Short,
    /// There is nothing else.
    Long,
}

impl Patience {
    fn limit(self) -> Duration {
        match self {
            Self::Short => Duration::from_secs(2),
            Self::Long => Duration::from_secs(10),
        }
    }
}

/// Asks the API server. `any_version` lets it answer from its cache.
pub(super) async fn fetch<K: Kept>(
    shared: &Shared,
    namespace: &str,
    name: &str,
    patience: Patience,
    any_version: bool,
) -> Result<Arc<K>, ObjectError> {
    let api: Api<K> = Api::namespaced(shared.client.clone(), namespace);
    let params = if any_version { GetParams::any() } else { GetParams::default() };
    let request = async {
        // Never closed; a permit that does not come is a timeout like any other.
        let _permit = shared.gets.acquire().await;
        api.get_with(name, &params).await
    };
    let failed =
        |text: String| ObjectError::Failed(format!("cannot get {} {namespace}/{name}: {text}", K::WORD));
    match timeout(patience.limit(), request).await {
        Err(_) => Err(failed(format!("no answer within {} s", patience.limit().as_secs()))),
        Ok(Ok(mut object)) => {
            clean(&mut object);
            Ok(Arc::new(object))
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
            Err(ObjectError::NotFound(format!("{} \"{name}\" not found", K::WORD)))
        }
        Ok(Err(kube::Error::Api(status))) => Err(failed(status.message.clone())),
        Ok(Err(error)) => Err(failed(chain(&error))),
    }
}

/// Pauses in milliseconds between attempts that are forbidden: the Node authorizer hears of a pod's binding, and of a
/// claim's, a moment later than this node does.
const NOT_YET: [u64; 4] = [50, 100, 200, 400];

/// Asks the API server for an object that no entry is kept of. Errors are in its own words.
pub(super) async fn fetch_unkept<K>(shared: &Shared, api: &Api<K>, name: &str) -> Result<K, ObjectError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut pauses = NOT_YET.iter();
    loop {
        let request = async {
            // Never closed; a permit that does not come is a timeout like any other.
            let _permit = shared.gets.acquire().await;
            api.get(name).await
        };
        let limit = Patience::Long.limit();
        let Ok(answer) = timeout(limit, request).await else {
            return Err(ObjectError::Failed(format!("no answer within {} s", limit.as_secs())));
        };
        match (answer, pauses.next()) {
            (Ok(object), _) => return Ok(object),
            (Err(kube::Error::Api(status)), Some(pause)) if status.code == 403 => {
                sleep(Duration::from_millis(*pause)).await;
            }
            (Err(kube::Error::Api(status)), _) if status.code == 404 => {
                return Err(ObjectError::NotFound(status.message.clone()));
            }
            (Err(kube::Error::Api(status)), _) => return Err(ObjectError::Failed(status.message.clone())),
            (Err(error), _) => return Err(ObjectError::Failed(chain(&error))),
        }
    }
}
