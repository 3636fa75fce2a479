//! Flag texts as values: the grammars of pflag and of component-base `cli/flag`.
//!
//! Owns one parser per kind of flag and the rule that the first use of a list or map flag replaces
//! what was there while later uses add. It knows no flag names. Called through the flag table.

use std::collections::BTreeMap;
use std::fmt;

use rubelet_core::quantity::Amount;

use crate::duration::{GoDuration, LogFlushFrequency};
use crate::types::{HttpHeaders, MemoryReservation, QuantityText, Taint, VModuleItem};

/// A value that a flag can set. `first` is true for the flag's first use on the command line.
pub(crate) trait FlagValue {
    /// How help calls the value; empty for flags that need none.
    const NAME: &'static str;
    /// Sets or extends the value.
    fn set_flag(&mut self, text: &str, first: bool) -> Result<(), String>;
    /// The value as the command line would have it.
    fn show(&self) -> String;
}

/// Texts with commas between them.
fn listed<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(",")
}

/// Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

impl FlagValue for bool {
    const NAME: &'static str = "";
    fn set_flag(&mut self, text: &str, _: bool) -> Result<(), String> {
        *self = parse_bool(text)?;
        Ok(())
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

/// Go's `strconv.ParseInt` with base 0: decimal, `0x`, `0o`, `0b`, a leading 0 for octal, `_`.
fn parse_int(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let digits = digits.replace('_', "");
    let value = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => i128::from_str_radix(&digits[2..], 16),
        [b'0', b'b' | b'B', ..] => i128::from_str_radix(&digits[2..], 2),
        [b'0', b'o' | b'O', ..] => i128::from_str_radix(&digits[2..], 8),
        [b'0', _, ..] => i128::from_str_radix(&digits[1..], 8),
        _ => digits.parse(),
    };
    value.ok().map(|value| if negative { -value } else { value })
}

macro_rules! integer_flag {
    ($type:ty, $name:literal, $max:expr) => {
        impl FlagValue for $type {
            const NAME: &'static str = $name;
            fn set_flag(&mut self, text: &str, _: bool) -> Result<(), String> {
                let value = parse_int(text).ok_or("expected a whole number")?;
                *self = <$type>::try_from(value)
                    .ok()
                    .filter(|value| *value <= $max)
                    .ok_or_else(|| format!("expected a whole number from {} to {}", <$type>::MIN, $max))?;
                Ok(())
            }
            fn show(&self) -> String {
                self.to_string()
            }
        }
    };
}
integer_flag!(i32, "int32", i32::MAX);
integer_flag!(i64, "int", i64::MAX);
// Verbosity levels: klog takes no more than 31 bits.
integer_flag!(u32, "Level", 0x7fff_ffff);

impl FlagValue for String {
    const NAME: &'static str = "string";
    fn set_flag(&mut self, text: &str, _: bool) -> Result<(), String> {
        text.clone_into(self);
        Ok(())
    }
    fn show(&self) -> String {
        self.clone()
    }
}

impl FlagValue for GoDuration {
    const NAME: &'static str = "duration";
    fn set_flag(&mut self, text: &str, _: bool) -> Result<(), String> {
        *self = text.parse().map_err(|error| format!("not a duration: {error}"))?;
        Ok(())
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl FlagValue for LogFlushFrequency {
    const NAME: &'static str = "duration";
    fn set_flag(&mut self, text: &str, first: bool) -> Result<(), String> {
        self.duration.set_flag(text, first)
    }
    fn show(&self) -> String {
        self.duration.to_string()
    }
}

impl FlagValue for QuantityText {
    const NAME: &'static str = "quantity";
    fn set_flag(&mut self, text: &str, _: bool) -> Result<(), String> {
        Amount::parse(text).map_err(|error| error.to_string())?;
        self.0 = text.to_owned();
        Ok(())
    }
    fn show(&self) -> String {
        self.0.clone()
    }
}

impl FlagValue for Vec<String> {
    const NAME: &'static str = "strings";
    fn set_flag(&mut self, text: &str, first: bool) -> Result<(), String> {
        let values = parse_csv(text)?;
        if first {
            self.clear();
        }
        self.extend(values);
        Ok(())
    }
    fn show(&self) -> String {
        format!("[{}]", listed(self))
    }
}

/// One line of comma-separated values; a value in double quotes may hold commas and `""`.
fn parse_csv(text: &str) -> Result<Vec<String>, String> {
    let mut values = Vec::new();
    if text.is_empty() {
        return Ok(values);
    }
    let mut rest = text;
    loop {
        let (value, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_value(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if rest[..end].contains('"') {
                    return Err("a quote inside a value that does not start with one".to_owned());
                }
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        values.push(value);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(values),
            None => return Err("expected a comma after the closing quote".to_owned()),
        }
    }
}

/// The value up to its closing quote, and what follows it.
fn quoted_value(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let Some(end) = rest.find('"') else { return Err("a quote is not closed".to_owned()) };
        value.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(next) => {
                value.push('"');
                rest = next;
            }
            None => return Ok((value, rest)),
        }
    }
}

/// The `key<separator>value` pairs of a comma list; empty items are skipped, spaces trimmed.
fn pairs(text: &str, separator: char) -> impl Iterator<Item = Result<(&str, &str), String>> {
    text.split(',').filter(|item| !item.is_empty()).map(move |item| {
        item.split_once(separator)
            .map(|(key, value)| (key.trim(), value.trim()))
            .ok_or_else(|| format!("expected key{separator}value, got {item:?}"))
    })
}

fn set_pairs(
    map: &mut BTreeMap<String, String>,
    text: &str,
    separator: char,
    first: bool,
) -> Result<(), String> {
    let pairs: Vec<_> = pairs(text, separator).collect::<Result<_, _>>()?;
    if first {
        map.clear();
    }
    map.extend(pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())));
    Ok(())
}

