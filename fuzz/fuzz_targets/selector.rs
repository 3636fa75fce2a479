//! Field and label selectors: any text selects or is an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rubelet_apimachinery::selector::Selector;
use rubelet_fuzz::Grower;

const WORDS: &[&str] = &[
    "a",
    "b",
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "status.phase",
    "involvedObject.name",
    "=",
    "==",
    "!=",
    "!",
    " in ",
    " notin ",
    "(",
    ")",
    ",",
    "<",
    ">",
    "\\",
    "\\,",
    "\\=",
    "x/y",
    "-",
    ".",
    "5",
    "é",
    " ",
    "\t",
    "/",
    "99999999999999999999",
    "\u{0}",
    "in",
];

fuzz_target!(|data: &[u8]| {
    let mut grower = Grower::new(data);
    let (resource, t) = grower.resource();
    let (fields, labels) = match grower.choose(2) {
        0 => {
            let text = String::from_utf8_lossy(grower.rest()).into_owned();
            let (fields, labels) = text.split_once('\n').unwrap_or((&text, &text));
            (fields.to_owned(), labels.to_owned())
        }
        _ => (words(&mut grower), words(&mut grower)),
    };
    let object = grower.object(&resource.api_version(), resource.kind, t);
    for (fields, labels) in [(fields.as_str(), labels.as_str()), (&fields, ""), ("", &labels)] {
        let Ok(selector) = Selector::parse(resource, fields, labels) else { continue };
        let matches = selector.matches(&object);
        assert!(matches || !selector.is_everything());
        if let (true, Some(name)) = (matches, selector.exact_name()) {
            assert_eq!(object["metadata"]["name"].as_str().unwrap_or_default(), name);
        }
    }
});

fn words(grower: &mut Grower<'_>) -> String {
    (0..grower.choose(16)).map(|_| WORDS[grower.choose(WORDS.len())]).collect()
}
