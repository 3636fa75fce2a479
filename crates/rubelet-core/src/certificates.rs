//! The agent's certificates: when to ask for the next one, with which identity, and what the answer means.
//!
//! Owns every rule of upstream's certificate manager that needs no I/O (`nextRotationDeadline`,
//! `certSatisfiesTemplate`, `isClientConfigStillValid`, the reading of a CertificateSigningRequest). Reads no
//! file and parses no certificate: `rubelet-apiclient` does, asks here, and does what is answered.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

/// Signer of certificates with which a node authenticates to the API server.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signer of certificates with which a node serves its HTTPS API.
pub const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// The group every node belongs to.
pub const NODES_GROUP: &str = "system:nodes";

/// Share of a certificate's life after which renewal may begin (upstream `jitteryDuration`).
const ROTATION_FROM: f64 = 0.7;
/// Width of the window in which renewal begins, as a share of the life.
const ROTATION_WINDOW: f64 = 0.2;
/// Delay after the first failed attempt; doubles with each further one (upstream `rotateCerts` back-off).
const RETRY_FIRST: Duration = Duration::from_secs(2);
/// Longest delay between attempts (upstream polls every 32 s after its back-off is used up).
const RETRY_MAX: Duration = Duration::from_secs(32);
/// Part of a retry delay that is added at random.
const RETRY_JITTER: f64 = 0.1;
/// Longest sleep without a look at the wall clock, which may jump and does not run with the timers.
const LONGEST_SLICE: Duration = Duration::from_secs(600);
/// How many looks at the wall clock a certificate's life has at least.
const SLICES_A_LIFE: u32 = 100;

/// The time within which a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before: Timestamp,
    /// Last moment.
    pub not_after: Timestamp,
}

impl Validity {
    /// Whether the last moment has passed.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now > self.not_after
    }

    /// How long the certificate lives; zero when it ends before it begins.
    pub fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).try_into().unwrap_or_default()
    }

    /// When the next certificate is to be asked for: between 70 % and 90 % of the life, by `jitter` in
    /// `0.0..=1.0` (upstream `nextRotationDeadline`). Values outside count as the nearest bound.
    pub fn rotation_deadline(&self, jitter: f64) -> Timestamp {
        let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
        let after = self.lifetime().mul_f64(ROTATION_FROM + ROTATION_WINDOW * jitter);
        self.not_before
            .checked_add(SignedDuration::try_from(after).unwrap_or_default())
            .unwrap_or(self.not_after)
    }
}

/// What a certificate says, as far as rotation looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// When the leaf is valid.
    pub validity: Validity,
    /// Common name of the subject.
    pub common_name: String,
    /// Organizations of the subject: the groups of a client.
    pub organizations: BTreeSet<String>,
    /// Names a server may be called by.
    pub dns_names: BTreeSet<String>,
    /// Addresses a server may be called by.
    pub ip_addresses: BTreeSet<IpAddr>,
}

/// What the certificate has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedCertificate {
    /// Common name of the subject.
    pub common_name: String,
    /// Organizations of the subject.
    pub organizations: Vec<String>,
    /// Names to serve under; empty for a client.
    pub dns_names: BTreeSet<String>,
    /// Addresses to serve under; empty for a client.
    pub ip_addresses: BTreeSet<IpAddr>,
}

impl WantedCertificate {
    /// A node's certificate without names or addresses: the identity `system:node:<name>`.
    pub fn node(node_name: &str) -> Self {
        Self {
            common_name: format!("system:node:{node_name}"),
            organizations: vec![NODES_GROUP.to_owned()],
            dns_names: BTreeSet::new(),
            ip_addresses: BTreeSet::new(),
        }
    }

