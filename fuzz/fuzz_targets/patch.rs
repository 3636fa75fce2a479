//! Patches of all kinds: an object in normal form or an error; a merge patch says the same the second time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rubelet_apimachinery::decode::{FieldValidation, conform};
use rubelet_apimachinery::patch::{self, PatchKind};
use rubelet_fuzz::{Grower, assert_normal};
use serde_json::{Map, Value, json};

fuzz_target!(|data: &[u8]| {
    let mut grower = Grower::new(data);
    let (resource, t) = grower.resource();
    let (api_version, kind) = (resource.api_version(), resource.kind);
    let how = [PatchKind::Strategic, PatchKind::Json, PatchKind::Merge][grower.choose(3)];
    if grower.rarely(8) {
        let _ = patch::read(how, grower.rest());
        return;
    }
    let object = grower.object(&api_version, kind, t);
    let Ok((current, _)) = conform(t, object) else { return };
    grower.directives = how == PatchKind::Strategic;
    let value = match how {
        PatchKind::Json => (0..grower.choose(6)).map(|_| operation(&mut grower, &current)).collect(),
        _ => grower.object(&api_version, kind, t),
    };
    let body = value.to_string();
    let Ok(read) = patch::read(how, body.as_bytes()) else { return };
    let Ok(patched) = patch::apply(how, t, &current, &read.value) else { return };
    if how == PatchKind::Merge {
        assert_eq!(patch::apply(how, t, &patched, &read.value).ok().as_ref(), Some(&patched));
    }
    if let Ok((value, _)) = patch::finish(&read, t, patched, FieldValidation::Warn) {
        assert_normal(t, &value);
    }
});

fn operation(grower: &mut Grower<'_>, current: &Value) -> Value {
    let mut fields = Map::new();
    let op = ["add", "remove", "replace", "move", "copy", "test", "", "x"][grower.choose(8)];
    fields.insert("op".to_owned(), json!(op));
    fields.insert("path".to_owned(), json!(grower.pointer(current)));
    if !grower.rarely(3) {
        fields.insert("from".to_owned(), json!(grower.pointer(current)));
    }
    if !grower.rarely(8) {
        let value = match grower.choose(2) {
            0 => current.pointer(&grower.pointer(current)).cloned().unwrap_or_default(),
            _ => grower.any(0),
        };
        fields.insert("value".to_owned(), value);
    }
    Value::Object(fields)
}
