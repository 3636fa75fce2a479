//! The records on disk: `ImagePullIntent` before a pull, `ImagePulledRecord` after it (kubelet.config.k8s.io/v1beta1;
//! v1alpha1, which says the same, is read).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::image::{ImageNameError, parse_image_name};

const GROUP: &str = "kubelet.config.k8s.io";
const WRITTEN: &str = "kubelet.config.k8s.io/v1beta1";
/// Begins the names of record files.
const PREFIX: &str = "sha256-";

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is no JSON, or not of this shape. What it says is not repeated: it is no secret, but long.
    #[error("not a record")]
    Json(#[source] serde_json::Error),
    /// It is something else.
    #[error("a {kind:?} of {version:?} where a record was expected")]
    Kind {
        /// `kind`.
        kind: String,
        /// `apiVersion`.
        version: String,
    },
}

/// The name of the file about an image: of an intent by the image's name, of a pulled record by its reference.
pub fn file_name(image: &str) -> String {
    format!("{PREFIX}{:x}", Sha256::digest(image))
}

/// Whether a file of this name is a whole record.
pub fn is_record_file(name: &str) -> bool {
    name.starts_with(PREFIX) && !name.ends_with(".tmp")
}

/// An image's name as written, without tag and digest: what credentials are kept by.
///
/// # Errors
/// When it is no image name.
pub fn untagged(image: &str) -> Result<&str, ImageNameError> {
    let name = parse_image_name(image)?;
    let without = |text: &'_ str, mark: char, end: Option<&str>| -> usize {
        let end = end.and_then(|end| text.strip_suffix(end)).and_then(|rest| rest.strip_suffix(mark));
        end.map_or(text.len(), str::len)
    };
    let rest = &image[..without(image, '@', name.digest.as_deref())];
    Ok(&rest[..without(rest, ':', name.tag.as_deref())])
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct TypeMeta {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
}

impl TypeMeta {
    fn written(kind: &str) -> Self {
        Self { kind: kind.to_owned(), api_version: WRITTEN.to_owned() }
    }

    fn expect(self, kind: &str) -> Result<(), RecordError> {
        let of_group = self.api_version.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix('/'));
        if self.kind == kind && matches!(of_group, Some("v1beta1" | "v1alpha1")) {
            Ok(())
        } else {
            Err(RecordError::Kind { kind: self.kind, version: self.api_version })
        }
    }
}

#[derive(Deserialize, Serialize)]
struct File<T> {
    #[serde(flatten)]
    meta: TypeMeta,
    #[serde(flatten)]
    record: T,
}

fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8], kind: &str) -> Result<T, RecordError> {
    let file: File<T> = serde_json::from_slice(bytes).map_err(RecordError::Json)?;
    file.meta.expect(kind)?;
    Ok(file.record)
}

fn encode<T: Serialize>(record: &T, kind: &str) -> Result<Vec<u8>, RecordError> {
    let file = File { meta: TypeMeta::written(kind), record };
    let mut bytes = serde_json::to_vec(&file).map_err(RecordError::Json)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A pull that was begun. While it is there, the image counts as pulled by the agent, by nobody known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ImagePullIntent {
    /// The image, as asked for.
    #[serde(default)]
    pub image: String,
}

impl ImagePullIntent {
    const KIND: &str = "ImagePullIntent";

    /// Reads a file.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        decode(bytes, Self::KIND)
    }

    /// The content of its file.
    ///
    /// # Errors
    /// Never in practice.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        encode(self, Self::KIND)
    }
}

/// An image that the agent pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImagePulledRecord {
    /// When it was last changed.
    #[serde(default)]
    pub last_updated_time: Option<Timestamp>,
    /// The image, as the runtime calls it.
    #[serde(default)]
    pub image_ref: String,
    /// With what it was pulled, by the name it was asked for by, without tag and digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credential_mapping: BTreeMap<String, PulledWith>,
}

/// Credentials that an image was pulled with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PulledWith {
    /// Those of pull secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kubernetes_secrets: Vec<PullSecret>,
    /// Service accounts whose tokens were shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kubernetes_service_accounts: Vec<PullServiceAccount>,
    /// Every pod of the node may use it: it was pulled without credentials, or with the node's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub node_pods_accessible: bool,
}

/// Credentials in a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PullSecret {
    /// UID of the secret.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Hash of the credentials in it; empty when there is none.
    pub credential_hash: String,
}

impl PullSecret {
    /// Whether both are of one secret, whatever it holds.
    pub(super) fn is_same_secret(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

/// A service account.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(default)]
pub struct PullServiceAccount {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl PulledWith {
    /// Credentials of the node, or none.
    pub fn node() -> Self {
        Self { node_pods_accessible: true, ..Self::default() }
    }

    fn says_nothing(&self) -> bool {
        !self.node_pods_accessible
            && self.kubernetes_secrets.is_empty()
            && self.kubernetes_service_accounts.is_empty()
    }

    /// Adds what is new in the other; says whether anything is.
    fn merge(&mut self, new: &Self) -> bool {
        if self.node_pods_accessible {
            return false;
        }
        if new.node_pods_accessible {
            *self = Self::node();
            return true;
        }
        let before = self.clone();
        for secret in &new.kubernetes_secrets {
            self.kubernetes_secrets.retain(|known| !known.is_same_secret(secret));
            self.kubernetes_secrets.push(secret.clone());
        }
        let place = |s: &PullSecret| (s.namespace.clone(), s.name.clone(), s.uid.clone());
        self.kubernetes_secrets.sort_by_key(place);
        for account in &new.kubernetes_service_accounts {
            if !self.kubernetes_service_accounts.contains(account) {
                self.kubernetes_service_accounts.push(account.clone());
            }
        }
        let place = |a: &PullServiceAccount| (a.namespace.clone(), a.name.clone(), a.uid.clone());
        self.kubernetes_service_accounts.sort_by_key(place);
        *self != before
    }
}

impl ImagePulledRecord {
    const KIND: &str = "ImagePulledRecord";

    /// A record that names no credentials: whoever wants the image has to show theirs.
    pub fn without_credentials(image_ref: &str, now: Timestamp) -> Self {
        Self {
            last_updated_time: Some(whole_second(now)),
            image_ref: image_ref.to_owned(),
            credential_mapping: BTreeMap::new(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        decode(bytes, Self::KIND)
    }

    /// The content of its file.
    ///
    /// # Errors
    /// Never in practice.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        encode(self, Self::KIND)
    }

    /// It was pulled by this name (without tag and digest) with these credentials; says whether that is news.
    pub fn add(&mut self, untagged: &str, with: &PulledWith, now: Timestamp) -> bool {
        if with.says_nothing() {
            return false;
        }
        let changed = match self.credential_mapping.get_mut(untagged) {
            Some(known) => known.merge(with),
            None => {
                self.credential_mapping.insert(untagged.to_owned(), with.clone());
                true
            }
        };
        if changed {
            self.last_updated_time = Some(whole_second(now));
        }
        changed
    }
}

/// Times of the API have no fractions.
fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
