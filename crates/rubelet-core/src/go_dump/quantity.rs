//! A quantity in the exact inner form that Go keeps it in, which the UID of a static pod is hashed from.
//!
//! `0.5`, `500m` and `0.50` are one value and three inner forms. This module reproduces upstream's
//! `resource.Quantity` (parse, round up, add, compare) as far as forms go; whoever wants the *value* uses
//! [`crate::quantity`]. Magnitudes beyond 128 bits are cut, where upstream counts on.

use std::cmp::Ordering;
use std::fmt;

use crate::quantity::{Amount, Format};

const NANO_SCALE: i32 = -9;
const MILLI_SCALE: i32 = -3;
/// The digits that always fit an `int64` (upstream `maxInt64Factors`).
const MAX_DIGITS: i32 = 18;

/// A quantity as Go stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GoQuantity {
    number: Number,
    /// The text it was parsed from, when that was already canonical.
    text: String,
    format: Option<Format>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    /// `value × 10^scale`.
    Small { value: i64, scale: i32 },
    /// `unscaled × 10^-scale`: Go's big decimal, whose scale is upside down.
    Big { unscaled: i128, scale: i32 },
}

impl GoQuantity {
    /// The zero value of the Go type: no format.
    pub(crate) const fn zero() -> Self {
        Self { number: Number::Small { value: 0, scale: 0 }, text: String::new(), format: None }
    }

    /// Parses as upstream's `ParseQuantity`; `None` for what is no quantity.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text == "0" {
            return Some(Self { text: "0".into(), format: Some(Format::DecimalSi), ..Self::zero() });
        }
        Amount::parse(text).ok()?;
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let negative = text.starts_with('-');
        let digits = unsigned.trim_start_matches('0');
        let number_end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
        let (number, suffix) = digits.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole = if whole.is_empty() { "0" } else { whole };
        let (base, exponent, format) = suffix_parts(suffix)?;

        let length = i32::try_from(whole.len() + fraction.len()).unwrap_or(i32::MAX);
        let (mut scale, precision, factor) = match (base, format) {
            (2, _) if fraction.is_empty() => (0, 15 - length - exponent * 3 / 10 - 1, 1_i64 << exponent),
            (2, _) => (0, -1, 1),
            _ => (exponent, MAX_DIGITS - length, 1),
        };
        if precision >= 0 {
            scale -= i32::try_from(fraction.len()).unwrap_or(i32::MAX);
            if scale >= NANO_SCALE {
                let shifted = format!("{whole}{fraction}");
                let plain: i64 = shifted.parse().ok()?;
                if let Some(value) = plain.checked_mul(factor) {
                    let canonical = if base == 2 {
                        exponent % 10 == 0 && plain & 7 != 0
                    } else {
                        scale % 3 == 0 && !shifted.ends_with("000") && !shifted.starts_with('0')
                    };
                    return Some(Self {
                        number: Number::Small { value: if negative { -value } else { value }, scale },
                        text: if canonical { text.to_owned() } else { String::new() },
                        format: Some(format),
                    });
                }
            }
        }
        Some(Self::parse_big(whole, fraction, (base, exponent, format), negative))
    }

    fn parse_big(
        whole: &str,
        fraction: &str,
        (base, exponent, format): (i32, i32, Format),
        negative: bool,
    ) -> Self {
        let mut unscaled = 0_i128;
        for digit in whole.bytes().chain(fraction.bytes()) {
            unscaled = unscaled.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
        }
        let mut scale = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
        if base == 10 {
            scale = scale.saturating_sub(exponent);
        } else {
            unscaled = unscaled.saturating_mul(1 << exponent);
        }
        if unscaled != 0 {
            unscaled = rescale_up(unscaled, scale, -NANO_SCALE);
            scale = -NANO_SCALE;
        }
        let mut format = format;
        let one = pow10(scale);
        if format == Format::BinarySi && unscaled > i128::from(i64::MAX).saturating_mul(one) {
            (unscaled, scale) = (i128::from(i64::MAX), 0);
        } else if format == Format::BinarySi && unscaled > 0 && unscaled < one {
            format = Format::DecimalSi;
        }
        let unscaled = if negative { -unscaled } else { unscaled };
        Self { number: Number::Big { unscaled, scale }, text: String::new(), format: Some(format) }
    }

    /// Rounds up to thousandths, as the defaults do with every resource list (upstream `RoundUp`).
    #[must_use]
    pub(crate) fn rounded_up_to_milli(mut self) -> Self {
        match &mut self.number {
            Number::Big { unscaled, scale } => {
                *unscaled = rescale_up(*unscaled, *scale, -MILLI_SCALE);
                *scale = -MILLI_SCALE;
                self.text.clear();
            }
            Number::Small { scale, .. } if *scale >= MILLI_SCALE => {}
            Number::Small { value, scale } => {
                let rounded = rescale_up(i128::from(*value), -*scale, -MILLI_SCALE);
                *value = i64::try_from(rounded).unwrap_or(*value);
                *scale = MILLI_SCALE;
                self.text.clear();
            }
        }
        self
    }

    /// The sum in the form Go leaves it (upstream `Add`).
    #[must_use]
    pub(crate) fn plus(mut self, other: &Self) -> Self {
        self.text.clear();
        if self.is_zero() {
            self.format = other.format;
        }
        if let (Number::Small { value: a, scale: m }, Number::Small { value: b, scale: n }) =
            (self.number, other.number)
        {
            if b == 0 {
                return self;
            }
            if a == 0 {
                self.number = other.number;
                return self;
            }
            let scale = m.min(n);
            let sum = raise(a, m - scale).and_then(|a| raise(b, n - scale).and_then(|b| a.checked_add(b)));
            if let Some(value) = sum {
                self.number = Number::Small { value, scale };
                return self;
            }
        }
        let ((a, m), (b, n)) = (self.big(), other.big());
        let scale = m.max(n);
        let sum = rescale_up(a, m, scale).saturating_add(rescale_up(b, n, scale));
        self.number = Number::Big { unscaled: sum, scale };
        self
    }

    /// Compares values.
    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        let ((a, m), (b, n)) = (self.big(), other.big());
        let scale = m.max(n);
        rescale_up(a, m, scale).cmp(&rescale_up(b, n, scale))
    }

    /// The value, for printing in canonical form. Exact for what was rounded to thousandths.
    pub(crate) fn amount(&self) -> Amount {
        let format = self.format.unwrap_or(Format::DecimalSi);
        let (unscaled, scale) = self.big();
        let milli = rescale_up(unscaled, scale, -MILLI_SCALE);
        match i64::try_from(milli) {
            Ok(milli) => Amount::milli(milli, format),
            Err(_) => Amount::units(i64::try_from(milli / 1000).unwrap_or(i64::MAX), format),
        }
    }

    fn is_zero(&self) -> bool {
        matches!(self.number, Number::Small { value: 0, .. } | Number::Big { unscaled: 0, .. })
    }

    fn big(&self) -> (i128, i32) {
        match self.number {
            Number::Small { value, scale } => (i128::from(value), -scale),
            Number::Big { unscaled, scale } => (unscaled, scale),
        }
    }
}