impl FlagValue for BTreeMap<String, String> {
    const NAME: &'static str = "key=value,...";
    fn set_flag(&mut self, text: &str, first: bool) -> Result<(), String> {
        set_pairs(self, text, '=', first)
    }
    fn show(&self) -> String {
        listed(self.iter().map(|(key, value)| format!("{key}={value}")))
    }
}

/// `signal<threshold` pairs, as the eviction flags write them.
pub(crate) fn less_than_pairs(
    map: &mut BTreeMap<String, String>,
    text: &str,
    first: bool,
) -> Result<(), String> {
    set_pairs(map, text, '<', first)
}

/// One `key=value` pair per use; the value may hold commas.
pub(crate) fn single_pair(map: &mut BTreeMap<String, String>, text: &str, first: bool) -> Result<(), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("expected key=value, got {text:?}"))?;
    if first {
        map.clear();
    }
    map.insert(key.trim().to_owned(), value.trim().to_owned());
    Ok(())
}

/// Labels: `key=value` pairs where a key alone has an empty value; every use adds.
pub(crate) fn labels(map: &mut BTreeMap<String, String>, text: &str, _first: bool) -> Result<(), String> {
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (key, value) = item.split_once('=').unwrap_or((item, ""));
        map.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    Ok(())
}

/// An IP address as text; an empty text changes nothing, as upstream.
pub(crate) fn ip_address(slot: &mut String, text: &str, _first: bool) -> Result<(), String> {
    if !text.is_empty() {
        text.parse::<std::net::IpAddr>().map_err(|_| "not an IP address".to_owned())?;
        text.clone_into(slot);
    }
    Ok(())
}

impl FlagValue for BTreeMap<String, bool> {
    const NAME: &'static str = "key=true|false,...";
    fn set_flag(&mut self, text: &str, first: bool) -> Result<(), String> {
        let mut values = Vec::new();
        for pair in pairs(text, '=') {
            let (key, value) = pair?;
            let value = parse_bool(value).map_err(|error| format!("{key}: {error}"))?;
            values.push((key.to_owned(), value));
        }
        if first {
            self.clear();
        }
        self.extend(values);
        Ok(())
    }
    fn show(&self) -> String {
        listed(self.iter().map(|(key, value)| format!("{key}={value}")))
    }
}

