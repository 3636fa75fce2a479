//! What is there before the first client asks: namespaces with what belongs to them, the system's priority classes, the
//! Service of the API itself and the class of our own volumes.

use std::net::IpAddr;

use rubelet_apimachinery::Resource;
use rubelet_apimachinery::binding::PROVISIONER;
use rubelet_apimachinery::kinds;
use rubelet_apimachinery::strategy::{Settings, builtin};
use serde_json::{Value, json};

use super::client::{Client, Failure};
use super::{core, text};
use crate::engine::Api;

/// The class of claims that name none.
const STORAGE_CLASS: &str = "local-path";

/// Where pods find the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertised {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// What every server has could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot prepare the local API: {object}: {problem}")]
pub struct StartError {
    object: String,
    problem: String,
}

/// Writes what is missing; what is there is left as its owner wants it, but for the addresses of the API.
///
/// # Errors
/// [`StartError`] when the store fails.
pub async fn prepare(
    api: &Api,
    settings: &Settings,
    advertised: Option<Advertised>,
) -> Result<(), StartError> {
    let client = Client::new(api.clone(), "bootstrap");
    for namespace in builtin::namespaces() {
        let name = text(&namespace, &["metadata", "name"]).to_owned();
        ensure(&client, core("namespaces"), &namespace).await?;
        ensure(&client, core("serviceaccounts"), &builtin::default_service_account(&name)).await?;
        ensure(&client, core("configmaps"), &builtin::root_ca_config_map(&name, settings)).await?;
    }
    if let Some(classes) = kinds::find("scheduling.k8s.io", "v1", "priorityclasses") {
        for class in builtin::priority_classes() {
            ensure(&client, classes, &class).await?;
        }
    }
    if let Some(classes) = kinds::find("storage.k8s.io", "v1", "storageclasses") {
        ensure(&client, classes, &storage_class()).await?;
    }
    if let Some(advertised) = advertised {
        let service = builtin::kubernetes_service(advertised.address, advertised.port);
        keep(&client, core("services"), &service).await?;
        // Endpoints may not name loopback addresses, at which only the node's own network finds the API anyway.
        if !advertised.address.is_loopback() {
            keep(&client, core("endpoints"), &endpoints(advertised)).await?;
            if let Some(slices) = kinds::find("discovery.k8s.io", "v1", "endpointslices") {
                keep(&client, slices, &slice(advertised)).await?;
            }
        }
    }
    Ok(())
}

fn failed(resource: &Resource, object: &Value, problem: &Failure) -> StartError {
    let object = format!("{}/{}", resource.qualified(), text(object, &["metadata", "name"]));
    StartError { object, problem: problem.to_string() }
}

/// Makes an object if it is not there.
async fn ensure(client: &Client, resource: &'static Resource, object: &Value) -> Result<bool, StartError> {
    let (namespace, name) = (text(object, &["metadata", "namespace"]), text(object, &["metadata", "name"]));
    match client.get(resource, namespace, name).await {
        Ok(Some(_)) => return Ok(false),
        Ok(None) => {}
        Err(problem) => return Err(failed(resource, object, &problem)),
    }
    match client.create(resource, namespace, object).await {
        Ok(_) => Ok(true),
        // A namespace that is being deleted takes nothing new; it is made again when it has gone.
        Err(Failure::Conflict | Failure::NotFound) => Ok(false),
        Err(Failure::Other(message)) if message.contains("is being terminated") => Ok(false),
        Err(problem) => Err(failed(resource, object, &problem)),
    }
}

/// Makes an object, or makes it say what it should besides its metadata.
async fn keep(client: &Client, resource: &'static Resource, object: &Value) -> Result<(), StartError> {
    if ensure(client, resource, object).await? {
        return Ok(());
    }
    let (namespace, name) = (text(object, &["metadata", "namespace"]), text(object, &["metadata", "name"]));
    let there = client.get(resource, namespace, name).await.map_err(|e| failed(resource, object, &e))?;
    let Some(mut there) = there else { return Ok(()) };
    let before = there.clone();
    for (key, value) in object.as_object().into_iter().flatten().filter(|(key, _)| *key != "metadata") {
        match (there[key].as_object_mut(), value.as_object()) {
            (Some(old), Some(new)) => old.extend(new.clone()),
            _ => there[key] = value.clone(),
        }
    }
    if there == before {
        return Ok(());
    }
    match client.replace(resource, "", &there).await {
        Ok(_) => Ok(()),
        // Some of it cannot be changed, such as a Service's address.
        Err(_) => {
            let options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
            let gone = client.delete(resource, namespace, name, &options).await;
            gone.map_err(|e| failed(resource, object, &e))?;
            client.create(resource, namespace, object).await.map_err(|e| failed(resource, object, &e))?;
            Ok(())
        }
    }
}

fn storage_class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate",
    })
}

fn endpoints(advertised: Advertised) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": advertised.address}],
            "ports": [{"name": "https", "port": advertised.port, "protocol": "TCP"}],
        }],
    })
}

fn slice(advertised: Advertised) -> Value {
    let family = if advertised.address.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family,
        "endpoints": [{"addresses": [advertised.address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": advertised.port, "protocol": "TCP"}],
    })
}