    /// The first thing that `facts` lacks, as words for a log line; more than is wanted does no harm
    /// (upstream `certSatisfiesTemplate`).
    pub fn missing_in(&self, facts: &CertificateFacts) -> Option<String> {
        if facts.common_name != self.common_name {
            return Some(format!("it is for {:?}, not for {:?}", facts.common_name, self.common_name));
        }
        let missing: Vec<&str> = self.dns_names.difference(&facts.dns_names).map(String::as_str).collect();
        if !missing.is_empty() {
            return Some(format!("it lacks the names {}", missing.join(", ")));
        }
        let missing: Vec<String> =
            self.ip_addresses.difference(&facts.ip_addresses).map(ToString::to_string).collect();
        if !missing.is_empty() {
            return Some(format!("it lacks the addresses {}", missing.join(", ")));
        }
        let missing: Vec<&str> = self
            .organizations
            .iter()
            .filter(|wanted| !facts.organizations.contains(*wanted))
            .map(String::as_str)
            .collect();
        (!missing.is_empty()).then(|| format!("it lacks the organizations {}", missing.join(", ")))
    }
}

/// What the key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificatePurpose {
    /// To authenticate to the API server.
    Client,
    /// To serve the agent's own HTTPS API.
    Serving,
}

impl CertificatePurpose {
    /// Name of the signer.
    pub fn signer_name(self) -> &'static str {
        match self {
            Self::Client => CLIENT_SIGNER,
            Self::Serving => SERVING_SIGNER,
        }
    }

    /// Prefix of the file names under `--cert-dir`.
    pub fn file_prefix(self) -> &'static str {
        match self {
            Self::Client => "kubelet-client",
            Self::Serving => "kubelet-server",
        }
    }

    /// The usages to ask for, in upstream's order for rotation (`DefaultKubeletClientGetUsages`,
    /// `DefaultKubeletServingGetUsages`): an RSA key may also encipher keys.
    pub fn usages(self, rsa: bool) -> Vec<&'static str> {
        let role = match self {
            Self::Client => "client auth",
            Self::Serving => "server auth",
        };
        if rsa {
            vec!["digital signature", "key encipherment", role]
        } else {
            vec!["digital signature", role]
        }
    }
}

/// Why a certificate is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RenewalReason {
    /// There is none.
    Missing,
    /// There is one whose time is over.
    Expired,
    /// There is one that was only lent for the start, such as an administrator's on a control plane node.
    Borrowed,
    /// There is one that does not say what it should; the words say what.
    Differs(String),
    /// Most of the life is over.
    Due,
}

/// Whose identity a request is sent with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestIdentity {
    /// The certificate in use.
    Current,
    /// The credential of `--bootstrap-kubeconfig`.
    Bootstrap,
}

/// What to do about a certificate now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RotationStep {
    /// Nothing before this moment.
    Wait {
        /// When to ask for the next certificate.
        until: Timestamp,
    },
    /// Ask for a certificate.
    Request {
        /// Why.
        reason: RenewalReason,
        /// As whom.
        identity: RequestIdentity,
    },
}

/// What to do about the certificate in use.
///
/// `borrowed` says that the certificate is not the node's own; `can_bootstrap` that there is a bootstrap
/// credential. An expired or missing certificate can only be replaced with the bootstrap credential; without
/// one the current identity is tried all the same, because a kubeconfig may also hold a token.
pub fn next_rotation_step(
    current: Option<&CertificateFacts>,
    wanted: &WantedCertificate,
    borrowed: bool,
    can_bootstrap: bool,
    jitter: f64,
    now: Timestamp,
) -> RotationStep {
    let fallback = if can_bootstrap { RequestIdentity::Bootstrap } else { RequestIdentity::Current };
    let Some(facts) = current else {
        return RotationStep::Request { reason: RenewalReason::Missing, identity: fallback };
    };
    if facts.validity.is_expired(now) {
        return RotationStep::Request { reason: RenewalReason::Expired, identity: fallback };
    }
    let request = |reason| RotationStep::Request { reason, identity: RequestIdentity::Current };
    if borrowed {
        return request(RenewalReason::Borrowed);
    }
    if let Some(what) = wanted.missing_in(facts) {
        return request(RenewalReason::Differs(what));
    }
    let until = facts.validity.rotation_deadline(jitter);
    if until <= now { request(RenewalReason::Due) } else { RotationStep::Wait { until } }
}

