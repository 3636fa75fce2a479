//! The user a client certificate names (upstream `CommonNameUserConversion`): common name, organizations, and the UID of
//! the Cloud Native Computing Foundation's own attribute.
//!
//! Pure; whether the certificate is good was judged before.

use std::collections::BTreeMap;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

use super::UserInfo;

/// The attribute of a subject that is the user's UID.
const UID: &str = "1.3.6.1.4.1.57683.2";
const COMMON_NAME: &str = "2.5.4.3";
const ORGANIZATION: &str = "2.5.4.10";
/// Where the API keeps which credential a user came with.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// The user; `None` when the certificate names nobody.
pub(super) fn user(leaf: &CertificateDer<'_>) -> Result<Option<UserInfo>, String> {
    let (_, parsed) = X509Certificate::from_der(leaf)
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let (mut name, mut groups, mut uids) = (String::new(), Vec::new(), Vec::new());
    for attribute in parsed.subject().iter_attributes() {
        let text = text(attribute);
        match (attribute.attr_type().to_id_string().as_str(), text) {
            // The last one counts, as in Go.
            (COMMON_NAME, Some(text)) => name = text,
            (ORGANIZATION, Some(text)) => groups.push(text),
            (UID, Some(text)) => uids.push(text),
            (UID, None) => return Err("unable to parse UID into a string".to_owned()),
            _ => {}
        }
    }
    if name.is_empty() {
        return Ok(None);
    }
    let uid = match uids.as_slice() {
        [] => String::new(),
        [uid] if uid.is_empty() => return Err("UID cannot be an empty string".to_owned()),
        [uid] => uid.clone(),
        many => return Err(format!("expected 1 UID, but found multiple: [{}]", many.join(" "))),
    };
    let digest = ring::digest::digest(&ring::digest::SHA256, leaf);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let extra = BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={hex}")])]);
    Ok(Some(UserInfo { name, uid, groups, extra }))
}

fn text(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    attribute.as_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn certificate(subject: &[(DnType, &str)]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, text) in subject {
            params.distinguished_name.push(kind.clone(), *text);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn uid() -> DnType {
        DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2])
    }

    #[test]
    fn a_certificate_names_its_user() {
        let leaf = certificate(&[
            (DnType::OrganizationName, "system:masters"),
            (DnType::CommonName, "kube-apiserver-kubelet-client"),
            (uid(), "17"),
        ]);
        let user = user(&leaf).unwrap().unwrap();
        assert_eq!(user.name, "kube-apiserver-kubelet-client");
        assert_eq!(user.groups, ["system:masters"]);
        assert_eq!(user.uid, "17");
        let id = &user.extra[CREDENTIAL_ID][0];
        assert!(id.strip_prefix("X509SHA256=").is_some_and(|hex| hex.len() == 64), "{id}");
    }

    #[test]
    fn a_certificate_without_a_name_is_nobodys() {
        assert_eq!(user(&certificate(&[(DnType::OrganizationName, "system:masters")])), Ok(None));
        assert_eq!(user(&certificate(&[(DnType::CommonName, "")])), Ok(None));
        let empty = certificate(&[(DnType::CommonName, "x"), (uid(), "")]);
        assert_eq!(user(&empty), Err("UID cannot be an empty string".to_owned()));
        assert!(user(&CertificateDer::from(vec![1, 2, 3])).is_err());
    }
}
