//! CertificateSigningRequests: the approver and the signer that a real cluster runs beside the server.
//!
//! They write as everyone does, through the engine; the rules of the kind are its.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rubelet_localapi::pki::{Ca, Usage};
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::FakeApi;
use super::admin::named;
use super::references::items;

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
    ca: Option<Arc<Ca>>,
}

impl Default for Signer {
    fn default() -> Self {
        Self { mode: Signing::Auto, lifetime: Duration::from_secs(365 * 24 * 3600), ca: None }
    }
}

impl Signer {
    /// The authority, made when it is first needed.
    pub(crate) fn ca(&mut self, now: jiff::Timestamp) -> Arc<Ca> {
        let made = || {
            Arc::new(Ca::new("kubernetes", now).unwrap_or_else(|e| panic!("no certificate authority: {e}")))
        };
        self.ca.get_or_insert_with(made).clone()
    }
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

/// What the approver does about a request that was just made.
pub(crate) fn decide(api: &FakeApi, name: &str) {
    let mode = api.inner.state().signer.mode;
    match mode {
        Signing::Auto => approve(api, name),
        Signing::Deny => deny(api, name, "denied by the test"),
        Signing::Manual => {}
    }
}

/// Approves a request, which is then signed, unless the signer finds it wanting.
pub(crate) fn approve(api: &FakeApi, name: &str) {
    let message = "Auto approving kubelet certificate after SubjectAccessReview.";
    add_condition(api, name, "approval", ["Approved", "AutoApproved", message]);
}

/// Denies a request.
pub(crate) fn deny(api: &FakeApi, name: &str, why: &str) {
    add_condition(api, name, "approval", ["Denied", "Denied", why]);
}

fn has(request: &Value, condition: &str) -> bool {
    items(&request["status"], "conditions").any(|c| c["type"] == condition)
}

/// What the signer does about a request that was changed.
pub(crate) fn sign(api: &FakeApi, name: &str) {
    let Some(request) = api.read(named("certificatesigningrequests"), "", name) else { return };
    let signed = request["status"].get("certificate").is_some();
    if signed || !has(&request, "Approved") || has(&request, "Failed") {
        return;
    }
    match certificate(api, &request) {
        Ok(certificate) => change(api, name, "status", |request| {
            request["status"]["certificate"] = json!(STANDARD.encode(certificate));
        }),
        Err(why) => add_condition(api, name, "status", ["Failed", "SignerValidationFailure", &why]),
    }
}

fn change(api: &FakeApi, name: &str, path: &str, edit: impl FnOnce(&mut Value)) {
    let requests = named("certificatesigningrequests");
    if let Some(mut request) = api.read(requests, "", name) {
        edit(&mut request);
        api.replace(requests, path, request);
    }
}

fn add_condition(api: &FakeApi, name: &str, path: &str, [kind, reason, message]: [&str; 3]) {
    let condition = json!({"type": kind, "status": "True", "reason": reason, "message": message});
    change(api, name, path, |request| {
        let mut conditions: Vec<Value> = items(&request["status"], "conditions").cloned().collect();
        conditions.push(condition);
        request["status"]["conditions"] = json!(conditions);
    });
}

fn certificate(api: &FakeApi, object: &Value) -> Result<String, String> {
    let (name, organizations) = subject(object)?;
    let usages: Vec<&str> = items(&object["spec"], "usages").filter_map(Value::as_str).collect();
    let (usage, needed) = match object["spec"]["signerName"].as_str() {
        Some(CLIENT_SIGNER) => (Usage::Client, "client auth"),
        Some(SERVING_SIGNER) => (Usage::Server, "server auth"),
        other => return Err(format!("no signer {}", other.unwrap_or_default())),
    };
    if !name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node: prefix".into());
    }
    if organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes".into());
    }
    let known = ["digital signature", "key encipherment", needed];
    if !usages.contains(&needed)
        || !usages.contains(&"digital signature")
        || usages.iter().any(|u| !known.contains(u))
    {
        return Err(format!("usages must be digital signature, {needed} and at most key encipherment"));
    }
    let asked = object["spec"]["expirationSeconds"].as_u64().map(Duration::from_secs);
    let now = api.inner.now();
    let mut state = api.inner.state();
    let longest = state.signer.lifetime;
    let lifetime = asked.map_or(longest, |asked| asked.min(longest));
    let ca = state.signer.ca(now);
    drop(state);
    ca.sign(&request_pem(object)?, usage, now, lifetime).map_err(|e| e.to_string())
}
