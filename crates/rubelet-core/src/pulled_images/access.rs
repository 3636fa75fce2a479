//! Whether a pod may use an image that is there (upstream `MustAttemptImagePull`).

use super::allowed::VerificationPolicy;
use super::record::{ImagePulledRecord, PullSecret, PullServiceAccount, PulledWith, untagged};

/// Secrets that are remembered of one image beyond those it was pulled with: a namespace that comes and goes would
/// otherwise have a record grow without end.
const LEARN_UP_TO: usize = 100;

/// What is known of how an image came here.
#[derive(Clone, Copy, Debug)]
pub enum Known<'a> {
    /// Nothing: it was there before, or something else brought it.
    Nothing,
    /// The agent began to pull it and does not know how that went, or the record of it cannot be read.
    Intent,
    /// The agent pulled it.
    Record(&'a ImagePulledRecord),
}

/// What came of the check: the label `result` of `imagemanager_image_mustpull_checks_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The policy asks for no check.
    CredentialPolicyAllowed,
    /// The pod shows what the image was pulled with.
    CredentialRecordFound,
    /// The pod has to show at the registry that it may.
    MustAuthenticate,
    /// It could not be found out; the pod has to show that it may.
    Error,
}

impl Checked {
    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::CredentialPolicyAllowed => "credentialPolicyAllowed",
            Self::CredentialRecordFound => "credentialRecordFound",
            Self::MustAuthenticate => "mustAuthenticate",
            Self::Error => "error",
        }
    }

    /// Whether the pod may use what is there.
    pub fn may_use(self) -> bool {
        matches!(self, Self::CredentialPolicyAllowed | Self::CredentialRecordFound)
    }
}

/// How far the check comes without the pod's credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access<'a> {
    /// It is done.
    Decided(Checked),
    /// The pod's credentials are to be compared with these.
    Compare(&'a PulledWith),
}

/// What a pod could show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodCredentials {
    /// From its pull secrets.
    pub secrets: Vec<PullSecret>,
    /// The account whose token a plugin used for it.
    pub service_account: Option<PullServiceAccount>,
}

/// Checks as far as that goes without the pod's credentials: looking those up can take a plugin to run.
pub fn check<'a>(policy: &VerificationPolicy, image: &str, known: Known<'a>) -> Access<'a> {
    if !policy.requires(image, !matches!(known, Known::Nothing)) {
        return Access::Decided(Checked::CredentialPolicyAllowed);
    }
    let Known::Record(record) = known else { return Access::Decided(Checked::MustAuthenticate) };
    let Ok(name) = untagged(image) else { return Access::Decided(Checked::Error) };
    match record.credential_mapping.get(name) {
        Some(with) if with.node_pods_accessible => Access::Decided(Checked::CredentialRecordFound),
        Some(with) if !with.kubernetes_secrets.is_empty() || !with.kubernetes_service_accounts.is_empty() => {
            Access::Compare(with)
        }
        _ => Access::Decided(Checked::MustAuthenticate),
    }
}

/// Compares. With the result comes a secret that is to be remembered from now on: one that holds the same credentials,
/// or the same one with others.
pub fn check_credentials(with: &PulledWith, pod: &PodCredentials) -> (Checked, Option<PullSecret>) {
    let room = with.kubernetes_secrets.len() < LEARN_UP_TO;
    for secret in &pod.secrets {
        for known in &with.kubernetes_secrets {
            let same_hash =
                !known.credential_hash.is_empty() && known.credential_hash == secret.credential_hash;
            let same_secret = known.is_same_secret(secret);
            if same_hash {
                return (Checked::CredentialRecordFound, (!same_secret && room).then(|| secret.clone()));
            }
            if same_secret && room {
                return (Checked::CredentialRecordFound, Some(secret.clone()));
            }
        }
    }
    let accounts = &with.kubernetes_service_accounts;
    if pod.service_account.as_ref().is_some_and(|account| accounts.contains(account)) {
        return (Checked::CredentialRecordFound, None);
    }
    (Checked::MustAuthenticate, None)
}
