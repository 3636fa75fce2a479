//! Hostile nesting costs an error, not the process: decoders and patches at their limits, on less stack than a thread of
//! the program has (2 MiB), unoptimised as tests are.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail where they are wrong")]

use rubelet_apimachinery::decode;
use rubelet_apimachinery::patch::{self, PatchKind};
use rubelet_apimachinery::schema::Type;
use serde_json::Value;

/// Stack of a thread of the program, less what the way to the decoder takes.
const STACK: usize = 1536 * 1024;

fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(STACK).spawn(work).unwrap().join().unwrap();
}

fn block(step: &str, depth: usize) -> String {
    (0..depth).map(|level| format!("{}{step}\n", " ".repeat(level))).collect()
}

/// As deep as JSON may be.
fn deepest() -> Value {
    let levels = (1..127).rev().find(|levels| {
        let text = format!("{}1{}", "{\"a\":".repeat(*levels), "}".repeat(*levels));
        decode::json(text.as_bytes()).is_ok()
    });
    (0..levels.unwrap()).fold(Value::from(1), |inner, _| serde_json::json!({"a": inner}))
}

#[test]
fn every_depth_of_a_text_is_survived() {
    on_a_small_stack(|| {
        for depth in (1..150).chain([1000, 2000]) {
            for text in [
                block("a:", depth),
                block("-", depth),
                block("? - a", depth),
                "[".repeat(depth),
                "{a: ".repeat(depth),
            ] {
                let read = decode::yaml(text.as_bytes());
                assert!(depth <= 40 || read.is_err(), "{depth}: {read:?}");
            }
        }
        for depth in [100, 1_000, 100_000, 1_000_000] {
            for text in ["[".repeat(depth), "{\"a\":".repeat(depth), "[{\"a\":".repeat(depth)] {
                assert!(decode::json(text.as_bytes()).is_err());
            }
        }
    });
}

#[test]
fn the_deepest_value_can_be_patched_compared_and_written() {
    on_a_small_stack(|| {
        let deep = deepest();
        let map = Type::of("v1", "ConfigMap").unwrap();
        let object = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "x": deep});
        for kind in [PatchKind::Merge, PatchKind::Strategic] {
            let _ = patch::apply(kind, map, &object, &object);
        }
        let operations = serde_json::json!([{"op": "test", "path": "/x", "value": deep}, {"op": "copy", "from": "/x", "path": "/y"}]);
        patch::apply(PatchKind::Json, map, &object, &operations).unwrap();
        let (_, problems) = decode::conform(map, object).unwrap();
        assert_eq!(problems.len(), 1, "{problems:?}");
    });
}