impl fmt::Display for GoQuantity {
    /// The struct's fields as the dump prints them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, scale) = match self.number {
            Number::Small { value, scale } => (value, scale),
            Number::Big { .. } => (0, 0),
        };
        write!(f, "{{i:(resource.int64Amount){{value:(int64){value} scale:(resource.Scale){scale}}} ")?;
        f.write_str("d:(resource.infDecAmount){Dec:(*inf.Dec)")?;
        match self.number {
            Number::Small { .. } => f.write_str("<nil>")?,
            Number::Big { unscaled, scale } => {
                let magnitude = unscaled.unsigned_abs();
                let (low, high) = (magnitude & u128::from(u64::MAX), magnitude >> 64);
                write!(f, "{{unscaled:(big.Int){{neg:(bool){} abs:(big.nat)", unscaled < 0)?;
                match (low, high) {
                    (0, 0) => f.write_str("<nil>")?,
                    (low, 0) => write!(f, "[{low}]")?,
                    (low, high) => write!(f, "[{low} {high}]")?,
                }
                write!(f, "}} scale:(inf.Scale){scale}}}")?;
            }
        }
        let format = match self.format {
            None => "",
            Some(Format::DecimalSi) => "DecimalSI",
            Some(Format::BinarySi) => "BinarySI",
            Some(Format::DecimalExponent) => "DecimalExponent",
        };
        write!(f, "}} s:(string){} Format:(resource.Format){format}}}", self.text)
    }
}

