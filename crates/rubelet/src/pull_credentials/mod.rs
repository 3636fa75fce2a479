//! Credentials for image pulls: a pod's pull secrets first, then the node's credential files, then credential
//! provider plugins, in upstream's order. Looked up only when an image is really pulled.
//!
//! Files: `config` reads and checks `--image-credential-provider-config` at start; `node_files` reads Docker's
//! files on the node; `plugin` runs one plugin and remembers its answers. What matches an image is decided by
//! `rubelet_core::image_credentials`. What goes wrong is told as an event of the pod and never keeps the pull from
//! being tried with what there is. No secret is ever logged.

mod config;
mod node_files;
mod plugin;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::core::v1::Secret;
use rubelet_core::Pod;
use rubelet_core::image::parse_image_name;
use rubelet_core::image_credentials::{CredentialSource, Keyring, SourcedAuth};
use tracing::warn;

pub use self::config::{ProviderConfigError, ProviderFiles};
use self::plugin::Plugin;
use crate::clock::Clock;
use crate::events::{EventRecorder, EventSubject};
use crate::fs_pool::FsPool;
use crate::images::CredentialLookup;
use crate::metrics::Metrics;

/// Where credentials come from on this node.
#[derive(Clone, Debug)]
pub struct PullCredentialSettings {
    /// `--root-dir`: the first place where credential files are looked for.
    pub root_dir: PathBuf,
    /// The agent's home directory, `$HOME`.
    pub home: Option<PathBuf>,
    /// `--image-credential-provider-config` and `--image-credential-provider-bin-dir`.
    pub providers: Option<ProviderFiles>,
    /// The gate `KubeletServiceAccountTokenForCredentialProviders`.
    pub service_account_tokens: bool,
    /// Where runs of plugins are counted.
    pub metrics: Metrics,
}

/// A service account as plugins are told about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceAccountFacts {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.annotations`.
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// A token that a plugin is to be given. It is bound to the pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenWanted {
    /// Namespace of pod and service account.
    pub namespace: String,
    /// Name of the service account.
    pub service_account: String,
    /// UID of the service account.
    pub service_account_uid: String,
    /// Name of the pod.
    pub pod_name: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// The one audience.
    pub audience: String,
}

/// Service accounts and their tokens, from the API. Errors are texts for people and hold no token.
pub trait ServiceAccounts: Send + Sync {
    /// One service account.
    fn get(&self, namespace: &str, name: &str) -> BoxFuture<'static, Result<ServiceAccountFacts, String>>;
    /// A token that holds for a while yet; the same one again where that is possible.
    fn token(&self, wanted: TokenWanted) -> BoxFuture<'static, Result<String, String>>;
}

/// What was found for an image.
#[derive(Debug, Default)]
pub struct FoundCredentials {
    /// To try in this order; none at all means to pull without.
    pub credentials: Vec<SourcedAuth>,
    /// What could not be used, for the pod's events. What is wrong on the node alone is in the log.
    pub problems: Vec<String>,
}

/// The pod that an image is pulled for.
#[derive(Clone, Debug, Default)]
struct PullingPod {
    namespace: String,
    name: String,
    uid: String,
    service_account: String,
}

impl PullingPod {
    fn of(pod: &Pod) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            uid: text(&pod.metadata.uid),
            service_account: pod
                .spec
                .as_ref()
                .map(|spec| text(&spec.service_account_name))
                .unwrap_or_default(),
        }
    }
}

/// Looks credentials up; cheap to clone.
#[derive(Clone)]
pub struct PullCredentials {
    inner: Arc<Inner>,
}

struct Inner {
    files: node_files::NodeFiles,
    plugins: Vec<Plugin>,
    accounts: Option<Arc<dyn ServiceAccounts>>,
}

/// Reason of the event about a pull secret that is not there.
pub const FAILED_TO_RETRIEVE_PULL_SECRET: &str = "FailedToRetrieveImagePullSecret";
/// Reason of the event about credentials that could not be used. Upstream only logs these.
pub const FAILED_TO_GET_CREDENTIALS: &str = "FailedToGetImagePullCredentials";

/// Tells of pull secrets that could not be read; the pull is tried all the same. Nothing is said when there are none.
pub fn report_missing_pull_secrets(events: &EventRecorder, subject: &EventSubject, names: &[String]) {
    if !names.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            names.join(", ")
        );
        events.warning(subject, FAILED_TO_RETRIEVE_PULL_SECRET, message);
    }
}

