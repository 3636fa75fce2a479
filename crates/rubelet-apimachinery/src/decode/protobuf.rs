//! From the protobuf of Kubernetes to the JSON value of the same object: what clients written in Go send, kubectl among
//! them, and how they write times, quantities and embedded structs.
//!
//! Which field has which number comes from the published types (`build/wire.txt`), what is in it from their schema.
//! Go writes fields that are no pointers also when they are empty; [`super::conform`] leaves those out again. Unknown
//! fields are passed over, as by every reader of protobuf. Nothing is written in protobuf here: clients take JSON.

use serde_json::{Map, Value};

use super::{MAX_DEPTH, SyntaxError, current, json};
use crate::schema::{Shape, Type};

include!(concat!(env!("OUT_DIR"), "/wire.rs"));

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Reads an object with its envelope (`runtime.Unknown`), as JSON says it. An object of a kind that is not known here has
/// only its `apiVersion` and `kind`.
///
/// # Errors
/// When the bytes are no such message, or nest deeper than [`MAX_DEPTH`].
pub fn protobuf(body: &[u8]) -> Result<Value, SyntaxError> {
    let Some(envelope) = body.strip_prefix(MAGIC) else {
        return Err(SyntaxError::Protobuf(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
                .to_owned(),
        ));
    };
    read(envelope).map_err(|problem| SyntaxError::Protobuf(problem.to_string()))
}

/// Why bytes are no message of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("unexpected EOF")]
    Short,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: illegal tag or wire type")]
    Illegal,
    #[error("proto: wrong wire type for the field")]
    WireType,
    #[error("proto: a string is not valid UTF-8")]
    Text,
    #[error("proto: a number or time is out of range")]
    Range,
    #[error("proto: an embedded object is no JSON")]
    Embedded,
    #[error("proto: an object nests too deeply")]
    Depth,
    #[error("content of this type or encoding is not understood within protobuf")]
    Content,
}

/// One field as it is on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn bytes(self) -> Result<&'a [u8], Problem> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(Problem::WireType) }
    }

    fn varint(self) -> Result<u64, Problem> {
        if let Self::Varint(number) = self { Ok(number) } else { Err(Problem::WireType) }
    }

    fn text(self) -> Result<&'a str, Problem> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Problem::Text)
    }
}

/// The fields of a message, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Problem> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Problem::Illegal)?;
        let wire = match (number, tag & 7) {
            (0, _) => return Err(Problem::Illegal),
            (_, 0) => Wire::Varint(self.varint()?),
            (_, 1) => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            (_, 2) => {
                let length = usize::try_from(self.varint()?).map_err(|_| Problem::Short)?;
                Wire::Bytes(self.take(length)?)
            }
            (_, 5) => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(Problem::Illegal),
        };
        Ok(Some((number, wire)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Problem> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Problem::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        self.take(N)?.try_into().map_err(|_| Problem::Short)
    }

    fn varint(&mut self) -> Result<u64, Problem> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Problem::Overflow)
    }
}

fn read(envelope: &[u8]) -> Result<Value, Problem> {
    let (mut api_version, mut kind, mut raw) = ("", "", &[][..]);
    let mut fields = Fields(envelope);
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => {
                let mut names = Fields(wire.bytes()?);
                while let Some((number, wire)) = names.next()? {
                    match number {
                        1 => api_version = wire.text()?,
                        2 => kind = wire.text()?,
                        _ => {}
                    }
                }
            }
            2 => raw = wire.bytes()?,
            // How the rest is compressed, and what it is instead of protobuf: nobody says so in a request.
            3 | 4 if !wire.bytes()?.is_empty() => return Err(Problem::Content),
            _ => {}
        }
    }
    let mut object = Map::new();
    if let Some(t) = Type::of(current(api_version, kind), kind) {
        message(t.name(), t, raw, &mut object, 0)?;
    }
    object.insert("apiVersion".to_owned(), Value::from(api_version));
    object.insert("kind".to_owned(), Value::from(kind));
    Ok(Value::Object(object))
}

