//! How a driver is told who may use a volume (CSI `VolumeCapability.AccessMode`).

/// An access mode of CSI, by its number in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CsiAccessMode {
    /// One that Kubernetes does not know.
    Unknown = 0,
    /// One node writes.
    SingleNodeWriter = 1,
    /// Many nodes read.
    MultiNodeReaderOnly = 3,
    /// Many nodes write.
    MultiNodeMultiWriter = 5,
    /// One pod writes.
    SingleNodeSingleWriter = 6,
    /// Pods of one node write.
    SingleNodeMultiWriter = 7,
}

/// The access mode of a volume's calls: of its first `accessModes`, and `ReadWriteOnce` when it has none, as inline
/// volumes have. `single_node_multi_writer`: the driver tells one writer from many on a node.
pub fn csi_access_mode(access_modes: &[String], single_node_multi_writer: bool) -> CsiAccessMode {
    match (access_modes.first().map(String::as_str), single_node_multi_writer) {
        (None | Some("ReadWriteOnce"), true) => CsiAccessMode::SingleNodeMultiWriter,
        (Some("ReadWriteOncePod"), true) => CsiAccessMode::SingleNodeSingleWriter,
        (None | Some("ReadWriteOnce" | "ReadWriteOncePod"), false) => CsiAccessMode::SingleNodeWriter,
        (Some("ReadOnlyMany"), _) => CsiAccessMode::MultiNodeReaderOnly,
        (Some("ReadWriteMany"), _) => CsiAccessMode::MultiNodeMultiWriter,
        (Some(_), _) => CsiAccessMode::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_mode_is_told_as_the_driver_understands_it() {
        use CsiAccessMode::*;
        let rows: [(&[&str], _, _); 7] = [
            (&[], SingleNodeWriter, SingleNodeMultiWriter),
            (&["ReadWriteOnce"], SingleNodeWriter, SingleNodeMultiWriter),
            (&["ReadWriteOncePod"], SingleNodeWriter, SingleNodeSingleWriter),
            (&["ReadOnlyMany"], MultiNodeReaderOnly, MultiNodeReaderOnly),
            (&["ReadWriteMany"], MultiNodeMultiWriter, MultiNodeMultiWriter),
            (&["ReadOnlyMany", "ReadWriteOnce"], MultiNodeReaderOnly, MultiNodeReaderOnly),
            (&["Sometimes"], Unknown, Unknown),
        ];
        for (modes, without, with) in rows {
            let modes: Vec<String> = modes.iter().map(|mode| (*mode).to_owned()).collect();
            assert_eq!(
                (csi_access_mode(&modes, false), csi_access_mode(&modes, true)),
                (without, with),
                "{modes:?}"
            );
        }
    }
}
