//! What to tell a person about an error of the API client: what is wrong, and what to do. A pure function of the
//! error, the kubeconfig and the time; `IdentityHandle::explain` gathers these.

use std::error::Error;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError};

use super::error::{ConnectFailure, TransportError};
use crate::credentials::{CredentialError, chain};
use crate::identity::ClientIdentity;
use crate::kubeconfig::ClusterAccess;

/// What an explanation needs to know beside the error.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The local time.
    pub now: Timestamp,
    /// The client certificate in use.
    pub identity: Option<&'a ClientIdentity>,
    /// Where it comes from: a file's path.
    pub certificate: Option<String>,
}

/// Says in plain words what the error means and what to do about it.
pub fn explain(error: &kube::Error, access: &ClusterAccess, facts: &Facts<'_>) -> String {
    match error {
        kube::Error::Api(status) => answer(status.code, &status.message, access, facts),
        kube::Error::SerdeError(source) => {
            format!(
                "the answer of {} is not what was asked for: {source}; is this a Kubernetes API server?",
                access.server_url()
            )
        }
        other => {
            let server = access.server_url();
            transport(other, access, facts)
                .unwrap_or_else(|| format!("request to {server} failed: {}", chain(other)))
        }
    }
}

fn answer(code: u16, message: &str, access: &ClusterAccess, facts: &Facts<'_>) -> String {
    let server = access.server_url();
    match code {
        401 => unauthorized(access, facts),
        403 => {
            let who = facts.identity.map_or_else(String::new, |identity| {
                format!(" This agent comes as {:?} of {:?}.", identity.common_name, identity.organizations)
            });
            format!(
                "{server} knows who this is but does not allow it (403 Forbidden): {message}.{who} \
                 A node must come as system:node:<name> in the group system:nodes, where <name> is the name it registers with \
                 (see --hostname-override)"
            )
        }
        429 | 503 => format!("{server} has no time now ({code}): {message}; it will be asked again"),
        _ => format!("{server} answers {code}: {message}"),
    }
}

/// What a 401 means.
pub(super) fn unauthorized(access: &ClusterAccess, facts: &Facts<'_>) -> String {
    let server = access.server_url();
    format!("{server} does not know who this is (401 Unauthorized): {}", unknown_identity(access, facts))
}

fn unknown_identity(access: &ClusterAccess, facts: &Facts<'_>) -> String {
    let kubeconfig = access.kubeconfig.display();
    let Some(identity) = facts.identity else {
        let credentials = &access.credentials;
        if let Some(file) = &credentials.token_file {
            return format!("it does not accept the token in {}; it may have expired", file.display());
        }
        if credentials.token.is_some() {
            return format!("it does not accept the token in {kubeconfig}; it may have expired");
        }
        if credentials.exec.is_some() {
            return format!("it does not accept what the exec plugin in {kubeconfig} tells");
        }
        return format!(
            "{kubeconfig} has no credentials that count; give its user a client certificate or a token"
        );
    };
    own_certificate(identity, access, facts).unwrap_or_else(|| {
        format!(
            "it does not accept the client certificate {:?} from {}, which is valid until {}; it was probably signed by \
             another cluster's authority. Remove it and join the node again",
            identity.common_name,
            origin(access, facts),
            identity.not_after
        )
    })
}

/// What is wrong with our certificate's time, if anything is.
fn own_certificate(identity: &ClientIdentity, access: &ClusterAccess, facts: &Facts<'_>) -> Option<String> {
    let (now, origin) = (facts.now, origin(access, facts));
    if now > identity.not_after {
        return Some(format!(
            "the agent's own client certificate from {origin} expired at {}; it is {now} here. Renew it, by a \
             bootstrap kubeconfig for instance, or set the clock right",
            identity.not_after
        ));
    }
    (now < identity.not_before).then(|| {
        format!(
            "the agent's own client certificate from {origin} is not valid before {}, but it is {now} here; set the \
             clock right",
            identity.not_before
        )
    })
}

fn origin(access: &ClusterAccess, facts: &Facts<'_>) -> String {
    facts.certificate.clone().unwrap_or_else(|| access.kubeconfig.display().to_string())
}

