//! Numbers as Go writes a float64 in its shortest form (`strconv.FormatFloat(v, 'g', -1, 64)`), which is what readers
//! of Prometheus's text format are used to: an exponent from a million on and below a ten-thousandth, `+Inf`, `NaN`.
//! Called by `exposition`.

use std::fmt::{self, Write as _};

/// A value of a sample. All stand for a float64; the exact ones are written without computing it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A number.
    Float(f64),
    /// A whole number.
    Count(u64),
    /// So many units, of which 10 to this power make one of what is told.
    Parts(u64, u8),
}

impl Value {
    /// Seconds from nanoseconds.
    pub fn nanoseconds(value: u64) -> Self {
        Value::Parts(value, 9)
    }

    /// Seconds from microseconds.
    pub fn microseconds(value: u64) -> Self {
        Value::Parts(value, 6)
    }

    /// Seconds from milliseconds.
    pub fn milliseconds(value: u64) -> Self {
        Value::Parts(value, 3)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value::Float(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Value::Count(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        u64::try_from(value).map_or(Value::Float(value as f64), Value::Count)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Count(value.into())
    }
}

/// Decimals of up to 15 digits are the shortest form of the float64 nearest to them.
const EXACT: u64 = 1_000_000_000_000_000;

/// Go's `'g'` with the shortest precision takes an exponent from this power of ten on.
const EXPONENT_FROM: i32 = 6;

pub(super) fn push(out: &mut String, value: Value) {
    match value {
        Value::Float(value) => push_float(out, value),
        Value::Count(value) => push_parts(out, value, 0),
        Value::Parts(value, places) => push_parts(out, value, places),
    }
}

/// Writes a whole number in all its digits.
pub(super) fn push_integer(out: &mut String, value: i64) {
    if value < 0 {
        out.push('-');
    }
    let mut digits = [0; 20];
    push_digits(out, decimal(value.unsigned_abs(), &mut digits));
}

fn push_parts(out: &mut String, value: u64, places: u8) {
    if value == 0 {
        out.push('0');
    } else if value < EXACT {
        let mut digits = [0; 20];
        let digits = decimal(value, &mut digits);
        push_shortest(out, digits, digits.len() as i32 - i32::from(places));
    } else {
        push_float(out, value as f64 / 10f64.powi(places.into()));
    }
}

fn push_float(out: &mut String, value: f64) {
    if value == 0.0 {
        out.push('0');
    } else if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        let mut text = Scientific::default();
        // Writing into it fails only beyond 32 bytes, and the longest float64 takes 24.
        let _ = write!(text, "{:e}", value.abs());
        if value < 0.0 {
            out.push('-');
        }
        push_shortest(out, &text.digits[..text.len], text.exponent() + 1);
    }
}

/// Writes digits with the point after so many of them, as Go does.
fn push_shortest(out: &mut String, digits: &[u8], point: i32) {
    let zeros = digits.iter().rev().take_while(|digit| **digit == b'0').count();
    let digits = &digits[..digits.len() - zeros];
    let exponent = point - 1;
    if (-4..EXPONENT_FROM).contains(&exponent) {
        push_plain(out, digits, point);
        return;
    }
    let (first, rest) = digits.split_at(digits.len().min(1));
    push_digits(out, first);
    if !rest.is_empty() {
        out.push('.');
        push_digits(out, rest);
    }
    out.push_str(if exponent < 0 { "e-" } else { "e+" });
    let exponent = exponent.unsigned_abs();
    if exponent < 10 {
        out.push('0');
    }
    push_integer(out, exponent.into());
}

fn push_plain(out: &mut String, digits: &[u8], point: i32) {
    let Ok(whole) = usize::try_from(point) else {
        out.push_str("0.");
        (point..0).for_each(|_| out.push('0'));
        push_digits(out, digits);
        return;
    };
    let (before, after) = digits.split_at(whole.min(digits.len()));
    push_digits(out, before);
    (before.len()..whole).for_each(|_| out.push('0'));
    if whole == 0 {
        out.push('0');
    }
    if !after.is_empty() {
        out.push('.');
        push_digits(out, after);
    }
}

fn push_digits(out: &mut String, digits: &[u8]) {
    // They are ASCII digits, so this never fails.
    out.push_str(std::str::from_utf8(digits).unwrap_or_default());
}

/// The decimal digits of a number; none of 0 is dropped.
fn decimal(mut value: u64, room: &mut [u8; 20]) -> &[u8] {
    let mut start = room.len();
    loop {
        start -= 1;
        room[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 || start == 0 {
            return &room[start..];
        }
    }
}

/// Takes apart what `{:e}` writes: its digits without the point, and the text of its exponent.
#[derive(Default)]
struct Scientific {
    digits: [u8; 32],
    len: usize,
    negative: bool,
    power: i32,
    in_exponent: bool,
}

impl Scientific {
    fn exponent(&self) -> i32 {
        if self.negative { -self.power } else { self.power }
    }
}

impl fmt::Write for Scientific {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            match byte {
                b'e' => self.in_exponent = true,
                b'-' => self.negative = true,
                b'0'..=b'9' if self.in_exponent => self.power = self.power * 10 + i32::from(byte - b'0'),
                b'0'..=b'9' => {
                    *self.digits.get_mut(self.len).ok_or(fmt::Error)? = byte;
                    self.len += 1;
                }
                _ => {}
            }
        }
        Ok(())
    }
}
