//! Tables: sources in, files or messages out; references, paths and the life of tokens.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::downward::DownwardFacts;
use crate::fixtures::at;
use crate::quantity::Amount;

fn pod_with(spec: Value) -> Pod {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c", "resources": {"limits": {"cpu": "250m"}}}]);
    }
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1",
            "labels": {"app": "web"}, "annotations": {"a": "1", "b": "2"}},
        "spec": spec,
    }))
    .unwrap()
}

fn gathered(pod: &Pod, volume: &Volume) -> Gathered {
    let config_map: ConfigMap = serde_json::from_value(json!({
        "data": {"a.conf": "alpha", "b.conf": "beta"}, "binaryData": {"c.bin": "AAEC"},
    }))
    .unwrap();
    let bad: ConfigMap = serde_json::from_value(json!({"data": {"..x": ""}})).unwrap();
    let secret: Secret =
        serde_json::from_value(json!({"data": {"user": "cm9vdA==", "dir": "eA=="}})).unwrap();
    let tokens = needs(FilesSource::of(volume).unwrap(), pod).tokens;
    Gathered {
        config_maps: BTreeMap::from([
            ("cm".to_owned(), Ok(Arc::new(config_map))),
            ("bad".to_owned(), Ok(Arc::new(bad))),
            ("gone".to_owned(), Err(Missing::NotFound("configmap \"gone\" not found".to_owned()))),
            ("down".to_owned(), Err(Missing::Failed("connection refused".to_owned()))),
        ]),
        secrets: BTreeMap::from([
            ("s".to_owned(), Ok(Arc::new(secret))),
            ("gone".to_owned(), Err(Missing::NotFound("secret \"gone\" not found".to_owned()))),
        ]),
        tokens: tokens
            .into_iter()
            .map(|key| {
                let answer = match key.audience.as_str() {
                    "broken" => Err("failed to fetch token: forbidden".to_owned()),
                    audience => Ok(Arc::from(format!("token for {audience:?}"))),
                };
                (key, answer)
            })
            .collect(),
        trust_bundles: Some(Ok(vec![Arc::new(bundle())])),
    }
}

fn bundle() -> ClusterTrustBundle {
    let text = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n";
    serde_json::from_value(json!({"metadata": {"name": "roots"}, "spec": {"trustBundle": text}})).unwrap()
}

#[test]
fn trust_bundles_are_files_of_the_pods_identity() {
    let source = json!({"projected": {"defaultMode": 292, "sources": [
        {"clusterTrustBundle": {"path": "ca/roots.pem", "name": "roots"}}]}});
    let mut volume = source;
    volume["name"] = json!("v");
    let volume: Volume = serde_json::from_value(volume).unwrap();
    let source = FilesSource::of(&volume).unwrap();
    let check = |spec: Value, expected: (u32, Option<u32>)| {
        let pod = pod_with(spec);
        assert!(needs(source, &pod).trust_bundles);
        let files = payload(source, &pod, &gathered(&pod, &volume), &DownwardFacts::default()).unwrap();
        let file = &files["ca/roots.pem"];
        assert_eq!(file.bytes, bundle().spec.trust_bundle.as_bytes());
        assert_eq!((file.mode, file.owner), expected);
    };
    check(json!({}), (0o444, None));
    check(json!({"securityContext": {"fsGroup": 7}}), (0o600, None));
    check(json!({"containers": [{"name": "c", "securityContext": {"runAsUser": 9}}]}), (0o600, Some(9)));
    let pod = pod_with(json!({"volumes": [serde_json::to_value(&volume).unwrap()]}));
    let refused = payload(source, &pod, &Gathered::default(), &DownwardFacts::default()).unwrap_err();
    assert_eq!(refused.to_string(), "ClusterTrustBundle projection is not supported in static kubelet mode");
    assert!(wants_trust_bundles(&pod) && !wants_trust_bundles(&pod_with(json!({}))));
}

