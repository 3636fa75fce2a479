//! Reviews for the kubelet API: whose token this is, and whether a user may, asked of the API server (the node's own one
//! under `rubelet local`).
//!
//! One attempt each; when to ask again and how long an answer holds is the gate's affair (`rubelet_server::auth`). The
//! Node authorizer and RBAC's `system:node` let a node make both reviews.

use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use rubelet_apiclient::connection::TransportError;
use rubelet_server::auth::{
    AccessAnswer, AccessQuestion, AccessReviews, ReviewError, TokenAnswer, TokenReviews, UserInfo,
};
use tokio::time::Instant;

use crate::metrics::Metrics;

/// How long one attempt may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// The API server as the one who answers reviews.
#[derive(Clone)]
pub struct ApiReviews {
    client: Client,
    metrics: Metrics,
}

/// What is asked.
#[derive(Clone, Copy)]
enum Asked {
    /// Whose token this is.
    Token,
    /// Whether a user may.
    Access,
}

impl ApiReviews {
    /// Reviews by the server of this client: one that need not wait for its turn, for people wait for the answer.
    pub fn new(client: Client) -> Self {
        Self { client, metrics: Metrics::default() }
    }

    /// Counts reviews into these metrics.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }
}

impl TokenReviews for ApiReviews {
    fn review(&self, token: &str) -> BoxFuture<'static, Result<TokenAnswer, ReviewError>> {
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let metrics = self.metrics.clone();
        Box::pin(async move {
            let params = PostParams::default();
            let answer = in_time(reviews.create(&params, &review), &metrics, Asked::Token).await?;
            let status = answer.status.ok_or_else(no_status)?;
            let user = status.authenticated.unwrap_or_default().then(|| {
                let user = status.user.unwrap_or_default();
                UserInfo {
                    name: user.username.unwrap_or_default(),
                    uid: user.uid.unwrap_or_default(),
                    groups: user.groups.unwrap_or_default(),
                    extra: user.extra.unwrap_or_default(),
                }
            });
            Ok(TokenAnswer { user, error: status.error.unwrap_or_default() })
        })
    }
}

impl AccessReviews for ApiReviews {
    fn review(&self, question: AccessQuestion) -> BoxFuture<'static, Result<AccessAnswer, ReviewError>> {
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let review = SubjectAccessReview { spec: spec(&question), ..SubjectAccessReview::default() };
        let metrics = self.metrics.clone();
        Box::pin(async move {
            let params = PostParams::default();
            let answer = in_time(reviews.create(&params, &review), &metrics, Asked::Access).await?;
            let status = answer.status.ok_or_else(no_status)?;
            Ok(AccessAnswer { allowed: status.allowed, denied: status.denied.unwrap_or_default() })
        })
    }
}

/// The question in the API's words; what is empty is left out.
fn spec(question: &AccessQuestion) -> SubjectAccessReviewSpec {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let user = &question.user;
    SubjectAccessReviewSpec {
        user: some(&user.name),
        uid: some(&user.uid),
        groups: (!user.groups.is_empty()).then(|| user.groups.clone()),
        extra: (!user.extra.is_empty()).then(|| user.extra.clone()),
        resource_attributes: Some(ResourceAttributes {
            verb: some(question.verb),
            version: some("v1"),
            resource: some("nodes"),
            subresource: some(question.subresource),
            name: some(&question.node),
            ..ResourceAttributes::default()
        }),
        ..SubjectAccessReviewSpec::default()
    }
}

/// Waits for an answer, and counts it by its code as upstream does (`apiserver_delegated_auth*_request_*`).
async fn in_time<T>(
    answer: impl Future<Output = kube::Result<T>>,
    metrics: &Metrics,
    asked: Asked,
) -> Result<T, ReviewError> {
    let began = Instant::now();
    let answer = tokio::time::timeout(DEADLINE, answer).await;
    let code = match &answer {
        Ok(Ok(_)) => "200".to_owned(),
        Ok(Err(kube::Error::Api(status))) => status.code.to_string(),
        Ok(Err(_)) | Err(_) => "<error>".to_owned(),
    };
    let api = &metrics.api;
    let (requests, duration) = match asked {
        Asked::Token => (&api.token_reviews, &api.token_review_duration),
        Asked::Access => (&api.access_reviews, &api.access_review_duration),
    };
    requests.with([&code]).inc();
    duration.with([&code]).observe_duration(began.elapsed());
    match answer {
        Ok(answer) => answer.map_err(|error| trouble(&error)),
        Err(_) => {
            let message = format!("no answer from the API server within {} s", DEADLINE.as_secs());
            Err(ReviewError { message, passing: true })
        }
    }
}

/// What an error means: a lost connection, a busy server and one with an error of its own may pass; refusals do not.
/// Orders to wait (Retry-After) were obeyed before by the connection.
fn trouble(error: &kube::Error) -> ReviewError {
    let passing = match error {
        kube::Error::Api(status) => matches!(status.code, 429 | 500 | 504),
        kube::Error::HyperError(_) => true,
        kube::Error::Service(inner) => inner.downcast_ref().is_some_and(|error| {
            use TransportError::{Body, BodyDeadline, Deadline, Lost};
            matches!(error, Lost { .. } | Deadline { .. } | BodyDeadline | Body(_))
        }),
        _ => false,
    };
    ReviewError { message: crate::logging::chain(error), passing }
}