/// The numbers of the fields of a message.
fn numbers(name: &str) -> &'static [(u32, &'static str)] {
    WIRE.binary_search_by_key(&name, |row| row.0).map_or(&[], |at| WIRE[at].1)
}

/// Reads the fields of message `name` into an object of type `t`. The two differ for embedded structs, whose fields are
/// in JSON those of the struct around them.
fn message(
    name: &str,
    t: Type,
    bytes: &[u8],
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Problem> {
    if depth > MAX_DEPTH {
        return Err(Problem::Depth);
    }
    let known = numbers(name);
    let mut fields = Fields(bytes);
    while let Some((number, wire)) = fields.next()? {
        let Ok(at) = known.binary_search_by_key(&number, |field| field.0) else { continue };
        let field_name = known[at].1;
        if let Some(embedded) = field_name.strip_prefix('@') {
            message(embedded, t, wire.bytes()?, out, depth + 1)?;
            continue;
        }
        let Some(field) = t.field(field_name) else { continue };
        match field.of.shape() {
            Shape::List { item, .. } => {
                let list = out.entry(field_name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(items) = list {
                    append(item, wire, items, depth)?;
                }
            }
            Shape::Map { value } => {
                let map = out.entry(field_name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(entries) = map {
                    let (key, value) = entry(value, wire.bytes()?, depth)?;
                    entries.insert(key, value);
                }
            }
            _ => {
                let value = single(field.of, wire, depth)?;
                out.insert(field_name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// One more item of a list, or several numbers in one field.
fn append(item: Type, wire: Wire<'_>, items: &mut Vec<Value>, depth: usize) -> Result<(), Problem> {
    if let (Shape::Integer { .. } | Shape::Boolean, Wire::Bytes(packed)) = (item.shape(), wire) {
        let mut numbers = Fields(packed);
        while !numbers.0.is_empty() {
            let number = Wire::Varint(numbers.varint()?);
            items.push(single(item, number, depth)?);
        }
        return Ok(());
    }
    items.push(single(item, wire, depth)?);
    Ok(())
}

/// Key and value of one entry of a map.
fn entry(of: Type, bytes: &[u8], depth: usize) -> Result<(String, Value), Problem> {
    let (mut key, mut found) = (String::new(), None);
    let mut fields = Fields(bytes);
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => wire.text()?.clone_into(&mut key),
            2 => found = Some(single(of, wire, depth)?),
            _ => {}
        }
    }
    let value = match found {
        Some(value) => value,
        // An empty text or message may be left out.
        None => match of.shape() {
            Shape::Integer { .. } | Shape::Number => Value::from(0),
            Shape::Boolean => Value::from(false),
            _ => single(of, Wire::Bytes(&[]), depth)?,
        },
    };
    Ok((key, value))
}

fn single(t: Type, wire: Wire<'_>, depth: usize) -> Result<Value, Problem> {
    Ok(match t.shape() {
        Shape::String => Value::from(wire.text()?),
        // Numbers of 32 bits are extended by their sign to 64.
        Shape::Integer { wide } => {
            let number = wire.varint()?.cast_signed();
            if !wide && i32::try_from(number).is_err() {
                return Err(Problem::Range);
            }
            Value::from(number)
        }
        Shape::Number => {
            let number = match wire {
                Wire::Fixed64(bits) => f64::from_bits(bits),
                Wire::Fixed32(bits) => f64::from(f32::from_bits(bits)),
                _ => return Err(Problem::WireType),
            };
            Value::Number(serde_json::Number::from_f64(number).ok_or(Problem::Range)?)
        }
        Shape::Boolean => Value::from(wire.varint()? != 0),
        Shape::Quantity => match first(wire.bytes()?)? {
            Some(text) => Value::from(text.text()?),
            None => Value::from("0"),
        },
        Shape::Bytes => base64(wire.bytes()?)?,
        Shape::IntOrString => int_or_string(wire.bytes()?)?,
        Shape::Time | Shape::MicroTime => time(wire.bytes()?)?,
        Shape::Any => match first(wire.bytes()?)? {
            Some(raw) => json(raw.bytes()?).map_err(|_| Problem::Embedded)?.value,
            None => Value::Null,
        },
        Shape::Struct => {
            let mut fields = Map::new();
            message(t.name(), t, wire.bytes()?, &mut fields, depth + 1)?;
            Value::Object(fields)
        }
        // A list within a map is a message of its own, with its items as the first field.
        Shape::List { item, .. } => {
            let mut items = Vec::new();
            let mut fields = Fields(wire.bytes()?);
            while let Some((number, wire)) = fields.next()? {
                if number == 1 {
                    append(item, wire, &mut items, depth + 1)?;
                }
            }
            Value::Array(items)
        }
        Shape::Map { .. } => return Err(Problem::WireType),
    })
}

/// Field 1 of a message that has no other.
fn first(bytes: &[u8]) -> Result<Option<Wire<'_>>, Problem> {
    let (mut found, mut fields) = (None, Fields(bytes));
    while let Some((number, wire)) = fields.next()? {
        if number == 1 {
            found = Some(wire);
        }
    }
    Ok(found)
}

fn base64(bytes: &[u8]) -> Result<Value, Problem> {
    serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec())).map_err(|_| Problem::Embedded)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Problem> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut fields = Fields(bytes);
    while let Some((field, wire)) = fields.next()? {
        match field {
            1 => is_text = wire.varint()? != 0,
            2 => number = i32::try_from(wire.varint()?.cast_signed()).map_err(|_| Problem::Range)?,
            3 => text = wire.text()?,
            _ => {}
        }
    }
    Ok(if is_text { Value::from(text) } else { Value::from(number) })
}

/// A time, null for Go's zero time, which is an empty message.
fn time(bytes: &[u8]) -> Result<Value, Problem> {
    let mut fields = Fields(bytes);
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    while let Some((field, wire)) = fields.next()? {
        match field {
            1 => seconds = wire.varint()?.cast_signed(),
            2 => nanos = i32::try_from(wire.varint()?.cast_signed()).map_err(|_| Problem::Range)?,
            _ => {}
        }
    }
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| Problem::Range)?;
    Ok(Value::from(time.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode::{FieldValidation, Media, decode};

    /// A field of bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        varint(bytes.len() as u64, &mut out);
        out.extend_from_slice(bytes);
        out
    }

    /// A field of a number.
    fn number(field: u8, value: i64) -> Vec<u8> {
        let mut out = vec![field << 3];
        varint(value.cast_unsigned(), &mut out);
        out
    }

    fn varint(mut value: u64, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let names = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        // Go writes the two empty texts too.
        [MAGIC, &field(1, &names), &field(2, raw), &field(3, b""), &field(4, b"")].concat()
    }

    #[track_caller]
    fn check(expected: (&str, &str), raw: &[u8], wanted: Value) {
        let body = body(expected.0, expected.1, raw);
        let (object, warnings) = decode(expected, &body, Media::Protobuf, FieldValidation::Strict).unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(object, wanted);
    }

    #[test]
    fn objects_lose_what_go_writes_of_empty_fields() {
        let metadata = [
            field(1, b"web"),
            field(2, b""),
            number(7, 0),
            field(8, b""),
            field(11, &[field(1, b"app"), field(2, b"web")].concat()),
            field(11, &field(1, b"empty")),
        ]
        .concat();
        check(
            ("v1", "Namespace"),
            &[field(1, &metadata), field(2, b""), field(3, &field(1, b""))].concat(),
            json!({
                "apiVersion": "v1", "kind": "Namespace", "spec": {}, "status": {},
                "metadata": {"name": "web", "labels": {"app": "web", "empty": ""}},
            }),
        );
    }

    #[test]
    fn every_shape_is_read() {
        let probe = [
            // The handler is embedded: its fields are the probe's in JSON.
            field(
                1,
                &field(
                    2,
                    &[field(1, b"/"), field(2, &[number(1, 1), number(2, 0), field(3, b"http")].concat())]
                        .concat(),
                ),
            ),
            number(2, 5),
        ]
        .concat();
        let limits = field(1, &[field(1, b"cpu"), field(2, &field(1, b"100m"))].concat());
        let container =
            [field(1, b"main"), field(2, b"image"), field(8, &limits), field(10, &probe)].concat();
        let volume = [field(1, b"v"), field(2, &field(2, &field(1, b"")))].concat();
        let context = [number(4, 1000), number(4, -1)].concat();
        let spec = [field(1, &volume), field(2, &container), number(11, 0), field(14, &context)].concat();
        check(
            ("v1", "Pod"),
            &[field(1, &field(1, b"p")), field(2, &spec)].concat(),
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                "spec": {
                    "containers": [{
                        "name": "main", "image": "image", "resources": {"limits": {"cpu": "100m"}},
                        "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "initialDelaySeconds": 5},
                    }],
                    "securityContext": {"supplementalGroups": [1000, -1]},
                    "volumes": [{"name": "v", "emptyDir": {}}],
                },
                "status": {},
            }),
        );
        let data = field(2, &[field(1, b"key"), field(2, b"\x00\xff")].concat());
        check(
            ("v1", "Secret"),
            &[field(1, &[field(1, b"s"), field(8, &number(1, 1_700_000_000))].concat()), data].concat(),
            json!({
                "apiVersion": "v1", "kind": "Secret", "data": {"key": "AP8="},
                "metadata": {"name": "s", "creationTimestamp": "2023-11-14T22:13:20Z"},
            }),
        );
        let extra =
            field(4, &[field(1, b"k"), field(2, &[field(1, b"a"), field(1, b"b")].concat())].concat());
        let status = [number(1, 1), field(2, &[field(1, b"me"), extra].concat())].concat();
        let read = protobuf(&body("authentication.k8s.io/v1", "TokenReview", &field(3, &status))).unwrap();
        assert_eq!(read["status"]["user"], json!({"username": "me", "extra": {"k": ["a", "b"]}}));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let check = |bytes: &[u8], wanted: &str| {
            let error = decode(("v1", "Pod"), bytes, Media::Protobuf, FieldValidation::Strict).unwrap_err();
            assert_eq!((error.code, error.reason), (400, "BadRequest"));
            assert!(error.message.contains(wanted), "{}", error.message);
        };
        check(b"{}", "does not appear to be a protobuf message, expected prefix [107 56 115 0]");
        check(b"k8s\0\x0a\xff", "unexpected EOF");
        check(b"k8s\0\x0b", "illegal tag");
        check(&body("v1", "Pod", b"\x08\x01"), "wrong wire type");
        check(&body("v1", "Node", b""), "Node in version \"v1\" cannot be handled as a Pod");
        check(&[b"k8s\0", &field(4, b"application/json")[..]].concat(), "not understood");
    }

    #[test]
    fn every_type_has_its_numbers() {
        for (api_version, kind, t) in Type::kinds() {
            // What the API says of itself, and what is measured, is not said in requests.
            let said = !t.name().contains(".meta.v1.") && !t.name().contains(".metrics.");
            if t.shape() == Shape::Struct && said {
                assert!(!numbers(t.name()).is_empty(), "{api_version} {kind}");
            }
        }
        for (message, fields) in &WIRE {
            let Some(t) = Type::named(message) else { continue };
            for field in t.fields().filter(|field| !["apiVersion", "kind"].contains(&field.name)) {
                let named = |fields: &[(u32, &str)]| fields.iter().any(|(_, name)| *name == field.name);
                let embedded = fields.iter().filter_map(|(_, name)| name.strip_prefix('@'));
                assert!(
                    named(fields) || embedded.map(numbers).any(named),
                    "{message} has no number for {}",
                    field.name
                );
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_an_object_or_an_error(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = protobuf(&bytes);
            let _ = decode(("v1", "Pod"), &body("v1", "Pod", &bytes), Media::Protobuf, FieldValidation::Warn);
        }
    }
}
