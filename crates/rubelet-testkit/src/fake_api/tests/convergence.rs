//! The promise of list and watch: whoever lists and then follows the events ends up with what a new list says.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::object;
use crate::fake_api::selector::Selector;
use crate::fake_api::{FakeApi, Options, meta, resources};

#[derive(Debug, Clone)]
enum Act {
    Create(u8, bool),
    Relabel(u8),
    Touch(u8, u8),
    Delete(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..4_u8, any::<bool>()).prop_map(|(name, selected)| Act::Create(name, selected)),
        (0..4_u8).prop_map(Act::Relabel),
        (0..4_u8, any::<u8>()).prop_map(|(name, value)| Act::Touch(name, value)),
        (0..4_u8).prop_map(Act::Delete),
    ]
}

fn carry_out(api: &FakeApi, act: &Act) {
    let name = |number: &u8| format!("m{number}");
    let exists = |name: &str| api.get::<ConfigMap>("default", name).is_some();
    let labels = |selected: bool| json!({"in": selected.to_string()});
    match act {
        Act::Create(number, selected) if !exists(&name(number)) => {
            let metadata = json!({"name": name(number), "namespace": "default", "labels": labels(*selected)});
            api.create::<ConfigMap>(&object(json!({"metadata": metadata})));
        }
        Act::Relabel(number) if exists(&name(number)) => {
            api.modify::<ConfigMap>("default", &name(number), |map| {
                let labels = map.metadata.labels.get_or_insert_default();
                let selected = labels.get("in").is_some_and(|value| value == "true");
                labels.insert("in".into(), (!selected).to_string());
            });
        }
        Act::Touch(number, value) if exists(&name(number)) => {
            api.modify::<ConfigMap>("default", &name(number), |map| {
                map.data = Some([("k".into(), value.to_string())].into());
            });
        }
        Act::Delete(number) => {
            api.delete::<ConfigMap>("default", &name(number));
        }
        _ => {}
    }
}

type View = BTreeMap<String, Value>;

fn list(api: &FakeApi, selector: &Selector) -> (u64, View) {
    let state = api.inner.state();
    let all = state.store.all(resources::named("configmaps")).filter(|(_, map)| selector.matches(map));
    let view = all.map(|(key, map)| (key.name.clone(), Value::clone(map))).collect();
    (state.store.version(), view)
}

proptest! {
    #[test]
    fn events_lead_from_any_list_to_the_last(acts in prop::collection::vec(act(), 1..40), limit in 1..50_usize) {
        let api = FakeApi::with(Options { log_limit: limit, ..Options::default() });
        let selector = Selector::parse(resources::named("configmaps"), "default", None, Some("in=true")).unwrap();
        let mut lists = Vec::new();
        for act in &acts {
            lists.push(list(&api, &selector));
            carry_out(&api, act);
        }
        let (_, last) = list(&api, &selector);
        let state = api.inner.state();
        for (version, mut view) in lists {
            if version < state.store.oldest() {
                continue;
            }
            for change in state.store.since(resources::named("configmaps"), version) {
                let Some((kind, object)) = change.seen_by(&selector) else { continue };
                let name = meta::name(&object).to_owned();
                prop_assert_eq!(meta::version(&object), change.version.to_string());
                let known = match kind {
                    "DELETED" => view.remove(&name).is_some(),
                    _ => view.insert(name, object).is_some(),
                };
                prop_assert_eq!(known, kind != "ADDED", "an addition is of the unknown, all else of the known");
            }
            prop_assert_eq!(&view, &last);
        }
    }
}