fn no_status() -> ReviewError {
    ReviewError { message: "the API server's answer to a review says nothing".to_owned(), passing: false }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rubelet_core::projection::TokenKey;
    use rubelet_testkit::fake_api::{Failure, FakeApi, Fault};
    use rubelet_volumes::TokenSource as _;
    use serde_json::json;

    use super::*;
    use crate::service_account_tokens::ApiTokens;

    fn reviews(api: &FakeApi) -> ApiReviews {
        ApiReviews::new(api.client("system:node:n1"))
    }

    /// A token of the service account `shop/robot`, bound to a pod.
    async fn token(api: &FakeApi) -> String {
        api.ensure_namespace("shop");
        api.create_json(&json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "robot", "namespace": "shop"}}));
        let pod = api.create_json(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"}, "spec": {
                "nodeName": "n1", "serviceAccountName": "robot", "containers": [{"name": "c", "image": "i"}],
                "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
            }}),
        );
        let key = TokenKey {
            pod_uid: pod["metadata"]["uid"].as_str().unwrap().into(),
            pod_name: "web".into(),
            namespace: "shop".into(),
            service_account: "robot".into(),
            audience: String::new(),
            expiration_seconds: 1200,
        };
        ApiTokens::new(api.client("system:node:n1")).mint(&key).await.unwrap().token.to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_have_users_or_not() {
        let api = FakeApi::new();
        let (token, reviews) = (token(&api).await, reviews(&api));
        let user = TokenReviews::review(&reviews, &token).await.unwrap().user.unwrap();
        assert_eq!(user.name, "system:serviceaccount:shop:robot");
        assert!(user.groups.contains(&"system:serviceaccounts:shop".to_owned()), "{user:?}");
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["web"]);
        assert_eq!(TokenReviews::review(&reviews, "made-up").await.unwrap().user, None);
        assert!(api.violations().is_empty(), "{:?}", api.violations());
    }

    fn question(name: &str, groups: &[&str]) -> AccessQuestion {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let user = Arc::new(UserInfo { name: name.to_owned(), groups, ..UserInfo::default() });
        AccessQuestion { user, verb: "get", node: "n1".into(), subresource: "metrics" }
    }

    #[tokio::test(start_paused = true)]
    async fn users_may_or_may_not() {
        let api = FakeApi::new();
        let reviews = reviews(&api);
        let may = async |question| AccessReviews::review(&reviews, question).await.unwrap().allowed;
        assert!(may(question("jane", &["system:masters"])).await);
        assert!(!may(question("system:anonymous", &["system:unauthenticated"])).await);
        assert!(api.violations().is_empty(), "{:?}", api.violations());
    }

    #[tokio::test(start_paused = true)]
    async fn reviews_are_counted_by_their_code() {
        let (api, metrics) = (FakeApi::new(), Metrics::new());
        let reviews = reviews(&api).with_metrics(metrics.clone());
        TokenReviews::review(&reviews, "made-up").await.unwrap();
        api.fail(Fault::on("create", "subjectaccessreviews", Failure::Status(500, None)));
        AccessReviews::review(&reviews, question("jane", &[])).await.unwrap_err();
        assert_eq!(metrics.api.token_reviews.with(["200"]).get(), 1);
        assert_eq!(metrics.api.token_review_duration.with(["200"]).count(), 1);
        assert_eq!(metrics.api.access_reviews.with(["500"]).get(), 1);
        assert_eq!(metrics.api.access_review_duration.with(["500"]).count(), 1);
    }

    #[test]
    fn a_question_says_what_there_is() {
        let spec = spec(&question("jane", &[]));
        assert_eq!((spec.uid, spec.groups, spec.extra), (None, None, None));
        let wanted = serde_json::to_value(spec.resource_attributes).unwrap();
        let expected = json!({"verb": "get", "version": "v1", "resource": "nodes", "subresource": "metrics", "name": "n1"});
        assert_eq!(wanted, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn some_trouble_passes() {
        let check = async |failure: Failure, passing: bool| {
            let api = FakeApi::new();
            api.fail(Fault::on("create", "subjectaccessreviews", failure.clone()));
            let error = AccessReviews::review(&reviews(&api), question("jane", &[])).await.unwrap_err();
            assert_eq!(error.passing, passing, "{failure:?}: {error}");
            assert!(!error.message.is_empty());
        };
        check(Failure::Status(500, None), true).await;
        check(Failure::Status(429, None), true).await;
        check(Failure::Status(504, None), true).await;
        check(Failure::Status(403, None), false).await;
        check(Failure::Status(503, None), false).await;
        check(Failure::Hang, true).await;
        check(Failure::Garbage, false).await;
    }
}
