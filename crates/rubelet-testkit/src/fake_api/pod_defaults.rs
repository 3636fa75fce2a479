//! What the server fills into a new pod: the defaults of the v1 types and the mutating admission plugins
//! (ServiceAccount, DefaultTolerationSeconds, Priority, RuntimeClass), and its first status.
//!
//! Only what a kubelet can notice. Values in, values out, but for the objects the plugins look up.

use serde_json::{Value, json};

use super::State;
use super::handle::Call;
use super::meta;
use super::references::{self, containers, items};
use super::resources::{self, ResourceRef};
use super::status::{self, ApiError};
use super::store::Key;

/// Where the service account volume is mounted.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Makes a new pod what the server stores.
pub(crate) fn prepare(
    state: &mut State,
    call: &Call<'_>,
    resource: ResourceRef,
    pod: &mut Value,
) -> Result<(), ApiError> {
    pod["metadata"]["generation"] = json!(1);
    if call.options.defaults {
        fill_defaults(pod);
        priority(state, resource, pod)?;
        runtime_class(state, resource, pod)?;
        service_account(state, call, resource, pod)?;
        tolerate(pod);
    }
    pod["status"] = json!({"phase": "Pending", "qosClass": qos_class(pod)});
    Ok(())
}

fn set_default(object: &mut Value, field: &str, value: Value) {
    if object.get(field).is_none_or(Value::is_null) {
        object[field] = value;
    }
}

fn each(object: &mut Value, field: &str, change: impl FnMut(&mut Value)) {
    if let Some(list) = object.get_mut(field).and_then(Value::as_array_mut) {
        list.iter_mut().filter(|item| item.is_object()).for_each(change);
    }
}

fn fill_defaults(pod: &mut Value) {
    if !pod["spec"].is_object() {
        pod["spec"] = json!({});
    }
    let spec = &mut pod["spec"];
    let account =
        spec["serviceAccountName"].as_str().or_else(|| spec["serviceAccount"].as_str()).map(str::to_owned);
    if let Some(account) = account {
        spec["serviceAccountName"] = json!(account);
        spec["serviceAccount"] = json!(account);
    }
    set_default(spec, "restartPolicy", json!("Always"));
    set_default(spec, "dnsPolicy", json!("ClusterFirst"));
    set_default(spec, "schedulerName", json!("default-scheduler"));
    set_default(spec, "securityContext", json!({}));
    set_default(spec, "terminationGracePeriodSeconds", json!(30));
    set_default(spec, "enableServiceLinks", json!(true));
    let host_network = spec["hostNetwork"] == true;
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        each(spec, list, |container| fill_container(container, host_network));
    }
    each(spec, "volumes", fill_volume);
}

fn fill_container(container: &mut Value, host_network: bool) {
    set_default(container, "terminationMessagePath", json!("/dev/termination-log"));
    set_default(container, "terminationMessagePolicy", json!("File"));
    let image = container["image"].as_str().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    let tagged = last.contains(':') || last.contains('@');
    let policy = if last.ends_with(":latest") || !tagged { "Always" } else { "IfNotPresent" };
    set_default(container, "imagePullPolicy", json!(policy));
    set_default(container, "resources", json!({}));
    let limits = container["resources"].get("limits").and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, limit) in limits {
        if container["resources"]["requests"].get(&name).is_none() {
            container["resources"]["requests"][&name] = limit;
        }
    }
    each(container, "ports", |port| {
        set_default(port, "protocol", json!("TCP"));
        if host_network {
            let number = port["containerPort"].clone();
            set_default(port, "hostPort", number);
        }
    });
    each(container, "env", |variable| {
        if variable["valueFrom"]["fieldRef"].is_object() {
            set_default(&mut variable["valueFrom"]["fieldRef"], "apiVersion", json!("v1"));
        }
    });
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).filter(|p| p.is_object()) {
            set_default(probe, "timeoutSeconds", json!(1));
            set_default(probe, "periodSeconds", json!(10));
            set_default(probe, "successThreshold", json!(1));
            set_default(probe, "failureThreshold", json!(3));
            fill_http_get(probe);
            if probe["grpc"].is_object() {
                set_default(&mut probe["grpc"], "service", json!(""));
            }
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(hook) = container.pointer_mut(&format!("/lifecycle/{hook}")).filter(|h| h.is_object()) {
            fill_http_get(hook);
        }
    }
}

