//! Kubernetes quantities with exact arithmetic: parse, compare, add, round, print in canonical form.
//!
//! Owns the number behind `resource.Quantity`; never knows which resource it measures. Everything that does
//! sums over requests and limits uses it. The API's own type stays a string and is only read here.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANO: i128 = 1_000_000_000;
/// Largest magnitude kept, in nano-units. Well above i64::MAX units, so that sums of many capped values stay exact.
const LIMIT: i128 = i128::MAX / 4;

/// How a quantity is printed; remembered from how it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `12e6`.
    DecimalExponent,
    /// `12Mi`.
    BinarySi,
    /// `12M`, `500m`.
    DecimalSi,
}

/// A text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseAmountError {
    /// There is no number in front.
    #[error("{0:?} is not a quantity: it has to start with a number such as 100m, 1.5 or 2Gi")]
    Number(String),
    /// What follows the number is no known suffix.
    #[error(
        "{text:?} is not a quantity: unknown suffix {suffix:?} (n u m k M G T P E Ki Mi Gi Ti Pi Ei or e<number>)"
    )]
    Suffix {
        /// The whole text.
        text: String,
        /// The part after the number.
        suffix: String,
    },
}

/// The value of a quantity, exact to one billionth. Finer parts round away from zero, as in Go.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    nanos: i128,
    format: Format,
}

impl Amount {
    /// Zero, printed as `0`.
    pub const ZERO: Amount = Amount { nanos: 0, format: Format::DecimalSi };

    /// So many whole units.
    pub const fn units(value: i64, format: Format) -> Self {
        Self { nanos: value as i128 * NANO, format }
    }

    /// So many thousandths.
    pub const fn milli(value: i64, format: Format) -> Self {
        Self { nanos: value as i128 * (NANO / 1000), format }
    }

    /// So many billionths.
    pub const fn nano(value: i64, format: Format) -> Self {
        Self { nanos: value as i128, format }
    }

    /// Parses the text of a quantity (upstream `ParseQuantity`). White space around it is not accepted.
    ///
    /// Values beyond the range that exact sums need are capped.
    pub fn parse(text: &str) -> Result<Self, ParseAmountError> {
        let bad_number = || ParseAmountError::Number(text.to_owned());
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let number_length = unsigned.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, suffix) = unsigned.split_at(number_length);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(bad_number());
        }
        let fraction = fraction.trim_end_matches('0');
        let (scale, format) = parse_suffix(suffix)
            .ok_or_else(|| ParseAmountError::Suffix { text: text.to_owned(), suffix: suffix.to_owned() })?;
        let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
        let (exponent, binary) = match scale {
            SuffixScale::Ten(exponent) => (exponent, 1),
            SuffixScale::Two(exponent) => (0, 1_i128 << exponent),
        };
        let fraction_digits = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
        let magnitude = scaled(&digits, exponent.saturating_add(9).saturating_sub(fraction_digits), binary);
        let cap = if format == Format::BinarySi { i128::from(i64::MAX) * NANO } else { LIMIT };
        let magnitude = magnitude.min(cap);
        let format = if format == Format::BinarySi && magnitude < NANO && magnitude > 0 {
            Format::DecimalSi
        } else {
            format
        };
        Ok(Self { nanos: if text.starts_with('-') { -magnitude } else { magnitude }, format })
    }

    /// The value of an API quantity. White space around it is ignored, as upstream does when decoding.
    pub fn of(quantity: &Quantity) -> Result<Self, ParseAmountError> {
        Self::parse(quantity.0.trim())
    }

    /// Whole units, rounded away from zero and capped to the type (upstream `Value`).
    pub fn value(self) -> i64 {
        self.rounded(NANO)
    }

    /// Thousandths, rounded away from zero and capped to the type (upstream `MilliValue`).
    pub fn milli_value(self) -> i64 {
        self.rounded(NANO / 1000)
    }

    fn rounded(self, unit: i128) -> i64 {
        let quotient = self.nanos / unit;
        let rest = self.nanos % unit;
        let rounded = quotient + rest.signum();
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }

    /// Whether it is exactly zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// The sum. When the left side is zero the right side's way of printing wins (upstream `Add`).
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: (self.nanos + other.nanos).clamp(-LIMIT, LIMIT), format }
    }

    /// The difference, with the same rule for printing.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.plus(Self { nanos: -other.nanos, format: other.format })
    }

    /// The larger of two; the left one when they are equal.
    #[must_use]
    pub fn or_larger(self, other: Self) -> Self {
        if other > self { other } else { self }
    }

    /// The API's type in canonical form.
    pub fn to_quantity(self) -> Quantity {
        Quantity(self.to_string())
    }
}

