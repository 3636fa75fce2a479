//! The pod network of a private containerd.
//!
//! Owns the CNI configuration: a bridge of its own on a private subnet of its own, so that several containerds can run
//! at once. Never runs a plugin. Called when a private containerd is started and when it is torn down.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Where the CNI configuration of the containerd in `dir` is.
pub(crate) fn conf_dir(dir: &Path) -> PathBuf {
    dir.join("cni/conf")
}

/// The network's name, which CNI plugins put into the comments of their iptables rules.
pub(crate) fn name(tag: &str) -> String {
    format!("rubelet-{tag}")
}

/// A /24 for the tag out of 10.192.0.0/10, far from what Docker, kubeadm and home routers hand out.
fn subnet(tag: &str) -> String {
    let bits = u32::from_str_radix(tag, 16).unwrap_or_default();
    format!("10.{}.{}.0/24", 192 + (bits >> 16) % 64, (bits >> 8) & 0xff)
}

fn conflist(dir: &Path, tag: &str, bridge: &str) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": name(tag),
        "plugins": [
            {
                "type": "bridge",
                "bridge": bridge,
                "isGateway": true,
                "ipMasq": true,
                "promiscMode": false,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": dir.join("cni/addresses").display().to_string(),
                    "ranges": [[{"subnet": subnet(tag)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    })
}

/// Writes the configuration of the network and of the loopback interface.
pub(crate) fn write(dir: &Path, tag: &str, bridge: &str) -> Result<()> {
    let folder = conf_dir(dir);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::write(folder.join("10-rubelet.conflist"), format!("{:#}\n", conflist(dir, tag, bridge)))?;
    let loopback = json!({"cniVersion": "0.4.0", "name": "lo", "type": "loopback"});
    fs::write(folder.join("99-loopback.conf"), format!("{loopback:#}\n"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_stay_in_the_private_range_and_follow_the_tag() {
        assert_eq!(subnet("000000"), "10.192.0.0/24");
        assert_eq!(subnet("ffffff"), "10.255.255.0/24");
        assert_eq!(subnet("01a2b3"), "10.193.162.0/24");
    }

    #[test]
    fn the_network_keeps_its_addresses_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "01a2b3", "rblt01a2b3").unwrap();
        let text = fs::read_to_string(conf_dir(folder.path()).join("10-rubelet.conflist")).unwrap();
        let list: Value = serde_json::from_str(&text).unwrap();
        let kinds: Vec<&str> = list["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|plugin| plugin["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["bridge", "portmap"]);
        assert_eq!(list["name"], "rubelet-01a2b3");
        let data = list["plugins"][0]["ipam"]["dataDir"].as_str().unwrap();
        assert!(Path::new(data).starts_with(folder.path()));
    }
}
