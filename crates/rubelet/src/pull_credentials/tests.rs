//! Whole lookups with files and real plugins (shell scripts), and what is said about bad configuration.
//! Time is not paused: children are waited for.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use jiff::Timestamp;
use serde_json::json;
use tempfile::TempDir;

use super::*;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n";
const V1: &str = "credentialprovider.kubelet.k8s.io/v1";

/// A node's directory with plugins and credential files.
struct Node {
    dir: TempDir,
    metrics: Metrics,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["bin", "config", "root", "home"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir, metrics: Metrics::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// A plugin that notes each run in `runs` and its question in `question`, then does `script`.
    fn plugin(&self, name: &str, script: &str) {
        let (runs, question) = (self.path("runs"), self.path("question"));
        let text =
            format!("#!/bin/sh\necho {name} >> {}\ncat > {}\n{script}\n", runs.display(), question.display());
        let path = self.path("bin").join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn files(&self) -> ProviderFiles {
        ProviderFiles { config: self.path("config"), bin_dir: self.path("bin") }
    }

    fn try_load(&self, accounts: Option<Arc<dyn ServiceAccounts>>) -> Result<PullCredentials, String> {
        let configured = std::fs::read_dir(self.path("config")).unwrap().next().is_some();
        let settings = PullCredentialSettings {
            root_dir: self.path("root"),
            home: Some(self.path("home")),
            providers: configured.then(|| self.files()),
            service_account_tokens: true,
            metrics: self.metrics.clone(),
        };
        let clock = Clock::simulated(Timestamp::UNIX_EPOCH);
        PullCredentials::load(settings, accounts, crate::fs_pool::FsPool::new(2), clock).map_err(|error| {
            crate::logging::chain(&error).replace(&self.dir.path().display().to_string(), "")
        })
    }

    fn load(&self) -> PullCredentials {
        self.try_load(None).unwrap()
    }
}

fn provider(name: &str, more: &str) -> String {
    format!(
        "- name: {name}\n  apiVersion: {V1}\n  matchImages: [\"*.example.com\"]\n  defaultCacheDuration: 1h\n{more}"
    )
}

/// A script that prints an answer.
fn answer(kind: &str, user: &str, password: &str) -> String {
    let auth = json!({"*.example.com": {"username": user, "password": password}});
    let answer =
        json!({"apiVersion": V1, "kind": "CredentialProviderResponse", "cacheKeyType": kind, "auth": auth});
    format!("echo '{answer}'")
}

fn pod(service_account: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
        "spec": {"containers": [], "serviceAccountName": service_account,
                 "imagePullSecrets": [{"name": "a"}, {"name": ""}, {"name": "b"}]},
    }))
    .unwrap()
}

fn secret(name: &str, config: &str) -> Arc<Secret> {
    let data = k8s_openapi::ByteString(config.as_bytes().to_vec());
    let secret = json!({
        "metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": data},
    });
    Arc::new(serde_json::from_value(secret).unwrap())
}

fn users(found: &FoundCredentials) -> Vec<&str> {
    found.credentials.iter().map(|found| found.auth.username.as_str()).collect()
}

