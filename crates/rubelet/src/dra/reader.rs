//! ResourceClaims in the API, read one by one when a pod is about to use them. The Node authorizer hears of a claim's pod a
//! moment later than others, which is waited for.

use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;
use rubelet_core::dra::ClaimKey;

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// Waits before a claim that the node is not allowed to read yet is asked for again.
const NOT_YET: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

/// Reads claims.
pub trait ClaimReader: Send + Sync {
    /// The claim as it is now.
    ///
    /// # Errors
    /// Why not, in the server's words or ours.
    fn claim<'a>(&'a self, key: &'a ClaimKey) -> BoxFuture<'a, Result<ResourceClaim, String>>;
}

/// Claims of an API server.
pub struct ApiClaims {
    client: kube::Client,
}

impl ApiClaims {
    /// Through this client.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    async fn read(&self, key: &ClaimKey) -> Result<ResourceClaim, String> {
        let claims: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut pauses = NOT_YET.iter();
        loop {
            let answer = match tokio::time::timeout(REQUEST, claims.get(&key.name)).await {
                Ok(answer) => answer,
                Err(_elapsed) => return Err(format!("no answer within {} s", REQUEST.as_secs())),
            };
            match (answer, pauses.next()) {
                (Ok(claim), _) => return Ok(claim),
                (Err(kube::Error::Api(status)), Some(pause)) if status.code == 403 => {
                    tokio::time::sleep(*pause).await;
                }
                (Err(kube::Error::Api(status)), _) => return Err(status.message.clone()),
                (Err(error), _) => return Err(crate::logging::chain(&error)),
            }
        }
    }
}

impl ClaimReader for ApiClaims {
    fn claim<'a>(&'a self, key: &'a ClaimKey) -> BoxFuture<'a, Result<ResourceClaim, String>> {
        Box::pin(self.read(key))
    }
}
