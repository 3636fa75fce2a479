//! The quality-of-service class of a pod.
//!
//! Owns the classification (upstream `ComputePodQOS`); never what follows from it.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

use crate::containers::{regular_containers, spec_of};
use crate::quantity::{Amount, listed};

/// QoS class, from the least to the best protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QosClass {
    /// No requests and no limits.
    BestEffort,
    /// Something in between.
    Burstable,
    /// CPU and memory limits everywhere, equal to the requests.
    Guaranteed,
}

impl QosClass {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BestEffort => "BestEffort",
            Self::Burstable => "Burstable",
            Self::Guaranteed => "Guaranteed",
        }
    }
}

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The class a pod has: what its status says already, for it never changes, else what the spec says.
pub fn pod_qos(pod: &Pod) -> QosClass {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("BestEffort") => QosClass::BestEffort,
        Some("Burstable") => QosClass::Burstable,
        Some("Guaranteed") => QosClass::Guaranteed,
        _ => compute_qos(pod),
    }
}

/// The class that follows from the spec. Ephemeral containers have no resources; pod-level resources, where
/// given, decide alone.
pub fn compute_qos(pod: &Pod) -> QosClass {
    let spec = spec_of(pod);
    let mut sums = Sums { requests: BTreeMap::new(), limits: BTreeMap::new(), all_limited: true };
    if let Some(resources) = &spec.resources {
        // Requests without limits leave it open: equality with the (absent) limits decides below.
        let limits_given = resources.limits.as_ref().is_some_and(|limits| !limits.is_empty());
        sums.add(resources);
        sums.all_limited |= !limits_given;
    } else {
        for container in regular_containers(spec) {
            match &container.resources {
                Some(resources) => sums.add(resources),
                None => sums.all_limited = false,
            }
        }
    }
    if sums.requests.is_empty() && sums.limits.is_empty() {
        QosClass::BestEffort
    } else if sums.all_limited && sums.requests == sums.limits {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

struct Sums {
    requests: BTreeMap<&'static str, Amount>,
    limits: BTreeMap<&'static str, Amount>,
    all_limited: bool,
}

impl Sums {
    fn add(&mut self, resources: &ResourceRequirements) {
        for name in ["cpu", "memory"] {
            let positive = |amount: &Amount| !amount.is_zero() && !amount.is_negative();
            if let Some(amount) = listed(resources.requests.as_ref(), name).filter(positive) {
                let sum = self.requests.entry(name).or_insert(Amount::ZERO);
                *sum = sum.plus(amount);
            }
            match listed(resources.limits.as_ref(), name).filter(positive) {
                Some(amount) => {
                    let sum = self.limits.entry(name).or_insert(Amount::ZERO);
                    *sum = sum.plus(amount);
                }
                None => self.all_limited = false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(spec: Value, expected: QosClass) {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        assert_eq!(compute_qos(&pod), expected, "{spec}");
    }

    fn limits(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "resources": {"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn classes_by_containers() {
        let none = json!({"name": "n"});
        check(json!({"containers": [none]}), QosClass::BestEffort);
        check(
            json!({"containers": [{"name": "n", "resources": {"limits": {"gpu": "1"}}}]}),
            QosClass::BestEffort,
        );
        check(json!({"containers": [limits("0", "0")]}), QosClass::BestEffort);
        check(json!({"containers": [limits("1", "1Gi")]}), QosClass::Guaranteed);
        check(json!({"containers": [limits("1", "1Gi"), limits("500m", "1G")]}), QosClass::Guaranteed);
        check(json!({"containers": [limits("1", "1Gi"), none]}), QosClass::Burstable);
        check(json!({"containers": [limits("1", "1Gi")], "initContainers": [none]}), QosClass::Burstable);
        check(
            json!({"containers": [limits("1", "1Gi")], "initContainers": [limits("1", "1")]}),
            QosClass::Guaranteed,
        );
        check(json!({"containers": [limits("1", "0")]}), QosClass::Burstable);
        check(
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1m"}}}]}),
            QosClass::Burstable,
        );
        check(
            json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1"}}}]}),
            QosClass::Burstable,
        );
        check(
            json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}}]}),
            QosClass::Guaranteed,
        );
    }

    #[test]
    fn pod_level_resources_decide_alone() {
        let both =
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}});
        check(json!({"resources": both, "containers": [{"name": "n"}]}), QosClass::Guaranteed);
        check(
            json!({"resources": {"requests": {"cpu": "1"}}, "containers": [limits("1", "1Gi")]}),
            QosClass::Burstable,
        );
        check(
            json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}, "containers": []}),
            QosClass::Burstable,
        );
        check(json!({"resources": {}, "containers": [limits("1", "1Gi")]}), QosClass::BestEffort);
    }

    #[test]
    fn the_class_in_the_status_wins() {
        let pod: Pod =
            serde_json::from_value(json!({"spec": {"containers": []}, "status": {"qosClass": "Guaranteed"}}))
                .unwrap();
        assert_eq!(pod_qos(&pod), QosClass::Guaranteed);
        assert_eq!(pod_qos(&Pod::default()), QosClass::BestEffort);
    }
}