impl PartialEq for Amount {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Amount {}
impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Amount {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Amount {
    type Err = ParseAmountError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Amount {
    /// Canonical form: no fraction digits, the largest suffix that keeps the value exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos % NANO == 0;
        let binary = self.format == Format::BinarySi && whole && self.nanos.abs() >= 1024 * NANO;
        if binary {
            let mut number = self.nanos / NANO;
            let mut steps = 0;
            while steps < 6 && number % 1024 == 0 {
                number /= 1024;
                steps += 1;
            }
            return write!(f, "{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][steps]);
        }
        let mut number = self.nanos;
        let mut exponent = -9_i32;
        let by_exponent = self.format == Format::DecimalExponent;
        while number % 1000 == 0 && (by_exponent || exponent < 18) {
            number /= 1000;
            exponent += 3;
        }
        if exponent == 0 {
            write!(f, "{number}")
        } else if by_exponent {
            write!(f, "{number}e{exponent}")
        } else {
            let suffix = match exponent {
                -9 => "n",
                -6 => "u",
                -3 => "m",
                3 => "k",
                6 => "M",
                9 => "G",
                12 => "T",
                15 => "P",
                _ => "E",
            };
            write!(f, "{number}{suffix}")
        }
    }
}

/// One entry of a resource list; `None` when it is absent or is no quantity (validation has reported that).
pub fn listed(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<Amount> {
    list?.get(name).and_then(|quantity| Amount::of(quantity).ok())
}

enum SuffixScale {
    Ten(i64),
    Two(u32),
}

fn parse_suffix(suffix: &str) -> Option<(SuffixScale, Format)> {
    let decimal = |exponent| Some((SuffixScale::Ten(exponent), Format::DecimalSi));
    let binary = |exponent| Some((SuffixScale::Two(exponent), Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let parsed = exponent.parse().unwrap_or(if exponent.starts_with('-') { -1000 } else { 1000 });
            Some((SuffixScale::Ten(parsed), Format::DecimalExponent))
        }
    }
}

/// `digits × 10^exponent × factor`, rounded up, capped at [`LIMIT`].
fn scaled(digits: &[u8], exponent: i64, factor: i128) -> i128 {
    let mut value = 0_i128;
    let mut remaining = exponent;
    let mut pushed = 0_i64;
    let mut lost = false;
    // Digits that stand below one nano-unit even after the factor only decide the rounding. The factor is at
    // most 2^60, so 19 more places than asked for are enough to keep it exact.
    let kept = i64::try_from(digits.len()).unwrap_or(i64::MAX).saturating_add(exponent).saturating_add(19);
    for digit in digits {
        if pushed >= kept {
            lost |= *digit != 0;
            remaining = remaining.saturating_add(1);
            continue;
        }
        pushed += 1;
        value = match value.checked_mul(10).and_then(|v| v.checked_add(i128::from(*digit))) {
            Some(value) => value,
            None => return LIMIT,
        };
    }
    if value == 0 {
        return i128::from(lost);
    }
    let Some(mut value) = value.checked_mul(factor) else { return LIMIT };
    while remaining > 0 {
        value = match value.checked_mul(10) {
            Some(value) if value <= LIMIT => value,
            _ => return LIMIT,
        };
        remaining -= 1;
    }
    while remaining < 0 && value > 0 {
        lost |= value % 10 != 0;
        value /= 10;
        remaining += 1;
    }
    (value + i128::from(lost)).min(LIMIT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, canonical: &str, value: i64, milli: i64) {
        let amount = Amount::parse(text).unwrap();
        assert_eq!(
            (amount.to_string().as_str(), amount.value(), amount.milli_value()),
            (canonical, value, milli),
            "{text}"
        );
    }

    #[test]
    fn parses_rounds_and_prints_like_upstream() {
        check("0", "0", 0, 0);
        check("00", "0", 0, 0);
        check("100m", "100m", 1, 100);
        check("0.1", "100m", 1, 100);
        check("1.5", "1500m", 2, 1500);
        check(".5", "500m", 1, 500);
        check("1.", "1", 1, 1000);
        check("+2", "2", 2, 2000);
        check("-1.5", "-1500m", -2, -1500);
        check("1000", "1k", 1000, 1_000_000);
        check("1024", "1024", 1024, 1_024_000);
        check("1Ki", "1Ki", 1024, 1_024_000);
        check("1.5Gi", "1536Mi", 1_610_612_736, 1_610_612_736_000);
        check("1000Ki", "1000Ki", 1_024_000, 1_024_000_000);
        check("1024Mi", "1Gi", 1 << 30, (1 << 30) * 1000);
        check("0.5Ki", "512", 512, 512_000);
        check("0.0001Ki", "102400u", 1, 103);
        check("12e6", "12e6", 12_000_000, 12_000_000_000);
        check("12E6", "12e6", 12_000_000, 12_000_000_000);
        check("1e3", "1e3", 1000, 1_000_000);
        check("1e-3", "1e-3", 1, 1);
        check("100e-1", "10", 10, 10_000);
        check("1E", "1E", 1_000_000_000_000_000_000, i64::MAX);
        check("0.1n", "1n", 1, 1);
        check("0.0000000001", "1n", 1, 1);
        check("1e-50", "1e-9", 1, 1);
        check("8Ei", "9223372036854775807", i64::MAX, i64::MAX);
    }

    #[test]
    fn rejects_what_is_no_quantity() {
        for text in [
            "", "a", "1a", "1 ", " 1", "1.2.3", ".", "-", "1e", "1e+", "1Kib", "1K", "1mm", "--1", "1é",
            "1ki",
        ] {
            assert!(Amount::parse(text).is_err(), "{text:?} was accepted");
        }
        let message = Amount::parse("10GB").unwrap_err().to_string();
        assert!(message.contains("\"GB\""), "{message}");
    }

    #[test]
    fn huge_texts_are_capped_and_terminate() {
        for text in ["1e999999999999999999999", "9".repeat(5000).as_str(), "1e2147483648"] {
            assert_eq!(Amount::parse(text).unwrap().value(), i64::MAX, "{text}");
        }
        let tiny = format!("0.{}1", "0".repeat(5000));
        assert_eq!(Amount::parse(&tiny).unwrap(), Amount::parse("1n").unwrap());
        assert_eq!(Amount::parse("1e-999999999999999999999").unwrap().value(), 1);
        assert_eq!(Amount::parse("1.00000000000000000000000000000000000000000000000").unwrap().value(), 1);
    }

    #[test]
    fn sums_take_the_format_of_the_first_that_is_not_zero() {
        let sum = |texts: &[&str]| {
            texts.iter().fold(Amount::ZERO, |sum, text| sum.plus(Amount::parse(text).unwrap())).to_string()
        };
        assert_eq!(sum(&["1Gi", "512Mi"]), "1536Mi");
        assert_eq!(sum(&["100m", "900m"]), "1");
        assert_eq!(sum(&["1Ki", "1m"]), "1024001m");
        assert_eq!(sum(&[]), "0");
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails_without_panic(text in ".{0,40}") {
            let _ = Amount::parse(&text);
        }

        #[test]
        fn canonical_form_is_a_fixed_point(number in "[+-]?[0-9]{1,12}(\\.[0-9]{0,12})?",
                                           suffix in "(|n|u|m|k|M|G|T|Ki|Mi|Gi|Ti|e-?[0-9]|E[0-9])") {
            let amount = Amount::parse(&format!("{number}{suffix}")).unwrap();
            let printed = amount.to_string();
            let again = Amount::parse(&printed).unwrap();
            prop_assert_eq!(amount, again);
            prop_assert_eq!(again.to_string(), printed);
        }

        #[test]
        fn addition_agrees_with_integers(a in -1_000_000_000_000_i64..1_000_000_000_000, b in -1_000_000_000_000_i64..1_000_000_000_000) {
            let sum = Amount::milli(a, Format::DecimalSi).plus(Amount::milli(b, Format::BinarySi));
            prop_assert_eq!(sum.milli_value(), a + b);
            prop_assert_eq!(sum.minus(Amount::milli(b, Format::DecimalSi)), Amount::milli(a, Format::DecimalSi));
        }

        #[test]
        fn order_agrees_with_integers(a in any::<i64>(), b in any::<i64>()) {
            prop_assert_eq!(Amount::units(a, Format::BinarySi).cmp(&Amount::units(b, Format::DecimalSi)), a.cmp(&b));
        }
    }
}
