//! Who owns which fields: applies, updates and their order. The same apply a second time changes nothing, if it is of
//! what a server would write.
#![no_main]

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use rubelet_apimachinery::decode::conform;
use rubelet_apimachinery::managed_fields::{ApplyCall, UpdateCall, apply, keep_times, track};
use rubelet_fuzz::Grower;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    let mut grower = Grower::new(data);
    let (resource, t) = grower.resource();
    let api_version = resource.api_version();
    let mut live: Option<Value> = None;
    // Whether something in it can make upstream's rules, which are ours, take things away late: owners that clients made
    // up, what no server would write.
    let mut odd = false;
    for step in 0..4 {
        if grower.is_empty() {
            break;
        }
        let call = UpdateCall {
            resource,
            subresource: ["", "status", "scale"][grower.choose(8).saturating_sub(5)],
            manager: ["a", "b", "kubectl", ""][grower.choose(4)],
            now: Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(step),
        };
        let mut object = grower.object(&api_version, resource.kind, t);
        if object["metadata"].is_object() && grower.rarely(4) {
            object["metadata"]["managedFields"] = entries(&mut grower, &api_version);
            odd = true;
        }
        if grower.choose(2) == 0 {
            let call = ApplyCall { by: call, force: grower.choose(2) == 0 };
            if !grower.rarely(6) && object["metadata"].is_object() {
                object["metadata"]["managedFields"] = Value::Null;
            }
            // With nulls and empty texts for keys an item is not found again in what is made of it.
            odd |= grower.choose(2) == 0;
            if !odd {
                let Ok((normal, _)) = conform(t, object) else { continue };
                object = normal;
                without_empty(&mut object);
            }
            let Ok(merged) = apply(&call, live.as_ref(), object.clone()) else { continue };
            let Ok((merged, _)) = conform(t, merged) else { continue };
            match apply(&call, Some(&merged), object.clone()) {
                // Where nobody owns anything, the next apply finds an owner for what was there before it.
                Ok(again) if !odd && merged["metadata"]["managedFields"].is_array() => {
                    if let Ok((again, _)) = conform(t, again) {
                        assert_eq!(again, merged, "\napplied {object}\nlive {live:?}");
                    }
                }
                Err(error) if !odd => {
                    panic!("{}\napplied {object}\nmerged {merged}\nlive {live:?}", error.message)
                }
                _ => {}
            }
            live = Some(merged);
        } else {
            let Ok((mut new, _)) = conform(t, object) else { continue };
            track(&call, live.as_ref(), &mut new);
            if let Some(live) = &live {
                keep_times(live, &mut new);
            }
            live = Some(new);
        }
    }
});

fn without_empty(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(without_empty),
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null() && value != "");
            fields.values_mut().for_each(without_empty);
        }
        _ => {}
    }
}

/// Entries as clients could send them.
fn entries(grower: &mut Grower<'_>, api_version: &str) -> Value {
    (0..grower.choose(4))
        .map(|_| {
            let version = [api_version, "v1", "", "x/v9"][grower.choose(4)];
            let operation = ["Apply", "Update", ""][grower.choose(3)];
            let mut entry = json!({
                "manager": grower.text(), "operation": operation, "apiVersion": version, "fieldsType": "FieldsV1",
                "time": "2026-01-01T00:00:00Z", "fieldsV1": fields(grower, 0),
            });
            if grower.rarely(8) {
                entry["fieldsV1"] = grower.any(0);
            }
            entry
        })
        .collect()
}

fn fields(grower: &mut Grower<'_>, depth: usize) -> Value {
    const KEYS: &[&str] = &[
        "f:metadata",
        "f:spec",
        "f:status",
        "f:labels",
        "f:containers",
        "f:ports",
        "f:name",
        "f:data",
        "f:a",
        ".",
        "k:{\"name\":\"a\"}",
        "k:{\"name\":\"b\"}",
        "k:{\"containerPort\":1,\"protocol\":\"TCP\"}",
        "k:{}",
        "v:\"a\"",
        "v:1",
        "i:0",
        "i:-1",
        "x",
        "k:[",
        "f:annotations",
        "f:finalizers",
        "f:ownerReferences",
        "k:{\"uid\":\"a\"}",
    ];
    let count = if depth > 6 { 0 } else { grower.choose(4) };
    Value::Object(
        (0..count).map(|_| (KEYS[grower.choose(KEYS.len())].to_owned(), fields(grower, depth + 1))).collect(),
    )
}