impl FlagValue for HttpHeaders {
    const NAME: &'static str = "name:value,...";
    fn set_flag(&mut self, text: &str, first: bool) -> Result<(), String> {
        let pairs: Vec<_> = pairs(text, ':')
            .collect::<Result<_, _>>()
            // The text may hold a token, so it is not repeated.
            .map_err(|_| "expected name:value pairs".to_owned())?;
        if first {
            self.0.clear();
        }
        for (name, value) in pairs {
            self.0.entry(name.to_owned()).or_default().push(value.to_owned());
        }
        Ok(())
    }
    fn show(&self) -> String {
        listed(self.0.keys().map(|name| format!("{name}:")))
    }
}

impl FlagValue for Vec<VModuleItem> {
    const NAME: &'static str = "pattern=N,...";
    fn set_flag(&mut self, text: &str, first: bool) -> Result<(), String> {
        let mut items = Vec::new();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let bad = || format!("expected pattern=N, got {item:?}");
            let (pattern, level) = item.split_once('=').ok_or_else(bad)?;
            let verbosity: u32 = level.parse().map_err(|_| bad())?;
            if pattern.is_empty() || verbosity > 0x7fff_ffff {
                return Err(bad());
            }
            items.push(VModuleItem { file_pattern: pattern.to_owned(), verbosity });
        }
        if first {
            self.clear();
        }
        self.extend(items);
        Ok(())
    }
    fn show(&self) -> String {
        listed(self.iter().map(|item| format!("{}={}", item.file_pattern, item.verbosity)))
    }
}

impl FlagValue for Vec<Taint> {
    const NAME: &'static str = "key=value:effect,...";
    fn set_flag(&mut self, text: &str, _: bool) -> Result<(), String> {
        let mut taints: Vec<Taint> = Vec::new();
        for item in text.split(',').filter(|_| !text.is_empty()) {
            let bad = || format!("expected key=value:effect, got {item:?}");
            let (pair, effect) = item.rsplit_once(':').ok_or_else(bad)?;
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if key.is_empty() || key.contains(':') || value.contains(['=', ':']) {
                return Err(bad());
            }
            if taints.iter().any(|t| t.key == key && t.effect == effect) {
                return Err(format!("two taints with key {key:?} and effect {effect:?}"));
            }
            taints.push(Taint {
                key: key.to_owned(),
                value: value.to_owned(),
                effect: effect.to_owned(),
                time_added: None,
            });
        }
        *self = taints;
        Ok(())
    }
    fn show(&self) -> String {
        listed(self.iter().map(|taint| format!("{}={}:{}", taint.key, taint.value, taint.effect)))
    }
}