fn made(spec: Value, volume: Value) -> Result<Vec<String>, String> {
    let mut source = volume;
    source["name"] = json!("v");
    let volume: Volume = serde_json::from_value(source).unwrap();
    let pod = pod_with(spec);
    let facts = DownwardFacts {
        node_allocatable: BTreeMap::from([("memory".to_owned(), Amount::parse("8Gi").unwrap())]),
        ..DownwardFacts::default()
    };
    let files = payload(FilesSource::of(&volume).unwrap(), &pod, &gathered(&pod, &volume), &facts);
    let shown = |(path, file): (&String, &ProjectedFile)| {
        let owner = file.owner.map(|owner| format!(" {owner}")).unwrap_or_default();
        format!("{path} {:o}{owner} {}", file.mode, String::from_utf8_lossy(&file.bytes).escape_debug())
    };
    files.map(|files| files.iter().map(shown).collect()).map_err(|errors| errors.to_string())
}

#[track_caller]
fn check(volume: Value, expected: Result<&[&str], &str>) {
    check_in(json!({}), volume, expected);
}

#[track_caller]
fn check_in(spec: Value, volume: Value, expected: Result<&[&str], &str>) {
    let found = made(spec, volume.clone());
    let expected =
        expected.map(|files| files.iter().map(ToString::to_string).collect()).map_err(str::to_owned);
    assert_eq!(found, expected, "{volume}");
}

#[test]
fn config_maps() {
    check(
        json!({"configMap": {"name": "cm"}}),
        Ok(&["a.conf 644 alpha", "b.conf 644 beta", "c.bin 644 \\0\\u{1}\\u{2}"]),
    );
    check(
        json!({"configMap": {"name": "cm", "defaultMode": 0o400, "items": [
            {"key": "b.conf", "path": "x//y/./z"}, {"key": "c.bin", "path": "bin", "mode": 0o755},
        ]}}),
        Ok(&["bin 755 \\0\\u{1}\\u{2}", "x/y/z 400 beta"]),
    );
    let nope = |optional: bool| json!({"configMap": {"name": "cm", "optional": optional, "items": [{"key": "no", "path": "p"}, {"key": "a.conf", "path": "q"}]}});
    check(nope(false), Err("configmap references non-existent config key: no"));
    check(nope(true), Ok(&["q 644 alpha"]));
    check(json!({"configMap": {"name": "gone"}}), Err("configmap \"gone\" not found"));
    check(json!({"configMap": {"name": "gone", "optional": true}}), Ok(&[]));
    check(json!({"configMap": {"name": "down", "optional": true}}), Err("connection refused"));
    check(
        json!({"configMap": {"name": "unasked"}}),
        Err("configMap shop/unasked cannot be read: this node has no API server"),
    );
    check(json!({"configMap": {"name": "bad"}}), Err("invalid path: must not start with '..': ..x"));
}

#[test]
fn secrets() {
    check(json!({"secret": {"secretName": "s", "defaultMode": 0o440}}), Ok(&["dir 440 x", "user 440 root"]));
    check(
        json!({"secret": {"secretName": "s", "items": [{"key": "no", "path": "p"}]}}),
        Err("references non-existent secret key: no"),
    );
    check(json!({"secret": {"secretName": "gone"}}), Err("secret \"gone\" not found"));
    check(json!({"secret": {"secretName": "gone", "optional": true}}), Ok(&[]));
}

#[test]
fn downward_files() {
    check(
        json!({"downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "who/name", "fieldRef": {"fieldPath": "metadata.name"}, "mode": 0o400},
            {"path": "annotation", "fieldRef": {"fieldPath": "metadata.annotations['b']"}},
            {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu", "divisor": "1m"}},
            {"path": "memory", "resourceFieldRef": {"containerName": "c", "resource": "limits.memory", "divisor": "1Gi"}},
        ]}}),
        Ok(&[
            "annotation 644 2",
            "cpu 644 250",
            "labels 644 app=\\\"web\\\"",
            "memory 644 8",
            "who/name 400 web",
        ]),
    );
    check(
        json!({"downwardAPI": {"items": [
            {"path": "a", "fieldRef": {"fieldPath": "status.podIP"}},
            {"path": "b", "resourceFieldRef": {"containerName": "z", "resource": "limits.cpu"}},
        ]}}),
        Err("[unsupported fieldPath: status.podIP, container z not found]"),
    );
}