/// How long to sleep before the wall clock is looked at again: no longer than to `until`, ten minutes, or a
/// hundredth of the life, whichever is shortest, and at least a second.
pub fn sleep_slice(until: Timestamp, lifetime: Duration, now: Timestamp) -> Duration {
    let left: Duration = until.duration_since(now).try_into().unwrap_or_default();
    left.min(lifetime / SLICES_A_LIFE).min(LONGEST_SLICE).max(Duration::from_secs(1))
}

/// How long to wait after `failures` failed attempts in a row (at least one), by `jitter` in `0.0..=1.0`.
pub fn retry_delay(failures: u32, jitter: f64) -> Duration {
    let doubled = RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(RETRY_MAX);
    let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
    doubled.mul_f64(1.0 + RETRY_JITTER * jitter)
}

/// A number in `0.0..1.0` that differs between nodes and between turns, and is the same for the same two:
/// nodes that joined together do not renew together, and a restart changes no deadline.
pub fn jitter_fraction(name: &str, turn: u64) -> f64 {
    // FNV-1a, then the finisher of MurmurHash3, because FNV alone spreads its last bytes badly.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.bytes().chain(turn.to_be_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^= hash >> 33;
    // 53 bits fit a double exactly.
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

/// What an existing kubeconfig offers as client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExistingIdentity {
    /// The file does not exist.
    NoKubeconfig,
    /// The file or what it refers to cannot be used; the words say why.
    Unusable(String),
    /// It names no client certificate.
    NoCertificate,
    /// It has a certificate: the end of every certificate in the chain.
    Certificate {
        /// `notAfter` of each.
        not_after: Vec<Timestamp>,
    },
}

/// Why a first certificate has to be asked for with the bootstrap credential, as words for a log line;
/// nothing when the kubeconfig will do (upstream `isClientConfigStillValid`: every certificate of the chain
/// has to be valid, and a kubeconfig without client certificate counts as none).
pub fn bootstrap_reason(existing: &ExistingIdentity, now: Timestamp) -> Option<String> {
    match existing {
        ExistingIdentity::NoKubeconfig => Some("there is no kubeconfig yet".to_owned()),
        ExistingIdentity::Unusable(why) => Some(format!("the kubeconfig cannot be used: {why}")),
        ExistingIdentity::NoCertificate => Some("the kubeconfig has no client certificate".to_owned()),
        ExistingIdentity::Certificate { not_after } if not_after.is_empty() => {
            Some("the kubeconfig has no client certificate".to_owned())
        }
        ExistingIdentity::Certificate { not_after } => not_after
            .iter()
            .find(|end| now > **end)
            .map(|end| format!("the client certificate of the kubeconfig expired at {end}")),
    }
}

/// What a CertificateSigningRequest has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CsrVerdict {
    /// Nobody has decided yet.
    Pending,
    /// Approved; the signer has not signed yet.
    Approved,
    /// Signed: the certificates in PEM.
    Issued(Vec<u8>),
    /// Refused for good.
    Denied {
        /// Reason of the condition.
        reason: String,
        /// Message of the condition.
        message: String,
    },
    /// Approved, but the signer could not sign.
    Failed {
        /// Reason of the condition.
        reason: String,
        /// Message of the condition.
        message: String,
    },
}

/// Reads the status of a request. A refusal or failure wins over an approval, and a certificate without
/// approval does not count (upstream `WaitForCertificate`).
pub fn judge_csr(csr: &CertificateSigningRequest) -> CsrVerdict {
    let Some(status) = &csr.status else { return CsrVerdict::Pending };
    let mut approved = false;
    for condition in status.conditions.iter().flatten() {
        let reason = || condition.reason.clone().unwrap_or_default();
        let message = || condition.message.clone().unwrap_or_default();
        match condition.type_.as_str() {
            "Denied" => return CsrVerdict::Denied { reason: reason(), message: message() },
            "Failed" => return CsrVerdict::Failed { reason: reason(), message: message() },
            "Approved" => approved = true,
            _ => {}
        }
    }
    match &status.certificate {
        Some(pem) if approved && !pem.0.is_empty() => CsrVerdict::Issued(pem.0.clone()),
        _ if approved => CsrVerdict::Approved,
        _ => CsrVerdict::Pending,
    }
}

#[cfg(test)]
mod tests;
