//! Drivers of dynamic resource allocation, as the node speaks to them: preparing ResourceClaims and taking that back
//! (v1 and v1beta1), and what they tell of the health of their devices (v1alpha1).
//!
//! [`DraClient`] makes calls, each on a connection of its own and with a deadline; [`DraLink`] is a connection that is held
//! to notice when a driver dies, and carries its reports. Nothing here retries or remembers. Used by the agent's `dra`.

mod client;
mod error;
mod link;
pub mod wire;

pub use client::{CallObserver, CallRecord, DraClient, Prepared, Unprepared};
pub use error::{DraError, code_name};
pub use link::{DraLink, HealthReports};

/// How long a call may take (upstream `defaultClientCallTimeout`).
pub const CALL_DEADLINE: std::time::Duration = std::time::Duration::from_secs(45);

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `v1.DRAPlugin`.
    V1,
    /// `v1beta1.DRAPlugin`.
    V1Beta1,
}

impl Service {
    /// The name that drivers register with.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1.DRAPlugin",
            Self::V1Beta1 => "v1beta1.DRAPlugin",
        }
    }

    /// The first that both sides speak, in the driver's order.
    ///
    /// # Errors
    /// There is none; the text is what the driver is told.
    pub fn choose(versions: &[String]) -> Result<Self, String> {
        if versions.is_empty() {
            return Err("empty list of supported gRPC services (aka supported versions)".to_owned());
        }
        let ours = [Self::V1, Self::V1Beta1];
        let known = |version: &String| ours.into_iter().find(|service| service.name() == version);
        versions.iter().find_map(known).ok_or_else(|| {
            let quoted = |names: Vec<&str>| {
                names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" ")
            };
            let theirs = quoted(versions.iter().map(String::as_str).collect());
            let ours = quoted(ours.iter().map(|service| service.name()).collect());
            format!("none of services supported by the plugin ([{theirs}]) are supported by the kubelet ([{ours}])")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_that_both_speak_is_taken() {
        let check = |versions: &[&str], chosen: Result<Service, &str>| {
            let versions: Vec<String> = versions.iter().map(|version| (*version).to_owned()).collect();
            let got = Service::choose(&versions);
            match chosen {
                Ok(chosen) => assert_eq!(got, Ok(chosen)),
                Err(word) => assert!(got.clone().unwrap_err().contains(word), "{got:?}"),
            }
        };
        check(&["v1.DRAPlugin", "v1beta1.DRAPlugin"], Ok(Service::V1));
        check(&["v2.DRAPlugin", "v1beta1.DRAPlugin", "v1.DRAPlugin"], Ok(Service::V1Beta1));
        check(&["v1alpha1.DRAResourceHealth", "v1.DRAPlugin"], Ok(Service::V1));
        check(&[], Err("empty list"));
        check(&["1.0.0"], Err("[\"1.0.0\"]"));
    }
}
