//! One credential provider plugin: runs it, one run at a time for one question, and remembers its answers for as
//! long as they hold. Never logs what it prints on its standard output.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use rubelet_config::GoDuration;
use rubelet_core::image_credentials::{
    AccountKey, CacheKey, CredentialCache, DockerConfig, ProviderConfig, ProviderRequest, ProviderResponse,
    ResponseError, TokenAttributes, TokenCacheType, decode_response, encode_request,
};
use rubelet_core::pulled_images::PullServiceAccount;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::Instant;

use super::{PullingPod, ServiceAccounts, TokenWanted};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// How long a run may take (upstream `ExecPlugin`).
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// Bytes of an answer.
const OUTPUT_LIMIT: u64 = 4 << 20;
/// Bytes of its complaints that are shown.
const COMPLAINT_LIMIT: u64 = 1024;

/// Why a plugin gave no credentials.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum PluginError {
    /// It was not started.
    #[error("cannot run {}", path.display())]
    Start {
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    /// It did not come to an end.
    #[error("no answer within {} s", RUN_LIMIT.as_secs())]
    Timeout,
    /// Talking to it failed.
    #[error("lost contact with the plugin")]
    Pipe(#[source] Arc<io::Error>),
    /// It failed.
    #[error("the plugin ended with {status}")]
    Failed {
        status: ExitStatus,
        /// The beginning of its standard error: for the node's log, not for the pod's events.
        complaint: String,
    },
    /// Its answer cannot be used.
    #[error("{0}")]
    Response(ResponseError),
    /// More than any answer needs.
    #[error("the plugin's answer is longer than {} MiB", OUTPUT_LIMIT >> 20)]
    TooLong,
    /// It returned the token it was lent.
    #[error(
        "the plugin returned the service account's token as password, which is only allowed with cacheType Token"
    )]
    Echo,
    /// It needs the pod's service account and that could not be had.
    #[error("cannot get {what}: {problem}")]
    Account { what: &'static str, problem: String },
}

type RunFuture = BoxFuture<'static, Result<Arc<ProviderResponse>, PluginError>>;
type Run = Shared<RunFuture>;

/// A plugin with its state.
pub(super) struct Plugin {
    path: PathBuf,
    config: Arc<ProviderConfig>,
    clock: Clock,
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cache: CredentialCache,
    /// Held by those who wait alone: when nobody does any more, the plugin is killed.
    under_way: BTreeMap<ProviderRequest, WeakShared<RunFuture>>,
}

impl State {
    fn run_of(&self, request: &ProviderRequest) -> Option<Run> {
        self.under_way.get(request)?.upgrade().filter(|run| run.peek().is_none())
    }

    /// The questions hold tokens and are not kept longer than needed.
    fn forget_ended(&mut self) {
        self.under_way.retain(|_, run| run.upgrade().is_some_and(|run| run.peek().is_none()));
    }
}

/// What a plugin is told about the pod's service account.
#[derive(Default)]
struct Account {
    key: Option<AccountKey>,
    token: String,
    annotations: BTreeMap<String, String>,
}

impl PluginError {
    /// What the plugin itself said about its failure.
    pub(super) fn complaint(&self) -> &str {
        match self {
            Self::Failed { complaint, .. } => complaint,
            _ => "",
        }
    }
}

impl Plugin {
    pub(super) fn new(path: PathBuf, config: ProviderConfig, clock: Clock, metrics: Metrics) -> Self {
        Self { path, config: Arc::new(config), clock, metrics, state: Mutex::default() }
    }

    pub(super) fn config(&self) -> &ProviderConfig {
        &self.config
    }

    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    /// The plugin's credentials by location, remembered or asked for. Nothing where the pod has no service account,
    /// or none with the annotations, that the plugin requires. With them comes the account whose token was lent.
    pub(super) async fn provide(
        &self,
        repository: &str,
        pod: &PullingPod,
        accounts: Option<&dyn ServiceAccounts>,
    ) -> Result<(DockerConfig, Option<PullServiceAccount>), PluginError> {
        let Some(Account { key, token, annotations }) = self.account(pod, accounts).await? else {
            return Ok((DockerConfig::new(), None));
        };
        let lent_by = key.as_ref().map(|key| PullServiceAccount {
            uid: key.uid.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        });
        if let Some(known) = self.state().cache.get(repository, key.as_ref(), self.clock.now()) {
            return Ok((known.clone(), lent_by));
        }
        let request = ProviderRequest {
            image: repository.to_owned(),
            service_account_token: token,
            service_account_annotations: annotations,
        };
        let answer = self.join_run(&request).await;
        self.state().forget_ended();
        let answer = answer?;
        let per_token =
            self.config.token.as_ref().map(|token| token.cache_type) == Some(TokenCacheType::Token);
        if !per_token && answer.echoes(&request.service_account_token) {
            return Err(PluginError::Echo);
        }
        let now = self.clock.now();
        if let Some(expires) = answer.expires(self.config.default_cache_duration, now) {
            let key = CacheKey::new(answer.cache_key_type, repository, key);
            self.state().cache.insert(key, answer.auth.clone(), expires, now);
        }
        Ok((answer.auth.clone(), lent_by))
    }