#[tokio::test]
async fn secrets_come_first_then_the_nodes_files_then_plugins() {
    let node = Node::new();
    node.plugin("p", &answer("Image", "plugin", "pw"));
    node.write("config/p.yaml", &format!("{HEAD}{}", provider("p", "")));
    node.write("root/config.json", r#"{"auths":{"r.example.com":{"username":"node"}}}"#);
    let credentials = node.load();
    let secrets = [secret("a", r#"{"auths":{"r.example.com":{"username":"secret"}}}"#), secret("b", "{")];
    let found = credentials.lookup(&pod(""), "r.example.com/a:v1", &secrets).await;
    assert_eq!(users(&found), ["secret", "node", "plugin"]);
    assert_eq!(
        found.problems,
        ["pull secret \"b\", key \".dockerconfigjson\": not valid JSON (line 1, column 1)"]
    );
    let question = serde_json::from_str::<serde_json::Value>(&node.read("question")).unwrap();
    assert_eq!(
        question,
        json!({"kind": "CredentialProviderRequest", "apiVersion": V1, "image": "r.example.com/a"})
    );
    // Elsewhere nobody is asked.
    let found = credentials.lookup(&pod(""), "busybox", &secrets).await;
    assert!(found.credentials.is_empty());
    assert_eq!(node.read("runs"), "p\n");
}

#[tokio::test]
async fn the_first_credential_file_counts_and_changes_are_seen() {
    let node = Node::new();
    let credentials = node.load();
    let who = async || users_of(&credentials).await;
    assert!(who().await.is_empty());
    node.write("home/.dockercfg", r#"{"r.io":{"username":"old-home"}}"#);
    assert_eq!(who().await, ["old-home"]);
    node.write("root/.dockercfg", r#"{"r.io":{"username":"old-root"}}"#);
    assert_eq!(who().await, ["old-root"]);
    std::fs::create_dir(node.path("home/.docker")).unwrap();
    node.write("home/.docker/config.json", r#"{"auths":{"r.io":{"username":"home"}}}"#);
    assert_eq!(who().await, ["home"]);
    node.write("root/config.json", r#"{"auths":{"r.io":{"username":"root"}}}"#);
    assert_eq!(who().await, ["root"]);
    node.write("root/config.json", "not json");
    assert_eq!(who().await, ["home"], "a broken file hides nothing");
}

async fn users_of(credentials: &PullCredentials) -> Vec<String> {
    let found = credentials.lookup(&pod(""), "r.io/a", &[]).await;
    users(&found).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn answers_are_remembered_for_what_the_plugin_says() {
    for (kind, runs) in [("Image", 3), ("Registry", 2), ("Global", 1)] {
        let node = Node::new();
        node.plugin("p", &answer(kind, "ann", "pw"));
        node.write("config/p.yaml", &format!("{HEAD}{}", provider("p", "")));
        let credentials = node.load();
        for image in ["r.example.com/a", "r.example.com/a", "r.example.com/b", "q.example.com/c"] {
            assert_eq!(users(&credentials.lookup(&pod(""), image, &[]).await), ["ann"]);
        }
        assert_eq!(node.read("runs").lines().count(), runs, "{kind}");
    }
}

#[tokio::test]
async fn one_question_at_a_time_is_one_run() {
    let node = Node::new();
    // Without a cache every question is asked, but those at one time only once.
    node.plugin("p", &answer("Image", "ann", "pw"));
    let entry = provider("p", "").replace("1h", "0s");
    node.write("config/p.yaml", &format!("{HEAD}{entry}"));
    let credentials = node.load();
    let pod = pod("");
    // Plugins are asked with the first poll of each: a whole lookup reads files before, for as long as that takes.
    let asking = PullingPod::of(&pod);
    let answers = (0..5).map(|_| credentials.inner.ask_plugins(&asking, "r.example.com/a"));
    for (_, problems) in join_all(answers).await {
        assert_eq!(problems, Vec::<String>::new());
    }
    assert_eq!(node.read("runs").lines().count(), 1);
    assert_eq!(users(&credentials.lookup(&pod, "r.example.com/a", &[]).await), ["ann"]);
    assert_eq!(node.read("runs").lines().count(), 2);
}

#[tokio::test]
async fn a_plugin_that_fails_hides_no_other() {
    let check = async |script: &str, expected: &str| {
        let node = Node::new();
        node.plugin("bad", script);
        node.plugin("good", &answer("Image", "ann", "pw"));
        let (bad, good) = (provider("bad", "  args: [x]\n"), provider("good", ""));
        node.write("config/p.yaml", &format!("{HEAD}{bad}{good}"));
        let found = node.load().lookup(&pod(""), "r.example.com/a", &[]).await;
        assert_eq!(users(&found), ["ann"], "{script}");
        assert_eq!(found.problems, [format!("credential provider bad: {expected}")]);
        let images = &node.metrics.images;
        let counts =
            |name| (images.plugin_errors.with([name]).get(), images.plugin_duration.with([name]).count());
        assert_eq!((counts("bad"), counts("good")), ((1, 1), (0, 1)), "{script}");
    };
    check("echo oops >&2; exit 3", "the plugin ended with exit status: 3").await;
    check("echo secret", "the plugin's answer is not valid JSON (line 1, column 1)").await;
    check("kill -9 $$", "the plugin ended with signal: 9 (SIGKILL)").await;
    check("echo '{}'", &format!("the plugin's answer has apiVersion \"\", expected \"{V1}\"")).await;
    check(
        &answer("Never", "x", "y"),
        "cacheKeyType in the plugin's answer is \"Never\", expected Image, Registry or Global",
    )
    .await;
    check("head -c 5000000 /dev/zero", "the plugin's answer is longer than 4 MiB").await;
}

#[tokio::test]
async fn a_plugin_that_vanished_is_named() {
    let node = Node::new();
    node.plugin("p", "");
    node.write("config/p.yaml", &format!("{HEAD}{}", provider("p", "")));
    let credentials = node.load();
    std::fs::remove_file(node.path("bin/p")).unwrap();
    let found = credentials.lookup(&pod(""), "r.example.com/a", &[]).await;
    let path = node.path("bin/p");
    assert_eq!(
        found.problems,
        [format!(
            "credential provider p: cannot run {}: No such file or directory (os error 2)",
            path.display()
        )]
    );
}

/// The clock is paused: with nothing else to do it jumps to the end of the minute.
#[tokio::test(start_paused = true)]
async fn a_plugin_that_hangs_is_given_up_after_a_minute() {
    let node = Node::new();
    node.plugin("p", "exec sleep 3600");
    node.write("config/p.yaml", &format!("{HEAD}{}", provider("p", "")));
    let begun = tokio::time::Instant::now();
    let found = node.load().lookup(&pod(""), "r.example.com/a", &[]).await;
    assert_eq!(found.problems, ["credential provider p: no answer within 60 s"]);
    assert_eq!(begun.elapsed().as_secs(), 60);
}

#[tokio::test]
async fn arguments_and_variables_reach_the_plugin() {
    let node = Node::new();
    let script = answer("Image", "$1-$GREETING", "pw").replace("$1-$GREETING", "'$1-$GREETING'");
    node.plugin("p", &script);
    let more = "  args: [one]\n  env: [{name: GREETING, value: hello}]\n";
    node.write("config/p.yaml", &format!("{HEAD}{}", provider("p", more)));
    let found = node.load().lookup(&pod(""), "r.example.com/a", &[]).await;
    assert_eq!(users(&found), ["one-hello"]);
}

/// Service accounts with one annotation; counts the tokens it gave.
#[derive(Default)]
struct Accounts {
    wanted: std::sync::Mutex<Vec<TokenWanted>>,
}

impl ServiceAccounts for Accounts {
    fn get(&self, _: &str, name: &str) -> BoxFuture<'static, Result<ServiceAccountFacts, String>> {
        let annotations: BTreeMap<_, _> = [("team".to_owned(), "red".to_owned())].into();
        let facts = ServiceAccountFacts { uid: format!("{name}-uid"), annotations };
        let answer = if name == "gone" { Err("not found".to_owned()) } else { Ok(facts) };
        async move { answer }.boxed()
    }

    fn token(&self, wanted: TokenWanted) -> BoxFuture<'static, Result<String, String>> {
        let token = format!("token-of-{}", wanted.service_account);
        self.wanted.lock().unwrap().push(wanted);
        async move { Ok(token) }.boxed()
    }
}

fn with_tokens(cache_type: &str, more: &str) -> String {
    let more = format!(
        "  tokenAttributes:\n    serviceAccountTokenAudience: registry\n    cacheType: {cache_type}\n{more}"
    );
    format!("{HEAD}{}", provider("p", &more))
}

#[tokio::test]
async fn a_plugin_is_given_the_service_accounts_token() {
    let node = Node::new();
    node.plugin("p", &answer("Registry", "ann", "pw"));
    let more = "    requireServiceAccount: true\n    requiredServiceAccountAnnotationKeys: [team]\n    \
                optionalServiceAccountAnnotationKeys: [other]\n";
    node.write("config/p.yaml", &with_tokens("ServiceAccount", more));
    let accounts = Arc::new(Accounts::default());
    let credentials = node.try_load(Some(accounts.clone())).unwrap();
    let image = "r.example.com/a";
    assert_eq!(users(&credentials.lookup(&pod("builder"), image, &[]).await), ["ann"]);
    let question = serde_json::from_str::<serde_json::Value>(&node.read("question")).unwrap();
    assert_eq!(question["serviceAccountToken"], "token-of-builder");
    assert_eq!(question["serviceAccountAnnotations"], json!({"team": "red"}));
    assert_eq!(
        accounts.wanted.lock().unwrap()[0],
        TokenWanted {
            namespace: "shop".into(),
            service_account: "builder".into(),
            service_account_uid: "builder-uid".into(),
            pod_name: "web".into(),
            pod_uid: "u1".into(),
            audience: "registry".into(),
        }
    );
    // Another account is another answer; a pod without one is not asked for; an account that is gone is told.
    assert_eq!(users(&credentials.lookup(&pod("deployer"), image, &[]).await), ["ann"]);
    assert!(credentials.lookup(&pod(""), image, &[]).await.credentials.is_empty());
    assert_eq!(node.read("runs").lines().count(), 2);
    let gone = credentials.lookup(&pod("gone"), image, &[]).await;
    assert_eq!(gone.problems, ["credential provider p: cannot get the service account: not found"]);
}

#[tokio::test]
async fn without_the_required_annotation_the_plugin_is_not_asked() {
    let node = Node::new();
    node.plugin("p", &answer("Registry", "ann", "pw"));
    let more = "    requireServiceAccount: true\n    requiredServiceAccountAnnotationKeys: [opt-in]\n";
    node.write("config/p.yaml", &with_tokens("Token", more));
    let credentials = node.try_load(Some(Arc::new(Accounts::default()))).unwrap();
    let found = credentials.lookup(&pod("builder"), "r.example.com/a", &[]).await;
    assert!(found.credentials.is_empty() && found.problems.is_empty());
    assert_eq!(node.read("runs"), "");
}

#[tokio::test]
async fn a_token_may_come_back_only_where_answers_are_kept_per_token() {
    for (cache_type, expected) in [("Token", 1), ("ServiceAccount", 0)] {
        let node = Node::new();
        node.plugin("p", &answer("Registry", "ann", "token-of-builder"));
        node.write("config/p.yaml", &with_tokens(cache_type, "    requireServiceAccount: true\n"));
        let credentials = node.try_load(Some(Arc::new(Accounts::default()))).unwrap();
        let found = credentials.lookup(&pod("builder"), "r.example.com/a", &[]).await;
        assert_eq!(found.credentials.len(), expected, "{cache_type}");
        assert_eq!(found.problems.len(), 1 - expected);
        assert!(found.problems.iter().all(|problem| !problem.contains("token-of")), "{:?}", found.problems);
    }
}

#[tokio::test]
async fn files_of_a_directory_are_merged_by_name() {
    let node = Node::new();
    for name in ["first", "second"] {
        node.plugin(name, &answer("Image", name, "pw"));
    }
    let second = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "CredentialProviderConfig",
        "providers": [{"name": "second", "apiVersion": V1, "matchImages": ["*.example.com"],
                       "defaultCacheDuration": "1m30s"}],
    });
    node.write("config/b.json", &second.to_string());
    node.write("config/a.yml", &format!("{HEAD}{}", provider("first", "")));
    node.write("config/ignored.txt", "not a configuration");
    let found = node.load().lookup(&pod(""), "r.example.com/a", &[]).await;
    assert_eq!(users(&found), ["first", "second"]);
}

#[tokio::test]
async fn bad_configuration_is_named_by_file_and_field() {
    let start = "image credential providers:";
    let check = |files: &[(&str, &str)], expected: &str| {
        let node = Node::new();
        node.plugin("p", "");
        for (name, text) in files {
            node.write(name, text);
        }
        assert_eq!(node.try_load(None).err().unwrap(), format!("{start} {expected}"));
    };
    let valid = format!("{HEAD}{}", provider("p", ""));
    check(
        &[("config/p.txt", "")],
        "/config holds no *.json, *.yaml or *.yml file; write a CredentialProviderConfig there",
    );
    check(
        &[("config/p.yaml", &valid.replace("1h", "1x"))],
        "/config/p.yaml: providers[0].defaultCacheDuration: \"1x\" is not a duration: unknown unit \"x\"; units are \
         ns, us, ms, s, m, h",
    );
    check(
        &[("config/a.yaml", &valid), ("config/b.yaml", &valid)],
        "\"p\" is in both /config/a.yaml and /config/b.yaml; remove one",
    );
    let missing = valid.replace("name: p", "name: q");
    check(
        &[("config/p.yaml", &missing)],
        "\"q\" of /config/p.yaml: /bin/q is missing; install it there or set --image-credential-provider-bin-dir",
    );
    let plain = valid.replace("name: p", "name: plain");
    check(
        &[("config/p.yaml", &plain), ("bin/plain", "")],
        "\"plain\" of /config/p.yaml: /bin/plain is not executable; install it there or set \
         --image-credential-provider-bin-dir",
    );
    let node = Node::new();
    node.write("config/p.yaml", &valid.replace("matchImages", "matchImage"));
    let error = node.try_load(None).err().unwrap();
    assert!(error.starts_with(&format!("{start} /config/p.yaml: ")), "{error}");
    assert!(error.contains("unknown field `matchImage`") && error.contains("line 6"), "{error}");
}

#[test]
fn settings_that_point_nowhere() {
    let node = Node::new();
    let check = |config: &str, bin_dir: &str, path: &str| {
        let files = ProviderFiles { config: Path::new(config).into(), bin_dir: Path::new(bin_dir).into() };
        let error = crate::logging::chain(&config::load(&files, true).err().unwrap());
        let expected =
            format!("image credential providers: cannot read {path}: No such file or directory (os error 2)");
        assert_eq!(error, expected);
    };
    let bin = node.path("bin").display().to_string();
    check("/nonexistent/config.yaml", &bin, "/nonexistent/config.yaml");
    check("/nonexistent/config.yaml", "/nonexistent/bin", "/nonexistent/bin");
}

#[tokio::test]
async fn events_tell_what_is_missing_and_broken() {
    let node = Node::new();
    let events = EventRecorder::new(Clock::simulated(Timestamp::UNIX_EPOCH));
    let (pod, subject) = (Arc::new(pod("")), EventSubject::node("n"));
    assert_eq!(pull_secret_names(&pod).collect::<Vec<_>>(), ["a", "b"]);
    report_missing_pull_secrets(&events, &subject, &[]);
    report_missing_pull_secrets(&events, &subject, &["a".to_owned(), "b".to_owned()]);
    let secrets = vec![secret("c", "{")];
    let lookup = node.load().for_pull(pod, "r.io/a", secrets, events.clone(), subject);
    assert!(lookup.await.is_empty());
    let said: Vec<_> =
        events.snapshot().into_iter().map(|event| format!("{}: {}", event.reason, event.message)).collect();
    assert_eq!(
        said,
        [
            "FailedToRetrieveImagePullSecret: Unable to retrieve some image pull secrets (a, b); attempting to pull \
             the image may not succeed.",
            "FailedToGetImagePullCredentials: Unable to use some credentials for image \"r.io/a\": pull secret \
             \"c\", key \".dockerconfigjson\": not valid JSON (line 1, column 1)",
        ]
    );
}
