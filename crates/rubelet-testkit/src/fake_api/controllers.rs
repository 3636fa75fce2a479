//! What a cluster does by itself about what was written: furnishes namespaces, empties those that end, signs
//! certificates.
//!
//! Runs right after each write, before anything else can: as the fastest cluster there is.

use futures::FutureExt;
use rubelet_apimachinery::strategy::builtin;
use rubelet_localapi::controllers::settle_namespace;
use rubelet_localapi::store::{Event, EventKind};
use serde_json::{Value, json};

use super::{FakeApi, admin, csr, settings};

impl FakeApi {
    /// Lets everything follow that follows from what was written.
    pub(crate) fn settle(&self) {
        loop {
            let events = self.inner.state().history.follow();
            if events.is_empty() {
                break;
            }
            events.iter().for_each(|event| self.inner.nodes.see(event));
            for event in &events {
                self.react(event);
            }
        }
        let current = self.inner.engine.store().revision();
        self.inner.changed.send_if_modified(|known| std::mem::replace(known, current) != current);
    }

    fn react(&self, event: &Event) {
        let (name, namespace) = (&event.key.name, &event.key.namespace);
        match (event.key.resource.as_str(), event.kind) {
            ("namespaces", EventKind::Added) => self.furnish(name),
            ("namespaces", EventKind::Modified) => self.settle_if_ending(name),
            ("certificatesigningrequests.certificates.k8s.io", EventKind::Added) => csr::decide(self, name),
            ("certificatesigningrequests.certificates.k8s.io", EventKind::Modified) => csr::sign(self, name),
            (_, EventKind::Deleted) if !namespace.is_empty() => self.settle_if_ending(namespace),
            _ => {}
        }
    }

    /// What every namespace has.
    fn furnish(&self, namespace: &str) {
        if self.inner.options.service_accounts {
            return self.settle_namespace(namespace);
        }
        let mut account = builtin::default_service_account(namespace);
        account["automountServiceAccountToken"] = json!(false);
        self.create_json(&account);
    }

    fn settle_if_ending(&self, namespace: &str) {
        let stored = self.read(admin::named("namespaces"), "", namespace);
        if stored.is_some_and(|stored| is_ending(&stored)) {
            self.settle_namespace(namespace);
        }
    }

    fn settle_namespace(&self, name: &str) {
        let settings = settings(self.ca_pem());
        let settled = settle_namespace(&self.inner.engine, &settings, name).now_or_never();
        settled.unwrap_or_else(|| panic!("the engine waits"));
    }
}

/// Whether a namespace waits for what is in it.
fn is_ending(namespace: &Value) -> bool {
    namespace["metadata"].get("deletionTimestamp").is_some()
        && namespace["spec"]["finalizers"].as_array().is_some_and(|waits_for| !waits_for.is_empty())
}