    /// What the plugin is to be told about the service account; `None`: it is not to be asked.
    async fn account(
        &self,
        pod: &PullingPod,
        accounts: Option<&dyn ServiceAccounts>,
    ) -> Result<Option<Account>, PluginError> {
        let Some(wants) = &self.config.token else { return Ok(Some(Account::default())) };
        if pod.service_account.is_empty() {
            return Ok((!wants.require_service_account).then(Account::default));
        }
        let failed = |what| move |problem| PluginError::Account { what, problem };
        let Some(accounts) = accounts else {
            return Err(failed("the service account")("the agent has no API server to ask".to_owned()));
        };
        let facts = accounts
            .get(&pod.namespace, &pod.service_account)
            .await
            .map_err(failed("the service account"))?;
        let Some(annotations) = passed_on(wants, &facts.annotations) else { return Ok(None) };
        let wanted = TokenWanted {
            namespace: pod.namespace.clone(),
            service_account: pod.service_account.clone(),
            service_account_uid: facts.uid.clone(),
            pod_name: pod.name.clone(),
            pod_uid: pod.uid.clone(),
            audience: wants.audience.clone(),
        };
        let token = accounts.token(wanted).await.map_err(failed("a token of the service account"))?;
        let key = AccountKey {
            namespace: pod.namespace.clone(),
            name: pod.service_account.clone(),
            uid: facts.uid,
            annotations: annotations.clone(),
            token: (wants.cache_type == TokenCacheType::Token).then(|| token.clone()),
        };
        Ok(Some(Account { key: Some(key), token, annotations }))
    }

    /// Runs the plugin, or joins the run with the same question.
    fn join_run(&self, request: &ProviderRequest) -> Run {
        let mut state = self.state();
        if let Some(run) = state.run_of(request) {
            return run;
        }
        let (path, config, asked) = (self.path.clone(), self.config.clone(), request.clone());
        let metrics = self.metrics.clone();
        let run = async move {
            let began = Instant::now();
            let answer = match tokio::time::timeout(RUN_LIMIT, run(path, &config, &asked)).await {
                Ok(answer) => answer.map(Arc::new),
                // The child is killed as its handle is dropped.
                Err(_) => Err(PluginError::Timeout),
            };
            let name = [config.name.as_str()];
            metrics.images.plugin_duration.with(name).observe_duration(began.elapsed());
            if answer.is_err() {
                metrics.images.plugin_errors.with(name).inc();
            }
            answer
        }
        .boxed()
        .shared();
        if let Some(weak) = run.downgrade() {
            state.under_way.insert(request.clone(), weak);
        }
        run
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The annotations that a plugin is told; `None` when one that it requires is not there.
fn passed_on(wants: &TokenAttributes, has: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    let mut told = BTreeMap::new();
    for key in &wants.required_annotations {
        told.insert(key.clone(), has.get(key)?.clone());
    }
    let optional = wants.optional_annotations.iter();
    told.extend(optional.filter_map(|key| Some((key.clone(), has.get(key)?.clone()))));
    Some(told)
}

async fn run(
    path: PathBuf,
    config: &ProviderConfig,
    request: &ProviderRequest,
) -> Result<ProviderResponse, PluginError> {
    let mut command = Command::new(&path);
    command.args(&config.args).envs(config.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child =
        command.spawn().map_err(|source| PluginError::Start { path, source: Arc::new(source) })?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let question = encode_request(&config.api_version, request);
    let ask = async move {
        if let Some(mut stdin) = stdin {
            // A plugin need not read its question; whether it did well, its answer tells.
            let _ = stdin.write_all(&question).await;
        }
    };
    let ((), output, complaint, status) = tokio::join!(
        ask,
        read_up_to(stdout, OUTPUT_LIMIT),
        read_up_to(stderr, COMPLAINT_LIMIT),
        child.wait()
    );
    let pipe = |error| PluginError::Pipe(Arc::new(error));
    let (output, complaint, status) =
        (output.map_err(pipe)?, complaint.map_err(pipe)?, status.map_err(pipe)?);
    if !status.success() {
        let complaint = String::from_utf8_lossy(&complaint.0).trim().to_owned();
        return Err(PluginError::Failed { status, complaint });
    }
    if output.1 {
        return Err(PluginError::TooLong);
    }
    let duration = |text: &str| text.parse::<GoDuration>().ok().map(GoDuration::as_nanos);
    decode_response(&output.0, &config.api_version, duration).map_err(PluginError::Response)
}

/// Reads to the end and keeps the beginning; says whether there was more.
async fn read_up_to(pipe: Option<impl AsyncRead + Unpin>, limit: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut kept = Vec::new();
    let Some(mut pipe) = pipe else { return Ok((kept, false)) };
    (&mut pipe).take(limit).read_to_end(&mut kept).await?;
    let more = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    Ok((kept, more > 0))
}