fn fill_http_get(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet").filter(|get| get.is_object()) {
        set_default(get, "path", json!("/"));
        set_default(get, "scheme", json!("HTTP"));
    }
}

fn fill_volume(volume: &mut Value) {
    if volume.as_object().is_some_and(|fields| fields.len() == 1) {
        volume["emptyDir"] = json!({});
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(kind).filter(|source| source.is_object()) {
            set_default(source, "defaultMode", json!(0o644));
            each(source, "items", fill_field_ref);
            each(source, "sources", |source| {
                if let Some(token) = source.get_mut("serviceAccountToken").filter(|token| token.is_object()) {
                    set_default(token, "expirationSeconds", json!(3600));
                }
                if let Some(downward) = source.get_mut("downwardAPI") {
                    each(downward, "items", fill_field_ref);
                }
            });
        }
    }
    if let Some(path) = volume.get_mut("hostPath").filter(|path| path.is_object()) {
        set_default(path, "type", json!(""));
    }
}

fn fill_field_ref(item: &mut Value) {
    if let Some(field) = item.get_mut("fieldRef").filter(|field| field.is_object()) {
        set_default(field, "apiVersion", json!("v1"));
    }
}

fn priority(state: &State, resource: ResourceRef, pod: &mut Value) -> Result<(), ApiError> {
    let class = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let (value, policy) = match class.as_str() {
        "" => (json!(0), json!("PreemptLowerPriority")),
        "system-node-critical" => (json!(2_000_001_000), json!("PreemptLowerPriority")),
        "system-cluster-critical" => (json!(2_000_000_000), json!("PreemptLowerPriority")),
        _ => {
            let stored = state.store.get(&Key::new(resources::named("priorityclasses"), "", &class));
            let stored = stored.ok_or_else(|| {
                let why = format!("no PriorityClass with name {class} was found");
                status::forbidden(resource, meta::name(pod), &why)
            })?;
            let policy = stored.get("preemptionPolicy").cloned().unwrap_or(json!("PreemptLowerPriority"));
            (stored["value"].clone(), policy)
        }
    };
    set_default(&mut pod["spec"], "priority", value);
    set_default(&mut pod["spec"], "preemptionPolicy", policy);
    Ok(())
}

fn runtime_class(state: &State, resource: ResourceRef, pod: &mut Value) -> Result<(), ApiError> {
    let Some(class) = pod["spec"]["runtimeClassName"].as_str().filter(|c| !c.is_empty()).map(str::to_owned)
    else {
        return Ok(());
    };
    if references::is_mirror(pod) {
        return Ok(());
    }
    let stored = state.store.get(&Key::new(resources::named("runtimeclasses"), "", &class));
    let stored = stored.ok_or_else(|| {
        status::forbidden(
            resource,
            meta::name(pod),
            &format!("pod rejected: RuntimeClass \"{class}\" not found"),
        )
    })?;
    if let Some(overhead) = stored["overhead"].get("podFixed") {
        pod["spec"]["overhead"] = overhead.clone();
    }
    Ok(())
}

