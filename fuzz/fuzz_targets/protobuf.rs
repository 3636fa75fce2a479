//! Bodies in protobuf: any bytes are an object in normal form or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rubelet_apimachinery::decode::{self, FieldValidation, Media};
use rubelet_fuzz::{Grower, assert_normal};

fuzz_target!(|data: &[u8]| {
    let mut grower = Grower::new(data);
    let (api_version, kind, t) = grower.kind();
    let body = match grower.choose(4) {
        0 => grower.rest().to_vec(),
        _ => envelope(api_version, kind, grower.rest()),
    };
    let decoded = decode::decode((api_version, kind), &body, Media::Protobuf, FieldValidation::Strict);
    if let Ok((value, _)) = decoded {
        assert_normal(t, &value);
    }
});

/// What goes around the message of an object (`runtime.Unknown`).
fn envelope(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
    let mut what = Vec::new();
    put(&mut what, 1, api_version.as_bytes());
    put(&mut what, 2, kind.as_bytes());
    let mut unknown = b"k8s\0".to_vec();
    put(&mut unknown, 1, &what);
    put(&mut unknown, 2, object);
    unknown
}

fn put(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 128 {
        out.push((length % 128) as u8 | 128);
        length /= 128;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}