/// The names of a pod's pull secrets, as they are to be fetched. Empty names, which the API allows, count for
/// nothing.
pub fn pull_secret_names(pod: &Pod) -> impl Iterator<Item = &str> {
    let references = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    references.map(|reference| reference.name.as_str()).filter(|name| !name.is_empty())
}

impl PullCredentials {
    /// Reads the configuration of plugins and checks it. Reads files: for the start of the agent.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration, by file and field.
    pub fn load(
        settings: PullCredentialSettings,
        accounts: Option<Arc<dyn ServiceAccounts>>,
        fs: FsPool,
        clock: Clock,
    ) -> Result<Self, ProviderConfigError> {
        let configs = match &settings.providers {
            Some(files) => config::load(files, settings.service_account_tokens)?,
            None => Vec::new(),
        };
        let plugins = configs
            .into_iter()
            .map(|(path, config)| Plugin::new(path, config, clock.clone(), settings.metrics.clone()));
        let files = node_files::NodeFiles::new(&settings.root_dir, settings.home.as_deref(), fs);
        Ok(Self { inner: Arc::new(Inner { files, plugins: plugins.collect(), accounts }) })
    }

    /// The credentials to try for an image of a pod. Files are read and plugins are run as needed; that takes up
    /// to a minute. `secrets` are the pod's pull secrets that could be fetched, in the pod's order.
    pub async fn lookup(&self, pod: &Pod, image: &str, secrets: &[Arc<Secret>]) -> FoundCredentials {
        let Ok(name) = parse_image_name(image) else { return FoundCredentials::default() };
        let repository = name.repository;
        let (keyring, bad_secrets) = Keyring::of_secrets(secrets.iter().map(Arc::as_ref));
        let mut problems: Vec<String> =
            bad_secrets.iter().map(|error| crate::logging::chain(error)).collect();
        let (node, bad_files) = self.inner.files.read().await;
        for problem in bad_files {
            warn!("credential file {problem}");
        }
        let (plugins, failed) = self.inner.ask_plugins(&PullingPod::of(pod), &repository).await;
        problems.extend(failed);
        let lists = [keyring, node, plugins].map(|keyring| keyring.lookup(&repository));
        FoundCredentials { credentials: lists.into_iter().flatten().collect(), problems }
    }

    /// As [`Self::lookup`], for `PullRequest::credentials`: runs only when the image is pulled, and tells the pod's
    /// events what could not be used.
    pub fn for_pull(
        &self,
        pod: Arc<Pod>,
        image: &str,
        secrets: Vec<Arc<Secret>>,
        events: EventRecorder,
        subject: EventSubject,
    ) -> CredentialLookup {
        let (this, image) = (self.clone(), image.to_owned());
        async move {
            let found = this.lookup(&pod, &image, &secrets).await;
            for problem in found.problems {
                let message = format!("Unable to use some credentials for image {image:?}: {problem}");
                events.warning(&subject, FAILED_TO_GET_CREDENTIALS, message);
            }
            found.credentials
        }
        .boxed()
    }
}

impl Inner {
    /// Asks every plugin whose images match, all at once; answers in the order of the configuration.
    async fn ask_plugins(&self, pod: &PullingPod, repository: &str) -> (Keyring, Vec<String>) {
        let asked = self.plugins.iter().filter(|plugin| plugin.config().matches(repository));
        let answers = join_all(asked.map(|plugin| async move {
            (plugin.name(), plugin.provide(repository, pod, self.accounts.as_deref()).await)
        }));
        let (mut keyring, mut problems) = (Keyring::default(), Vec::new());
        for (name, answer) in answers.await {
            let mut tell = |problem: &dyn std::error::Error, stderr: &str| {
                let problem = format!("credential provider {name}: {}", crate::logging::chain(problem));
                warn!(repository, stderr, "{problem}");
                problems.push(problem);
            };
            match answer {
                Ok((config, account)) => {
                    let source = account.map_or(CredentialSource::Node, CredentialSource::ServiceAccount);
                    keyring.add_from(config, &source).iter().for_each(|problem| tell(problem, ""));
                }
                Err(error) => tell(&error, error.complaint()),
            }
        }
        (keyring, problems)
    }
}
