//! Volumes of an NFS server: what is mounted, from the pod's spec or a PersistentVolume. Never mounts.

use k8s_openapi::api::core::v1::{NFSVolumeSource, Volume};
use serde::{Deserialize, Serialize};

/// A directory of an NFS server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NfsVolume {
    /// Host name or address.
    pub server: String,
    /// Absolute path on the server.
    pub path: String,
    /// It is only read, by the source or by the claim.
    pub read_only: bool,
    /// Mount options besides `ro`, each once, sorted (upstream `JoinMountOptions`).
    pub options: Vec<String>,
}

impl NfsVolume {
    /// What is mounted: `server:path`, an IPv6 address in brackets.
    pub fn device(&self) -> String {
        let bare = self.server.parse::<std::net::Ipv6Addr>().is_ok();
        if bare {
            format!("[{}]:{}", self.server, self.path)
        } else {
            format!("{}:{}", self.server, self.path)
        }
    }
}

/// The NFS volume of a pod's spec.
pub fn nfs(volume: &Volume) -> Option<NfsVolume> {
    volume.nfs.as_ref().map(|source| nfs_of(source, false, &[]))
}

/// The NFS volume of a source, `claimed_read_only` by its claim and with the options of its PersistentVolume.
pub fn nfs_of(source: &NFSVolumeSource, claimed_read_only: bool, options: &[&str]) -> NfsVolume {
    let mut options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    options.sort();
    options.dedup();
    NfsVolume {
        server: source.server.clone(),
        path: source.path.clone(),
        read_only: claimed_read_only || source.read_only == Some(true),
        options,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_and_its_path_are_one_word() {
        let check = |server: &str, device: &str| {
            let volume: Volume = serde_json::from_value(
                json!({"name": "v", "nfs": {"server": server, "path": "/a b", "readOnly": true}}),
            )
            .unwrap();
            let nfs = nfs(&volume).unwrap();
            assert_eq!((nfs.device().as_str(), nfs.read_only), (device, true));
        };
        check("nas.example", "nas.example:/a b");
        check("10.0.0.1", "10.0.0.1:/a b");
        check("fd00::1", "[fd00::1]:/a b");
        check("[fd00::1]", "[fd00::1]:/a b");
    }

    #[test]
    fn options_stand_once_and_sorted() {
        let source = NFSVolumeSource { server: "s".into(), path: "/".into(), read_only: None };
        let nfs = nfs_of(&source, true, &["vers=4", "hard", "vers=4"]);
        assert_eq!(nfs.options, ["hard", "vers=4"]);
        assert!(nfs.read_only);
        assert!(!nfs_of(&source, false, &[]).read_only);
    }
}