impl FlagValue for Vec<MemoryReservation> {
    const NAME: &'static str = "node:type=quantity,...;...";
    fn set_flag(&mut self, text: &str, first: bool) -> Result<(), String> {
        let mut reservations = Vec::new();
        for item in text.split(';').filter(|_| !text.is_empty()) {
            let bad = || format!("expected node:type=quantity[,type=quantity...], got {item:?}");
            let (node, limits) = item.split_once(':').ok_or_else(bad)?;
            let numa_node = node.parse().map_err(|_| bad())?;
            let mut reservation = MemoryReservation { numa_node, limits: BTreeMap::new() };
            for limit in limits.split(',') {
                let (kind, quantity) = limit.split_once('=').ok_or_else(bad)?;
                Amount::parse(quantity).map_err(|error| error.to_string())?;
                reservation.limits.insert(kind.to_owned(), QuantityText(quantity.to_owned()));
            }
            reservations.push(reservation);
        }
        if first {
            self.clear();
        }
        self.extend(reservations);
        Ok(())
    }
    fn show(&self) -> String {
        let nodes = self.iter().map(|reservation| {
            let limits = reservation.limits.iter().map(|(kind, quantity)| format!("{kind}={}", quantity.0));
            format!("{}:{}", reservation.numa_node, listed(limits))
        });
        nodes.collect::<Vec<_>>().join(";")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Debug;

    #[track_caller]
    fn check<T: FlagValue + Default + Debug>(texts: &[&str], expected: &str) {
        let mut value = T::default();
        for (index, text) in texts.iter().enumerate() {
            if let Err(error) = value.set_flag(text, index == 0) {
                assert_eq!(format!("error: {error}"), expected);
                return;
            }
        }
        assert_eq!(format!("{value:?}"), expected);
    }

    #[test]
    fn scalars() {
        check::<bool>(&["T"], "true");
        check::<bool>(&["yes"], "error: expected true or false");
        check::<i32>(&["0x10"], "16");
        check::<i32>(&["-999"], "-999");
        check::<i32>(&["3000000000"], "error: expected a whole number from -2147483648 to 2147483647");
        check::<i32>(&["ten"], "error: expected a whole number");
        check::<u32>(&["4"], "4");
        check::<u32>(&["-1"], "error: expected a whole number from 0 to 2147483647");
    }

    #[test]
    fn lists_split_as_csv_and_add_up() {
        check::<Vec<String>>(&["a,b", "c"], r#"["a", "b", "c"]"#);
        check::<Vec<String>>(&["\"a,\"\"b\"\"\",c"], r#"["a,\"b\"", "c"]"#);
        check::<Vec<String>>(&[""], "[]");
        check::<Vec<String>>(&["\"a"], "error: a quote is not closed");
        check::<Vec<String>>(&["a\"b"], "error: a quote inside a value that does not start with one");
    }

    #[test]
    fn maps_add_up_over_uses() {
        check::<BTreeMap<String, String>>(
            &["cpu=100m, memory=1Gi,", "pid=5"],
            r#"{"cpu": "100m", "memory": "1Gi", "pid": "5"}"#,
        );
        check::<BTreeMap<String, String>>(&["cpu"], "error: expected key=value, got \"cpu\"");
        check::<BTreeMap<String, bool>>(&["A=true,B=0"], r#"{"A": true, "B": false}"#);
        check::<BTreeMap<String, bool>>(&["A=yes"], "error: A: expected true or false");
    }

    #[test]
    fn headers_are_never_shown() {
        check::<HttpHeaders>(&["X:secret,X:b"], r#"{"X": "<masked>"}"#);
        check::<HttpHeaders>(&["secret"], "error: expected name:value pairs");
    }

    #[test]
    fn special_forms() {
        let mut map = BTreeMap::from([("old".to_owned(), "1".to_owned())]);
        less_than_pairs(&mut map, "memory.available<100Mi,nodefs.available<10%", true).expect("valid");
        assert_eq!(format!("{map:?}"), r#"{"memory.available": "100Mi", "nodefs.available": "10%"}"#);
        labels(&mut map, "a=b,c", true).expect("valid");
        assert_eq!(map.get("c").map(String::as_str), Some(""));
        check::<Vec<Taint>>(
            &["a=b:NoSchedule,c:NoExecute"],
            r#"[Taint { key: "a", value: "b", effect: "NoSchedule", time_added: None }, Taint { key: "c", value: "", effect: "NoExecute", time_added: None }]"#,
        );
        check::<Vec<Taint>>(&["a=b"], "error: expected key=value:effect, got \"a=b\"");
        check::<Vec<MemoryReservation>>(
            &["0:memory=1Gi,hugepages-2Mi=2Mi;1:memory=2Gi"],
            r#"[MemoryReservation { numa_node: 0, limits: {"hugepages-2Mi": QuantityText("2Mi"), "memory": QuantityText("1Gi")} }, MemoryReservation { numa_node: 1, limits: {"memory": QuantityText("2Gi")} }]"#,
        );
        check::<Vec<VModuleItem>>(&["a*=3,"], r#"[VModuleItem { file_pattern: "a*", verbosity: 3 }]"#);
    }
}
