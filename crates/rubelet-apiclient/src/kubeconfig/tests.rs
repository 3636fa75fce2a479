//! What a kubeconfig may look like, and what is said of one that cannot be used.

use super::*;

const PATH: &str = "/etc/kubernetes/kubelet.conf";

fn parse(text: &str) -> Result<ClusterAccess, KubeconfigError> {
    ClusterAccess::parse(text, Path::new(PATH))
}

/// A kubeconfig with these lines of cluster and user.
fn with(cluster: &str, user: &str) -> Result<ClusterAccess, KubeconfigError> {
    parse(&format!(
        "current-context: here\ncontexts: [{{name: here, context: {{cluster: c, user: u, namespace: ns}}}}]\n\
         clusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
    ))
}

fn says(outcome: Result<ClusterAccess, KubeconfigError>, parts: &[&str]) {
    let error = outcome.unwrap_err();
    let text = crate::credentials::chain(&error);
    for part in [PATH].iter().chain(parts) {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

const SERVER: &str = "server: 'https://[::1]:6443'";

/// A message may end up in a log that many can read.
#[test]
fn what_is_wrong_is_told_without_what_is_secret() {
    for user in ["token: s3cret, exec: {", "token: s3cret, username: [7]", "token: [s3cret]"] {
        let text = crate::credentials::chain(&with(SERVER, user).unwrap_err());
        assert!(!text.contains("s3cret"), "{text}");
    }
}

/// What the upstream agent writes after its bootstrap.
#[test]
fn the_kubeconfig_of_a_bootstrapped_node() {
    let access = parse(
        "apiVersion: v1
clusters:
- cluster:
    certificate-authority: /etc/kubernetes/pki/ca.crt
    server: https://10.0.0.1:6443
  name: default-cluster
contexts:
- context:
    cluster: default-cluster
    namespace: default
    user: default-auth
  name: default-context
current-context: default-context
kind: Config
preferences: {}
users:
- name: default-auth
  user:
    client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem
    client-key: /var/lib/kubelet/pki/kubelet-client-current.pem
",
    )
    .unwrap();
    assert_eq!((access.host(), access.port(), access.is_tls()), ("10.0.0.1", 6443, true));
    let pem = PemSource::File("/var/lib/kubelet/pki/kubelet-client-current.pem".into());
    assert_eq!(access.credentials.client_certificate, Some((pem.clone(), pem)));
    assert_eq!(access.ca, CaSource::Pem(PemSource::File("/etc/kubernetes/pki/ca.crt".into())));
    assert_eq!(access.namespace.as_deref(), Some("default"));
}

#[test]
fn paths_are_relative_to_the_file_and_empty_texts_are_absent() {
    let access = with(
        &format!("{SERVER}, certificate-authority: ca.crt, tls-server-name: '', proxy-url: ''"),
        "tokenFile: token, token: '', client-certificate: c, client-key: /k, username: '', password: ''",
    )
    .unwrap();
    assert_eq!((access.host(), access.port()), ("::1", 6443));
    assert_eq!(access.ca, CaSource::Pem(PemSource::File("/etc/kubernetes/ca.crt".into())));
    let pair = (PemSource::File("/etc/kubernetes/c".into()), PemSource::File("/k".into()));
    let expected = CredentialSources {
        client_certificate: Some(pair),
        token_file: Some("/etc/kubernetes/token".into()),
        ..CredentialSources::default()
    };
    assert_eq!(access.credentials, expected);
    assert_eq!((access.tls_server_name, access.proxy_url), (None, None));
}

#[test]
fn json_is_yaml() {
    let text = r#"{"current-context":"x","contexts":[{"name":"x","context":{"cluster":"c","user":""}}],"users":null,
        "clusters":[{"name":"c","cluster":{"server":"http://localhost"}}]}"#;
    let access = parse(text).unwrap();
    assert_eq!((access.host(), access.port(), access.is_tls()), ("localhost", 80, false));
    assert_eq!(access.credentials, CredentialSources::default());
}

#[test]
fn secrets_are_not_printed() {
    let access = with(SERVER, "token: hush").unwrap();
    assert!(!format!("{access:?}").contains("hush"));
    assert_eq!(access.credentials.token.unwrap().expose(), "hush");
}

#[test]
fn plugin_environments_and_users_of_urls_are_not_printed() {
    let exec = "exec: {apiVersion: client.authentication.k8s.io/v1beta1, command: x, env: [{name: KEY, value: hush}]}";
    let shown = format!("{:?}", with(SERVER, exec).unwrap());
    assert!(shown.contains("KEY") && !shown.contains("hush"), "{shown}");
    for url in ["socks5://me:hush@p:1", "http://me:hu/sh@p:1 2", "me:hush@p:1", "me:hush://x@p:1"] {
        let error = with(&format!("{SERVER}, proxy-url: '{url}'"), "").unwrap_err().to_string();
        assert!(error.contains("p:1") && !error.contains("me:"), "{error}");
        let error = with(&format!("server: '{url}'"), "").unwrap_err().to_string();
        assert!(error.contains("p:1") && !error.contains("me:"), "{error}");
    }
}

#[test]
fn broken_files_are_named_with_what_to_do() {
    let missing = ClusterAccess::load(Path::new("/nowhere/kubeconfig"));
    assert!(missing.unwrap_err().to_string().contains("/nowhere/kubeconfig cannot be read"));
    says(parse("a: [b"), &["is not a kubeconfig"]);
    says(parse("contexts: 3"), &["is not a kubeconfig", "line 1"]);
    says(parse(""), &["has no current-context", "nothing of the kind"]);
    says(parse("contexts: [{name: a}, {name: b}]"), &["set it to one of: a, b"]);
    says(
        parse("current-context: z\ncontexts: [{name: a}]"),
        &["current-context names the context \"z\"", "it has: a"],
    );
    says(parse("current-context: a\ncontexts: [{name: a}]"), &["context \"a\" has no cluster"]);
    let dangling = "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n";
    says(parse(dangling), &["context \"a\" names the cluster \"c\"", "nothing of the kind"]);
    let half = format!("{dangling}clusters: [{{name: c, cluster: {{{SERVER}}}}}]");
    says(parse(&half), &["context \"a\" names the user \"u\""]);
}

#[test]
fn broken_fields_are_named_with_what_to_do() {
    says(with("", ""), &["cluster \"c\": server is missing"]);
    says(
        with("server: '10.0.0.1:6443'", ""),
        &["cluster \"c\": server is not a URL such as https://", "10.0.0.1:6443"],
    );
    let ca = format!("{SERVER}, certificate-authority-data: ");
    says(with(&format!("{ca}'!!!'"), ""), &["certificate-authority-data is not base64"]);
    says(
        with(&format!("{ca}aGVsbG8="), ""),
        &["certificate-authority-data: not usable", "no certificate in it"],
    );
    says(
        with(&format!("{SERVER}, certificate-authority: x, insecure-skip-tls-verify: true"), ""),
        &["insecure-skip-tls-verify cannot be true together"],
    );
    says(with(&format!("{SERVER}, proxy-url: 'socks5://p:1'"), ""), &["proxy-url", "only http:// proxies"]);
    says(with(SERVER, "client-certificate: a"), &["user \"u\": client-key is missing"]);
    says(with(SERVER, "client-key: a"), &["user \"u\": client-certificate is missing"]);
    says(with(SERVER, "token: a, username: b"), &["username and a token cannot be used together"]);
    says(with(SERVER, "auth-provider: {name: gcp}"), &["auth-provider is gone", "exec plugin"]);
    let exec = |exec: &str| with(SERVER, &format!("exec: {{{exec}}}"));
    const V1: &str = "apiVersion: client.authentication.k8s.io/v1";
    says(exec("command: x"), &["user \"u\": exec: not usable", "apiVersion \"\" is not supported"]);
    says(
        exec("command: x, apiVersion: client.authentication.k8s.io/v1alpha1"),
        &["v1alpha1\" is not supported"],
    );
    says(exec(&format!("{V1}, interactiveMode: Never")), &["command is missing"]);
    says(exec(&format!("{V1}, command: x")), &["interactiveMode must be set"]);
    says(exec(&format!("{V1}, command: x, interactiveMode: Always")), &["the agent has no terminal"]);
}

#[test]
fn inline_pairs_must_belong_together() {
    let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    let pair = || rcgen::generate_simple_self_signed(Vec::new()).unwrap();
    let (one, two) = (pair(), pair());
    let user = |certificate: String, key: String| {
        with(
            SERVER,
            &format!("client-certificate-data: {}, client-key-data: {}", encode(certificate), encode(key)),
        )
    };
    user(one.cert.pem(), one.signing_key.serialize_pem()).unwrap();
    says(user(one.cert.pem(), two.signing_key.serialize_pem()), &["user \"u\"", "do not belong together"]);
    says(user(one.cert.pem(), "x".to_owned()), &["no private key"]);
}

#[test]
fn exec_commands_with_a_slash_are_relative_to_the_file() {
    let exec = |command: &str| {
        let user = format!("exec: {{apiVersion: client.authentication.k8s.io/v1beta1, command: {command}}}");
        with(SERVER, &user).unwrap().credentials.exec.unwrap().command
    };
    assert_eq!(exec("aws"), "aws");
    assert_eq!(exec("bin/aws"), "/etc/kubernetes/bin/aws");
    assert_eq!(exec("/bin/aws"), "/bin/aws");
}