fn service_account(
    state: &mut State,
    call: &Call<'_>,
    resource: ResourceRef,
    pod: &mut Value,
) -> Result<(), ApiError> {
    let name = meta::name(pod).to_owned();
    let refuse = |why: &str| Err(status::forbidden(resource, &name, why));
    if references::is_mirror(pod) {
        if pod["spec"]["serviceAccountName"].as_str().is_some_and(|account| !account.is_empty()) {
            return refuse("a mirror pod may not reference service accounts");
        }
        if !references::secrets(pod).is_empty() {
            return refuse("a mirror pod may not reference secrets");
        }
        let token = |volume: &Value| {
            items(&volume["projected"], "sources").any(|source| source.get("serviceAccountToken").is_some())
        };
        if items(&pod["spec"], "volumes").any(token) {
            return refuse("a mirror pod may not use ServiceAccountToken volume projections");
        }
        return Ok(());
    }
    set_default(&mut pod["spec"], "serviceAccountName", json!("default"));
    let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default().to_owned();
    set_default(&mut pod["spec"], "serviceAccount", json!(account));
    if !call.options.service_accounts {
        return Ok(());
    }
    let namespace = meta::namespace(pod).to_owned();
    let key = Key::new(resources::named("serviceaccounts"), &namespace, &account);
    let Some(stored) = state.store.get(&key).cloned() else {
        return refuse(&format!(
            "error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found"
        ));
    };
    let automount = pod["spec"]["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| stored["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if automount {
        mount_token(state, pod);
    }
    if items(&pod["spec"], "imagePullSecrets").next().is_none()
        && let Some(secrets) = stored.get("imagePullSecrets")
    {
        pod["spec"]["imagePullSecrets"] = secrets.clone();
    }
    Ok(())
}

fn mount_token(state: &mut State, pod: &mut Value) {
    let existing = items(&pod["spec"], "volumes")
        .filter_map(|volume| volume["name"].as_str())
        .find(|name| name.starts_with("kube-api-access-"))
        .map(str::to_owned);
    let volume = existing.clone().unwrap_or_else(|| format!("kube-api-access-{}", meta::suffix(state)));
    let mount = json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH});
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        each(&mut pod["spec"], list, |container| {
            if items(container, "volumeMounts").any(|m| m["mountPath"] == TOKEN_PATH) {
                return;
            }
            set_default(container, "volumeMounts", json!([]));
            if let Some(mounts) = container["volumeMounts"].as_array_mut() {
                mounts.push(mount.clone());
                mounted = true;
            }
        });
    }
    if existing.is_some() || !mounted {
        return;
    }
    set_default(&mut pod["spec"], "volumes", json!([]));
    if let Some(volumes) = pod["spec"]["volumes"].as_array_mut() {
        volumes.push(json!({"name": volume, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
    }
}

/// Adds the tolerations of 300 s for a node that is not ready or not reachable.
fn tolerate(pod: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = items(&pod["spec"], "tolerations").any(|toleration| {
            let of = |field: &str| toleration[field].as_str().unwrap_or_default();
            (of("key") == key || of("key").is_empty()) && matches!(of("effect"), "" | "NoExecute")
        });
        if tolerated {
            continue;
        }
        set_default(&mut pod["spec"], "tolerations", json!([]));
        if let Some(tolerations) = pod["spec"]["tolerations"].as_array_mut() {
            tolerations.push(
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            );
        }
    }
}

/// The pod's QoS class, as the server computes it from cpu and memory of containers, or of the pod where it says so.
fn qos_class(pod: &Value) -> &'static str {
    let of_pod = pod["spec"]
        .get("resources")
        .filter(|resources| resources.get("limits").is_some() || resources.get("requests").is_some());
    let all: Vec<&Value> = match of_pod {
        Some(resources) => vec![resources],
        None => containers(pod).map(|container| &container["resources"]).collect(),
    };
    let amount = |resources: &Value, kind: &str, name: &str| {
        let value = resources.get(kind).and_then(|list| list.get(name)).cloned();
        value.filter(|v| !matches!(v.as_str(), Some("0")))
    };
    let mut any = false;
    let mut guaranteed = !all.is_empty();
    for resources in all {
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount(resources, "requests", name), amount(resources, "limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
