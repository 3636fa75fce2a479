//! What the configuration becomes. The task itself is tested where there is memory to run out of: in the node tests.

use std::time::Duration;

use rubelet_config::KubeletConfiguration;

use super::*;

fn config(edit: impl FnOnce(&mut KubeletConfiguration)) -> EvictionConfig {
    let mut config = KubeletConfiguration::default();
    edit(&mut config);
    eviction_config(&config)
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn fields_become_thresholds() {
    let made = config(|config| {
        config.eviction_hard = map(&[("memory.available", "100Mi")]);
        config.eviction_soft = map(&[("memory.available", "1Gi"), ("pid.available", "10%")]);
        config.eviction_soft_grace_period =
            map(&[("memory.available", "1m30s"), ("pid.available", "nonsense")]);
        config.eviction_max_pod_grace_period = -5;
    });
    let told: Vec<_> = made.thresholds.iter().map(|t| (t.signal.name(), t.grace.as_secs())).collect();
    assert_eq!(
        told,
        [("memory.available", 0), ("allocatableMemory.available", 0), ("memory.available", 90)],
        "a soft threshold without a grace that can be read is none"
    );
    assert_eq!((made.max_pod_grace, made.transition_period), (0, Duration::from_secs(300)));
    assert!(made.local_storage);
    let made = config(|config| {
        config.eviction_hard = map(&[("memory.available", "100Mi")]);
        config.enforce_node_allocatable = vec!["none".into()];
    });
    assert_eq!(made.thresholds.len(), 1, "the group of all pods has no limit");
}
