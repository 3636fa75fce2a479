//! Who may use an image that is there (upstream `pkg/kubelet/images/pullmanager`, gate KubeletEnsureSecretPulledImages).
//!
//! Owns the records of what was pulled with which credentials, in upstream's format, and the decision whether a pod may
//! use an image that is present or has to show at the registry that it may. Touches no file: the shell's `pulled_images`
//! keeps them. A record that cannot be read counts as one without credentials: who asks has to show theirs.

mod access;
mod allowed;
mod record;

pub use self::access::{Access, Checked, Known, PodCredentials, check, check_credentials};
pub use self::allowed::{AllowList, PatternError, VerificationPolicy};
pub use self::record::{
    ImagePullIntent, ImagePulledRecord, PullSecret, PullServiceAccount, PulledWith, RecordError, file_name,
    is_record_file, untagged,
};

#[cfg(test)]
mod tests;
