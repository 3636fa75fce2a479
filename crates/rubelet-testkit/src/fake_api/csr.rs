//! CertificateSigningRequests: who asked, the approver and the signer that a real cluster runs beside the server.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::State;
use super::handle::Call;
use super::meta;
use super::pki::Ca;
use super::references::items;
use super::resources;
use super::store::Key;

/// The signer of kubelet client certificates.
pub(crate) const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The signer of kubelet serving certificates.
pub(crate) const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// What happens to requests for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    /// Client certificates of kubelets are approved and signed at once, serving certificates too.
    Auto,
    /// Nothing happens until [`super::FakeApi::approve`].
    Manual,
    /// Requests are denied.
    Deny,
}

/// The state of the approver and the signer.
#[derive(Debug)]
pub(crate) struct Signer {
    pub mode: Signing,
    /// The longest a certificate lasts.
    pub lifetime: Duration,
    ca: Option<std::sync::Arc<Ca>>,
}

impl Default for Signer {
    fn default() -> Self {
        Self { mode: Signing::Auto, lifetime: Duration::from_secs(365 * 24 * 3600), ca: None }
    }
}

impl Signer {
    /// The authority, made when it is first needed.
    pub(crate) fn ca(&mut self, now: jiff::Timestamp) -> std::sync::Arc<Ca> {
        self.ca
            .get_or_insert_with(|| {
                std::sync::Arc::new(Ca::new(now).unwrap_or_else(|e| panic!("no certificate authority: {e}")))
            })
            .clone()
    }
}

/// Notes who asked; status and approval are not the client's to set.
pub(crate) fn prepare(call: &Call<'_>, request: &mut Value) {
    let mut groups = call.user.groups.clone();
    groups.push("system:authenticated".to_owned());
    request["spec"]["username"] = json!(call.user.name);
    request["spec"]["groups"] = json!(groups);
    request["status"] = json!({});
}

fn request_pem(object: &Value) -> Result<String, String> {
    let encoded = object["spec"]["request"].as_str().unwrap_or_default();
    let bytes = STANDARD.decode(encoded).map_err(|e| e.to_string())?;
    String::from_utf8(bytes).map_err(|e| e.to_string())
}

/// Subject of the PKCS #10 request: its common name and organizations.
fn subject(object: &Value) -> Result<(String, Vec<String>), String> {
    let text = request_pem(object)?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).map_err(|e| e.to_string())?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err("PEM block type must be CERTIFICATE REQUEST".into());
    }
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|e| e.to_string())?;
    let subject = &request.certification_request_info.subject;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().unwrap_or_default().to_owned()
    };
    let name = subject.iter_common_name().next().map(text).unwrap_or_default();
    Ok((name, subject.iter_organization().map(text).collect()))
}

/// The common name of the PKCS #10 request in a CertificateSigningRequest.
pub(crate) fn common_name(object: &Value) -> Result<String, String> {
    subject(object).map(|(name, _)| name)
}

/// What is wrong with a new request.
pub(crate) fn validate(object: &Value) -> Vec<(String, String)> {
    let mut causes = Vec::new();
    if let Err(why) = subject(object) {
        causes.push(("spec.request".to_owned(), format!("Invalid value: {why}")));
    }
    if items(&object["spec"], "usages").next().is_none() {
        causes.push(("spec.usages".to_owned(), "Required value".to_owned()));
    }
    if object["spec"]["signerName"].as_str().unwrap_or_default().is_empty() {
        causes.push(("spec.signerName".to_owned(), "Required value".to_owned()));
    }
    if object["spec"]["expirationSeconds"].as_i64().is_some_and(|seconds| seconds < 600) {
        let what = "Invalid value: may not specify a duration less than 600 seconds (10 minutes)";
        causes.push(("spec.expirationSeconds".to_owned(), what.to_owned()));
    }
    causes
}

/// What approver and signer do about a request that was just stored.
pub(crate) fn after_create(state: &mut State, now: jiff::Timestamp, name: &str) {
    match state.signer.mode {
        Signing::Auto => approve(state, now, name),
        Signing::Deny => deny(state, now, name, "denied by the test"),
        Signing::Manual => {}
    }
}

fn change(state: &mut State, name: &str, edit: impl FnOnce(&mut Value)) {
    let resource = resources::named("certificatesigningrequests");
    let key = Key::new(resource, "", name);
    if let Some(stored) = state.store.get(&key).cloned() {
        let mut object = Value::clone(&stored);
        edit(&mut object);
        state.store.commit(resource, &key, Some(object));
    }
}

fn add_condition(
    state: &mut State,
    now: jiff::Timestamp,
    name: &str,
    kind: &str,
    reason: &str,
    message: &str,
) {
    change(state, name, |object| {
        let mut conditions: Vec<Value> = items(&object["status"], "conditions").cloned().collect();
        conditions.push(json!({"type": kind, "status": "True", "reason": reason, "message": message,
            "lastUpdateTime": meta::time(now), "lastTransitionTime": meta::time(now)}));
        object["status"]["conditions"] = json!(conditions);
    });
}

/// Denies a request.
pub(crate) fn deny(state: &mut State, now: jiff::Timestamp, name: &str, why: &str) {
    add_condition(state, now, name, "Denied", "Denied", why);
}

/// Approves a request and signs it, unless the signer finds it wanting.
pub(crate) fn approve(state: &mut State, now: jiff::Timestamp, name: &str) {
    let message = "Auto approving kubelet certificate after SubjectAccessReview.";
    add_condition(state, now, name, "Approved", "AutoApproved", message);
    sign_approved(state, now, name);
}

/// What the signer does about a request that was approved.
pub(crate) fn sign_approved(state: &mut State, now: jiff::Timestamp, name: &str) {
    let key = Key::new(resources::named("certificatesigningrequests"), "", name);
    let Some(object) = state.store.get(&key).cloned() else { return };
    match sign(state, now, &object) {
        Ok(certificate) => {
            change(state, name, |object| {
                object["status"]["certificate"] = json!(STANDARD.encode(certificate))
            });
        }
        Err(why) => add_condition(state, now, name, "Failed", "SignerValidationFailure", &why),
    }
}

fn sign(state: &mut State, now: jiff::Timestamp, object: &Value) -> Result<String, String> {
    let (name, organizations) = subject(object)?;
    let usages: Vec<&str> = items(&object["spec"], "usages").filter_map(Value::as_str).collect();
    let server = match object["spec"]["signerName"].as_str() {
        Some(CLIENT_SIGNER) => false,
        Some(SERVING_SIGNER) => true,
        other => return Err(format!("no signer {}", other.unwrap_or_default())),
    };
    if !name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node: prefix".into());
    }
    if organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes".into());
    }
    let needed = if server { "server auth" } else { "client auth" };
    let known = ["digital signature", "key encipherment", needed];
    if !usages.contains(&needed)
        || !usages.contains(&"digital signature")
        || usages.iter().any(|u| !known.contains(u))
    {
        return Err(format!("usages must be digital signature, {needed} and at most key encipherment"));
    }
    let asked = object["spec"]["expirationSeconds"].as_u64().map(Duration::from_secs);
    let lifetime = asked.map_or(state.signer.lifetime, |asked| asked.min(state.signer.lifetime));
    let ca = state.signer.ca(now);
    ca.sign(&request_pem(object)?, server, now, lifetime).map_err(|e| e.to_string())
}
