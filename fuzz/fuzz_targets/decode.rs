//! Bodies: any bytes are an object in normal form or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rubelet_apimachinery::decode::{self, FieldValidation, Media};
use rubelet_fuzz::{Grower, assert_normal};

fuzz_target!(|data: &[u8]| {
    let mut grower = Grower::new(data);
    let (api_version, kind, t) = grower.kind();
    let media = [Media::Json, Media::Yaml][grower.choose(2)];
    let validation =
        [FieldValidation::Warn, FieldValidation::Strict, FieldValidation::Ignore][grower.choose(3)];
    let body = match grower.choose(2) {
        0 => grower.rest().to_vec(),
        _ => grower.object(api_version, kind, t).to_string().into_bytes(),
    };
    if let Ok((value, _)) = decode::decode((api_version, kind), &body, media, validation) {
        assert_normal(t, &value);
    }
    let _ = decode::apply_configuration(&body, validation);
});