#[test]
fn the_service_account_volume() {
    let volume = json!({"projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "cm", "items": [{"key": "a.conf", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}});
    let others = ["ca.crt 644 alpha", "namespace 644 shop"];
    let all = |token: &'static str| [others[0], others[1], token];
    check(volume.clone(), Ok(&all("token 644 token for \\\"\\\"")));
    let user = json!({"securityContext": {"runAsUser": 1000}});
    check_in(user, volume.clone(), Ok(&all("token 600 1000 token for \\\"\\\"")));
    let group = json!({"securityContext": {"fsGroup": 7}});
    check_in(group, volume.clone(), Ok(&all("token 600 token for \\\"\\\"")));
    let two_users = json!({"securityContext": {"runAsUser": 1000}, "containers": [
        {"name": "a"}, {"name": "b", "securityContext": {"runAsUser": 1}},
    ]});
    check_in(two_users, volume, Ok(&all("token 644 token for \\\"\\\"")));
}

#[test]
fn projected_sources_meet_at_paths() {
    let files = |first: &str, second: &str| {
        json!({"projected": {"sources": [
            {"configMap": {"name": "cm", "items": [{"key": "a.conf", "path": first}]}},
            {"secret": {"name": "s", "items": [{"key": "user", "path": second}]}},
        ]}})
    };
    check(files("same", "same"), Ok(&["same 644 root"]));
    check(files("same/file", "same/other"), Ok(&["same/file 644 alpha", "same/other 644 root"]));
    check(
        files("a/b/c", "a"),
        Err("path a is a file in one source of the volume and a directory in another: change one of them"),
    );
    check(
        files("../up", "/abs"),
        Err("[invalid path: must not contain '..': ../up, invalid path: must be relative path: /abs]"),
    );
    check(
        json!({"projected": {"sources": [
            {"serviceAccountToken": {"path": "t", "audience": "broken"}}, {"configMap": {"name": "gone"}},
            {"clusterTrustBundle": {"path": "b"}}, {"podCertificate": {"keyType": "ED25519", "signerName": "s"}},
        ]}}),
        Err("[failed to fetch token: forbidden, configmap \"gone\" not found, \
             ClusterTrustBundle projection requires either name or signerName to be set, \
             projected volume source 3 is of kind podCertificate, which this version cannot project]"),
    );
}

#[test]
fn paths() {
    let clean = |path: &str| clean_path(path).map_err(|error| error.to_string());
    assert_eq!(clean("a/./b//c/").as_deref(), Ok("a/b/c"));
    assert_eq!(clean("a/..b").as_deref(), Ok("a/..b"));
    for bad in ["", ".", "./", "/a", "..", "a/../b", "..a", "..data/x", "./..x", "a\0b"] {
        assert!(clean(bad).is_err(), "{bad}");
    }
    assert!(clean(&"a".repeat(256)).is_err() && clean(&"a".repeat(255)).is_ok());
    assert!(clean(&"a/".repeat(2049)).is_err());
}

#[test]
fn what_a_pod_refers_to() {
    let pod = pod_with(json!({
        "imagePullSecrets": [{"name": "pull"}, {"name": ""}],
        "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "env"}}]}],
        "initContainers": [{"name": "i", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}],
        "ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "debug"}}]}],
        "volumes": [
            {"name": "a", "configMap": {"name": "cm", "optional": true}}, {"name": "b", "secret": {"secretName": "s"}},
            {"name": "c", "projected": {"sources": [
                {"secret": {"name": "ps"}}, {"configMap": {"name": "pc"}}, {"serviceAccountToken": {"path": "t"}},
            ]}},
            {"name": "d", "emptyDir": {}}, {"name": "e", "downwardAPI": {}},
        ],
    }));
    let found: Vec<String> = references(&pod).iter().map(ToString::to_string).collect();
    let expected = [
        "configMap shop/cm",
        "configMap shop/env",
        "configMap shop/pc",
        "secret shop/debug",
        "secret shop/key",
        "secret shop/ps",
        "secret shop/pull",
        "secret shop/s",
    ];
    assert_eq!(found, expected);
}

#[test]
fn places_of_nested_mounts() {
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
    let mut sub_path = mount("v", "/sub");
    sub_path["subPath"] = json!("x");
    let pod = pod_with(json!({
        "containers": [{"name": "c", "volumeMounts": [
            mount("v", "/etc/app/"), mount("o", "/etc/app/extra"), mount("o", "/etc/app/extra/deep"),
            mount("o", "/etc/app/file"), mount("o", "/etc/application"), mount("o", "/etc/app/..data/x"),
            sub_path, mount("o", "/sub/y"),
        ]}],
        "initContainers": [{"name": "i", "volumeMounts": [mount("v", "/"), mount("o", "/a/b")]}],
    }));
    let file = ProjectedFile { bytes: vec![], mode: 0o644, owner: None };
    let files = Payload::from([("file".to_owned(), file)]);
    let found = nested_mount_points(&pod, "v", &files);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a/b", "extra"]);
}

fn key() -> TokenKey {
    let volume: Volume = serde_json::from_value(
        json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}),
    )
    .unwrap();
    needs(FilesSource::of(&volume).unwrap(), &pod_with(json!({}))).tokens.pop_first().unwrap()
}