/// Whether TLS is the reason.
pub(super) fn is_tls(error: &(dyn Error + 'static)) -> bool {
    links(error).iter().any(|link| find_tls(*link).is_some())
}

/// What is wrong below HTTP, if that is where it is.
pub(super) fn transport(
    error: &(dyn Error + 'static),
    access: &ClusterAccess,
    facts: &Facts<'_>,
) -> Option<String> {
    let server = access.server_url();
    let links = links(error);
    if let Some(tls) = links.iter().find_map(|link| find_tls(*link)) {
        return Some(explain_tls(&tls, access, facts));
    }
    for link in links {
        if let Some(error) = link.downcast_ref::<CredentialError>() {
            return Some(format!("there are no credentials for {server}: {}", chain(error)));
        }
        let text = match link.downcast_ref::<TransportError>() {
            Some(TransportError::Deadline { after, .. }) => Some(format!(
                "{server} gave no answer within {} s; it may be overloaded, or the network loses packets",
                after.as_secs_f32()
            )),
            Some(TransportError::Lost { .. } | TransportError::Body(_)) => Some(format!(
                "the connection to {server} broke off ({}); it will be made again",
                chain(error)
            )),
            _ => None,
        };
        if text.is_some() {
            return text;
        }
        if let Some(failure) = link.downcast_ref::<ConnectFailure>() {
            return Some(unreachable(failure, access));
        }
    }
    None
}

fn unreachable(failure: &ConnectFailure, access: &ClusterAccess) -> String {
    let (server, kubeconfig) = (access.server_url(), access.kubeconfig.display());
    match failure {
        ConnectFailure::Dns { host, source } => format!(
            "the API server's name {host} cannot be resolved ({source}); check server in {kubeconfig} and this \
             machine's DNS"
        ),
        ConnectFailure::Tcp { address, source } => match source.kind() {
            std::io::ErrorKind::ConnectionRefused => format!(
                "{address} refuses connections; the API server is not running there, or server in {kubeconfig} has \
                 the wrong port"
            ),
            std::io::ErrorKind::TimedOut => {
                format!("{address} does not answer; check the route, firewalls and server in {kubeconfig}")
            }
            _ => format!(
                "{address} cannot be reached ({source}); check the network and server in {kubeconfig}"
            ),
        },
        ConnectFailure::TimedOut { address, after } => format!(
            "{address} does not answer within {} s; check the route, firewalls and server in {kubeconfig}",
            after.as_secs_f32()
        ),
        ConnectFailure::Tls { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            format!(
                "{server} ends the connection during the TLS handshake; is there a TLS server on that port?"
            )
        }
        other => format!("{server} cannot be reached: {}", chain(other)),
    }
}

/// TLS's own error may sit in an I/O error, which does not show it as its source.
fn find_tls(link: &(dyn Error + 'static)) -> Option<rustls::Error> {
    if let Some(error) = link.downcast_ref::<rustls::Error>() {
        return Some(error.clone());
    }
    if let Some(TransportError::Lost { io: Some(io), .. }) = link.downcast_ref::<TransportError>() {
        return io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
    }
    let io = link.downcast_ref::<std::io::Error>()?;
    io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned()
}

fn explain_tls(error: &rustls::Error, access: &ClusterAccess, facts: &Facts<'_>) -> String {
    let (server, now) = (access.server_url(), facts.now);
    match error {
        rustls::Error::InvalidCertificate(problem) => server_certificate(problem, access, now),
        rustls::Error::AlertReceived(alert) => {
            let own = facts.identity.and_then(|identity| own_certificate(identity, access, facts));
            match (own, alert) {
                (Some(own), _) => format!("{server} refuses the connection: {own}"),
                (None, AlertDescription::CertificateExpired) => format!(
                    "{server} says that the client certificate from {} has expired, which it has not by this \
                     machine's clock ({now}); compare the clocks",
                    origin(access, facts)
                ),
                (None, AlertDescription::CertificateRequired) => {
                    format!(
                        "{server} wants a client certificate, and {} has none",
                        access.kubeconfig.display()
                    )
                }
                (None, AlertDescription::UnknownCA | AlertDescription::BadCertificate) => format!(
                    "{server} does not accept the client certificate from {}: it is signed by an authority that the \
                     server does not know; join the node again",
                    origin(access, facts)
                ),
                (None, other) => format!("{server} refuses the TLS connection: {other:?}"),
            }
        }
        rustls::Error::InvalidMessage(_) => {
            format!(
                "{server} does not speak TLS; is this the right port, or should the URL begin with http://?"
            )
        }
        rustls::Error::PeerIncompatible(problem) => {
            format!(
                "{server} speaks no TLS version or cipher that the agent takes (TLS 1.2 and 1.3): {problem:?}"
            )
        }
        other => format!("TLS with {server} failed: {other}"),
    }
}

fn server_certificate(problem: &CertificateError, access: &ClusterAccess, now: Timestamp) -> String {
    let server = access.server_url();
    match problem {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "the certificate of {server} is signed by another authority than those in {}; this is not the API server \
             the kubeconfig was made for, or its authority was replaced. Get the kubeconfig or the CA file anew",
            access.describe_ca()
        ),
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "the certificate of {server} expired at {}; it is {now} here. Renew it on the control plane, or set this \
             machine's clock right",
            moment(*not_after)
        ),
        CertificateError::Expired => format!(
            "the certificate of {server} has expired; it is {now} here. Renew it on the control plane, or set this \
             machine's clock right"
        ),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "the certificate of {server} is not valid before {}, but it is {now} here; this machine's clock is \
             probably slow, set it right",
            moment(*not_before)
        ),
        CertificateError::NotValidYet => format!(
            "the certificate of {server} is not valid yet; it is {now} here, so this machine's clock is probably slow"
        ),
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "the certificate of {server} is not for {}, but for {}; use one of these names in the kubeconfig's server, \
             or set tls-server-name, or add the name to the API server's certificate",
            expected.to_str(),
            if presented.is_empty() { "no name at all".to_owned() } else { presented.join(", ") }
        ),
        other => format!("the certificate of {server} cannot be accepted: {other:?}"),
    }
}

fn moment(time: UnixTime) -> Timestamp {
    i64::try_from(time.as_secs()).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or(Timestamp::MAX)
}

/// The error and its sources, from the outside in. kube shows some of its sources only as fields.
fn links<'e>(error: &'e (dyn Error + 'static)) -> Vec<&'e (dyn Error + 'static)> {
    let mut links = Vec::new();
    let mut next = Some(error);
    while let Some(link) = next {
        links.push(link);
        next = match link.downcast_ref::<kube::Error>() {
            Some(kube::Error::Service(inner)) => {
                let inner: &(dyn Error + 'static) = inner.as_ref();
                Some(inner)
            }
            _ => match link.downcast_ref::<TransportError>() {
                Some(TransportError::Connect(failure)) => Some(failure.as_ref()),
                _ => link.source(),
            },
        };
    }
    links
}
