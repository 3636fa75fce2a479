//! Plain values as Go's types read and write them: whole numbers, quantities, times, bytes, ports.

use jiff::Timestamp;
use rubelet_core::quantity::{Amount, ParseAmountError};
use serde_json::{Number, Value};

use crate::schema::Shape;

/// Why a value is none of its type.
pub(super) enum Error {
    /// It is of another kind.
    Type(Value),
    /// It is a number, but not one that the type can hold.
    Number(Number),
    /// What its text lacks, in upstream's words.
    Text(String),
}

/// The value in the form in which it is written.
pub(super) fn read(shape: Shape, value: Value) -> Result<Value, Error> {
    match (shape, value) {
        (Shape::String, value @ Value::String(_)) | (Shape::Boolean, value @ Value::Bool(_)) => Ok(value),
        (Shape::Integer { wide }, Value::Number(number)) => integer(number, wide),
        (Shape::Number, value @ Value::Number(_)) => Ok(value),
        (Shape::Quantity, value) => quantity(&value),
        (Shape::IntOrString, value @ Value::String(_)) => Ok(value),
        (Shape::IntOrString, Value::Number(number)) => integer(number, false),
        (Shape::Time, Value::String(text)) => time(&text).map(|at| written_time(at, false)),
        (Shape::MicroTime, Value::String(text)) => time(&text).map(|at| written_time(at, true)),
        (Shape::Bytes, Value::String(text)) => bytes(text),
        (_, value) => Err(Error::Type(value)),
    }
}

fn integer(number: Number, wide: bool) -> Result<Value, Error> {
    let whole = number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        // Beyond this, not every whole number is a float.
        (float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0).then_some(float as i64)
    });
    match whole {
        Some(whole) if wide || i32::try_from(whole).is_ok() => Ok(Value::from(whole)),
        _ => Err(Error::Number(number)),
    }
}

fn quantity(value: &Value) -> Result<Value, Error> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        other => other.to_string(),
    };
    let format = "quantities must match the regular expression \
                  '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    Amount::parse(&text).map(|amount| Value::from(amount.to_string())).map_err(|error| {
        Error::Text(match error {
            ParseAmountError::Suffix { suffix, .. } if looks_like_suffix(&suffix) => {
                "unable to parse quantity's suffix".to_owned()
            }
            _ => format.to_owned(),
        })
    })
}

fn looks_like_suffix(text: &str) -> bool {
    let rest = text.trim_start_matches(['e', 'E', 'i', 'n', 'u', 'm', 'k', 'K', 'M', 'G', 'T', 'P']);
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    rest.bytes().all(|byte| byte.is_ascii_digit())
}

/// A moment in RFC 3339, which is stricter than what jiff reads. A fraction of seconds may have any length.
fn time(text: &str) -> Result<Timestamp, Error> {
    let mut rest = text;
    for part in ["2006", "-", "01", "-", "02", "T", "15", ":", "04", ":", "05", "Z07:00"] {
        let parsed = match part {
            "-" | "T" | ":" => rest.strip_prefix(part),
            "Z07:00" => zone(rest),
            digits => rest
                .get(..digits.len())
                .filter(|found| found.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|found| rest.strip_prefix(found)),
        };
        let Some(mut after) = parsed else {
            return Err(Error::Text(format!(
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {rest:?} as {part:?}"
            )));
        };
        if part == "05"
            && let Some(fraction) = after.strip_prefix('.')
        {
            after = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        rest = after;
    }
    if !rest.is_empty() {
        return Err(Error::Text(format!("parsing time {text:?}: extra text: {rest:?}")));
    }
    text.parse().map_err(|_| Error::Text(format!("parsing time {text:?}: day out of range")))
}

fn zone(text: &str) -> Option<&str> {
    if let Some(rest) = text.strip_prefix('Z') {
        return Some(rest);
    }
    let offset = text.strip_prefix(['+', '-'])?.get(..5)?;
    let (hours, minutes) = offset.split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(hours) && digits(minutes)).then(|| &text[6..])
}

/// The first moment that Go knows, which is how its types say that there is none.
const GO_ZERO: i64 = -62_135_596_800;

fn written_time(at: Timestamp, micro: bool) -> Value {
    if at.as_second() == GO_ZERO && at.subsec_nanosecond() == 0 {
        return Value::Null;
    }
    Value::from(if micro { format!("{at:.6}") } else { format!("{at:.0}") })
}

/// Bytes in base64. Line breaks in it are left out, as Go's decoder does.
fn bytes(text: String) -> Result<Value, Error> {
    let text = if text.contains(['\r', '\n']) { text.replace(['\r', '\n'], "") } else { text };
    let body = text.trim_end_matches('=');
    let padding = text.len() - body.len();
    let illegal = |at: usize| Err(Error::Text(format!("illegal base64 data at input byte {at}")));
    let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    if let Some(at) = body.bytes().position(|byte| !alphabet(byte)) {
        return illegal(at);
    }
    if text.len() % 4 != 0 || padding > 2 {
        return illegal(if padding > 0 { body.len() } else { text.len() });
    }
    Ok(Value::String(text))
}