#[test]
fn when_tokens_are_renewed() {
    let check = |life: i64, received: i64, expected: i64| {
        let issued = IssuedToken { token: "t".into(), expires: at(1_000_000 + life), life_seconds: life };
        let early = expected - refresh_at(&key(), &issued, at(received)).as_second();
        assert!((0..=10).contains(&early), "{life} {received}: {early} s early");
    };
    check(3600, 1_000_000, 1_000_000 + 2880);
    check(86_400 * 365, 1_000_000, 1_000_000 + 86_400);
    check(600, 1_000_000, 1_000_000 + 480);
    // A clock that is far ahead does not make a loop of requests.
    check(3600, 2_000_000, 2_000_000 + TOKEN_RETRY_SECONDS);
    let again = retry_at(&key(), at(100)).as_second();
    assert!((160..=170).contains(&again), "{again}");
}

/// A token with these claims; the signature is nobody's.
fn token(claims: &Value) -> String {
    let encoded = serde_json::to_value(k8s_openapi::ByteString(claims.to_string().into_bytes())).unwrap();
    let body = encoded.as_str().unwrap().trim_end_matches('=').replace('+', "-").replace('/', "_");
    format!("e30.{body}.c2ln")
}

#[test]
fn tokens_of_an_earlier_run() {
    let claims = |change: fn(&mut Value)| {
        let mut claims = json!({"aud": ["api"], "iat": 1000, "exp": 1000 + 31_536_000, "kubernetes.io": {
            "namespace": "shop", "pod": {"name": "web", "uid": "u1"}, "serviceaccount": {"name": "default"},
            "warnafter": 1000 + 3600,
        }});
        change(&mut claims);
        token(&claims)
    };
    let adopt = |token: &str, now: Timestamp| adopted_token(&key(), token.as_bytes(), now);
    let good = claims(|_| {});
    let issued = adopt(&good, at(2000)).unwrap();
    assert_eq!((&*issued.token, issued.expires, issued.life_seconds), (good.as_str(), at(4600), 3600));
    assert_eq!(adopt(&good, at(4600)), None);
    assert_eq!(adopt(&claims(|claims| claims["kubernetes.io"]["pod"]["uid"] = json!("u2")), at(2000)), None);
    assert_eq!(adopt(&claims(|claims| claims["iat"] = json!(null)), at(2000)), None);
    assert_eq!(adopt("nonsense", at(2000)), None);
    assert_eq!(adopt("a.!!.b", at(2000)), None);
    let mut vault = key();
    vault.audience = "vault".to_owned();
    assert_eq!(adopted_token(&vault, good.as_bytes(), at(2000)), None);
    let for_vault = claims(|claims| claims["aud"] = json!(["vault"]));
    assert!(adopted_token(&vault, for_vault.as_bytes(), at(2000)).is_some());
    assert!(!format!("{issued:?}").contains(&good));
}