fn suffix_parts(suffix: &str) -> Option<(i32, i32, Format)> {
    Some(match suffix {
        "n" => (10, -9, Format::DecimalSi),
        "u" => (10, -6, Format::DecimalSi),
        "m" => (10, -3, Format::DecimalSi),
        "" => (10, 0, Format::DecimalSi),
        "k" => (10, 3, Format::DecimalSi),
        "M" => (10, 6, Format::DecimalSi),
        "G" => (10, 9, Format::DecimalSi),
        "T" => (10, 12, Format::DecimalSi),
        "P" => (10, 15, Format::DecimalSi),
        "E" => (10, 18, Format::DecimalSi),
        "Ki" => (2, 10, Format::BinarySi),
        "Mi" => (2, 20, Format::BinarySi),
        "Gi" => (2, 30, Format::BinarySi),
        "Ti" => (2, 40, Format::BinarySi),
        "Pi" => (2, 50, Format::BinarySi),
        "Ei" => (2, 60, Format::BinarySi),
        _ => (10, suffix.get(1..)?.parse().ok()?, Format::DecimalExponent),
    })
}

fn pow10(exponent: i32) -> i128 {
    u32::try_from(exponent).ok().and_then(|exponent| 10_i128.checked_pow(exponent)).unwrap_or(i128::MAX)
}

/// `value × 10^places` within an `int64`.
fn raise(value: i64, places: i32) -> Option<i64> {
    let factor = i64::try_from(pow10(places)).ok()?;
    value.checked_mul(factor)
}

/// Moves a decimal from one (upside-down) scale to another; lost digits round away from zero.
fn rescale_up(unscaled: i128, from: i32, to: i32) -> i128 {
    let shift = to.saturating_sub(from);
    if unscaled == 0 || shift == 0 {
        return unscaled;
    }
    if shift > 0 {
        return unscaled.saturating_mul(pow10(shift));
    }
    let divisor = pow10(shift.saturating_neg());
    let quotient = unscaled / divisor;
    if unscaled % divisor == 0 { quotient } else { quotient + unscaled.signum() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(GoQuantity::parse(text).unwrap().rounded_up_to_milli().to_string(), expected, "{text}");
    }

    #[test]
    fn one_value_has_many_forms() {
        let small = |value: i64, scale: i32, text: &str, format: &str| {
            format!(
                "{{i:(resource.int64Amount){{value:(int64){value} scale:(resource.Scale){scale}}} \
                 d:(resource.infDecAmount){{Dec:(*inf.Dec)<nil>}} s:(string){text} Format:(resource.Format){format}}}"
            )
        };
        check("0", &small(0, 0, "0", "DecimalSI"));
        check("500m", &small(500, -3, "500m", "DecimalSI"));
        check("0.5", &small(5, -1, "", "DecimalSI"));
        check("1000m", &small(1000, -3, "", "DecimalSI"));
        check("1Gi", &small(1 << 30, 0, "1Gi", "BinarySI"));
        check("1024Ki", &small(1 << 20, 0, "", "BinarySI"));
        check("5u", &small(1, -3, "", "DecimalSI"));
        check(
            "1.5Gi",
            "{i:(resource.int64Amount){value:(int64)0 scale:(resource.Scale)0} \
             d:(resource.infDecAmount){Dec:(*inf.Dec){unscaled:(big.Int){neg:(bool)false \
             abs:(big.nat)[1610612736000]} scale:(inf.Scale)3}} s:(string) Format:(resource.Format)BinarySI}",
        );
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails_without_panic(text in ".{0,40}") {
            if let Some(quantity) = GoQuantity::parse(&text) {
                let sum = quantity.clone().plus(&quantity).rounded_up_to_milli();
                prop_assert!(!sum.to_string().is_empty());
                let _ = sum.amount();
            }
        }

        #[test]
        fn the_form_keeps_the_value(number in "[+-]?[0-9]{1,8}(\\.[0-9]{0,6})?", suffix in "(|m|k|M|Ki|Mi|Gi|e[0-3])") {
            let text = format!("{number}{suffix}");
            let form = GoQuantity::parse(&text).unwrap().rounded_up_to_milli();
            prop_assert_eq!(form.amount().milli_value(), Amount::parse(&text).unwrap().milli_value());
        }
    }
}
