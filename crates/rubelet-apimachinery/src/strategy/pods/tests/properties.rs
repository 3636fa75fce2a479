//! Whatever is sent, it is stored or refused; and what is stored is in its form already.

use proptest::prelude::*;

use super::*;
use crate::decode::conform;
use crate::schema::Type;
use crate::strategy::pods::{bind, evict};

/// Any JSON, with names that pods have.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..70000).prop_map(Value::from),
        "[a-z0-9:/.-]{0,6}".prop_map(Value::from),
        prop_oneof!["1Gi", "100m", "Always", "Exists", "app"].prop_map(Value::from),
    ];
    let name = prop_oneof![
        "name|image|containers|initContainers|ephemeralContainers|volumes|tolerations|affinity|resources",
        "limits|requests|cpu|memory|ports|hostPort|containerPort|env|value|valueFrom|status|spec|metadata",
        "labels|annotations|securityContext|schedulingGates|nodeName|conditions|containerStatuses|podIPs",
        "projected|sources|secret|items|path|key|operator|effect|state|terminated|exitCode|overhead|phase",
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..5).prop_map(|map| json!(map)),
        ]
    })
}

fn decoded(value: Value) -> Option<Value> {
    conform(Type::of("v1", "Pod")?, value).ok().map(|(value, _)| value)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn anything_is_survived(spec in any_json(), status in any_json(), metadata in any_json()) {
        let mut new = pod(json!({}));
        merge(&mut new["spec"], &spec);
        merge(&mut new["metadata"], &metadata);
        new["status"] = status;
        let old = stored(json!({"nodeName": "n1"}));
        for new in [Some(new.clone()), decoded(new)].into_iter().flatten() {
            let _ = create(new.clone());
            for subresource in ["", "status", "ephemeralcontainers", "resize"] {
                let mut changed = new.clone();
                let _ = with_change(subresource, &objects(), |change| super::super::update(change, &mut changed, &old));
            }
            let _ = with_change("binding", &objects(), |change| bind(change, &old, &new));
            let _ = with_change("eviction", &objects(), |change| evict(change, &old, &new));
        }
    }

    #[test]
    fn a_stored_pod_is_updated_with_itself(spec in any_json()) {
        let mut new = pod(json!({}));
        merge(&mut new["spec"], &spec);
        if let Some(new) = decoded(new)
            && let Ok((stored, _)) = create(new)
        {
            prop_assert_eq!(decoded(stored.clone()), Some(stored.clone()));
            let again = update("", &stored, &json!({}));
            prop_assert_eq!(again, Ok(stored));
        }
    }
}
