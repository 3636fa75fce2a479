//! Says an OpenAPI 2.0 document as the protobuf message `openapi.v2.Document`, which kubectl fetches.
//!
//! Only what our own documents hold: field numbers are those of gnostic's `OpenAPIv2.proto`. Extensions are YAML text
//! there, of which JSON is a kind. Tests read its output in `src/openapi.rs`.

use serde_json::Value;

/// A message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, number: u32, message: Message) {
        self.bytes(number, &message.0);
    }

    /// The text under a key, if it is there.
    fn text(&mut self, number: u32, value: &Value, key: &str) {
        if let Some(text) = value[key].as_str() {
            self.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u32, value: &Value, key: &str) {
        for text in value[key].as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn flag(&mut self, number: u32, value: &Value, key: &str) {
        if value[key].as_bool() == Some(true) {
            self.varint(u64::from(number) << 3);
            self.varint(1);
        }
    }

    /// Each entry of an object, as a message of a name and a value.
    fn named(&mut self, number: u32, value: &Value, mut say: impl FnMut(&Value) -> Message) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let mut named = Message::default();
            named.bytes(1, name.as_bytes());
            named.message(2, say(value));
            self.message(number, named);
        }
    }

    /// The `x-` entries of an object.
    fn extensions(&mut self, number: u32, value: &Value) {
        for (name, value) in
            value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"))
        {
            let mut named = Message::default();
            named.bytes(1, name.as_bytes());
            named.message(2, any(value));
            self.message(number, named);
        }
    }
}

/// One choice of a `oneof`, as a message around it.
fn only(number: u32, message: Message) -> Message {
    let mut around = Message::default();
    around.message(number, message);
    around
}

fn any(value: &Value) -> Message {
    let mut any = Message::default();
    any.bytes(2, format!("{value}\n").as_bytes());
    any
}

/// The document as protobuf.
pub fn document(value: &Value) -> Vec<u8> {
    let mut document = Message::default();
    document.text(1, value, "swagger");
    let mut info = Message::default();
    info.text(1, &value["info"], "title");
    info.text(2, &value["info"], "version");
    document.message(2, info);
    let mut paths = Message::default();
    paths.named(2, &value["paths"], path_item);
    document.message(8, paths);
    let mut definitions = Message::default();
    definitions.named(1, &value["definitions"], schema);
    document.message(9, definitions);
    document.0
}

fn path_item(value: &Value) -> Message {
    let mut item = Message::default();
    let methods =
        [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")];
    for (number, method) in methods {
        if value[method].is_object() {
            item.message(number, operation(&value[method]));
        }
    }
    parameters(&mut item, 9, value);
    item
}

fn operation(value: &Value) -> Message {
    let mut operation = Message::default();
    operation.texts(1, value, "tags");
    operation.text(3, value, "description");
    operation.text(5, value, "operationId");
    operation.texts(6, value, "produces");
    operation.texts(7, value, "consumes");
    parameters(&mut operation, 8, value);
    let mut responses = Message::default();
    responses.named(1, &value["responses"], |response| {
        let mut said = Message::default();
        said.text(1, response, "description");
        if response["schema"].is_object() {
            said.message(2, only(1, schema(&response["schema"])));
        }
        only(1, said)
    });
    operation.message(9, responses);
    operation.texts(10, value, "schemes");
    operation.extensions(13, value);
    operation
}

fn parameters(message: &mut Message, number: u32, value: &Value) {
    for parameter in value["parameters"].as_array().into_iter().flatten() {
        let mut said = Message::default();
        let of = match parameter["in"].as_str() {
            Some("body") => {
                said.text(2, parameter, "name");
                said.text(3, parameter, "in");
                said.flag(4, parameter, "required");
                said.message(5, schema(&parameter["schema"]));
                only(1, said)
            }
            place => {
                let query = place == Some("query");
                // Query parameters have one field more than path parameters, before the type.
                let (kind, of_type, unique) = if query { (3, 6, 20) } else { (4, 5, 19) };
                said.flag(1, parameter, "required");
                said.text(2, parameter, "in");
                said.text(3, parameter, "description");
                said.text(4, parameter, "name");
                said.text(of_type, parameter, "type");
                said.flag(unique, parameter, "uniqueItems");
                only(2, only(kind, said))
            }
        };
        message.message(number, only(1, of));
    }
}

fn schema(value: &Value) -> Message {
    let mut said = Message::default();
    said.text(1, value, "$ref");
    said.text(2, value, "format");
    said.text(4, value, "description");
    said.texts(19, value, "required");
    if value["additionalProperties"].is_object() {
        said.message(21, only(1, schema(&value["additionalProperties"])));
    }
    if let Some(of) = value["type"].as_str() {
        let mut types = Message::default();
        types.bytes(1, of.as_bytes());
        said.message(22, types);
    }
    if value["items"].is_object() {
        said.message(23, only(1, schema(&value["items"])));
    }
    if value["properties"].is_object() {
        let mut properties = Message::default();
        properties.named(1, &value["properties"], schema);
        said.message(25, properties);
    }
    said.extensions(31, value);
    said
}
