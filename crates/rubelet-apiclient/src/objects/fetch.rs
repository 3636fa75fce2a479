//! One GET of one object, bounded in time and in number. Remembers nothing.

use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use kube::api::GetParams;
use tokio::time::timeout;

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
