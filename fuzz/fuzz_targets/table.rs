//! Tables: any object makes a row with as many cells as there are columns.
#![no_main]

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use rubelet_apimachinery::table::{IncludeObject, TableOptions, table};
use rubelet_fuzz::Grower;

fuzz_target!(|data: &[u8]| {
    let mut grower = Grower::new(data);
    let (resource, t) = grower.resource();
    let include_object =
        [IncludeObject::None, IncludeObject::Metadata, IncludeObject::Object][grower.choose(3)];
    let object = match grower.rarely(8) {
        true => grower.any(0),
        false => grower.object(&resource.api_version(), resource.kind, t),
    };
    let options = TableOptions { include_object, no_headers: false };
    for now in [Timestamp::UNIX_EPOCH, Timestamp::MIN, Timestamp::MAX] {
        let table = table(resource, std::slice::from_ref(&object), &options, now);
        let cells = table["rows"][0]["cells"].as_array().map(Vec::len);
        assert_eq!(cells, table["columnDefinitions"].as_array().map(Vec::len));
        assert!(cells > Some(0));
    }
});
