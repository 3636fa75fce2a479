//! The text that Go's dump printer makes of a pod, from which upstream hashes the UID of a static pod.
//!
//! Upstream prints its *internal* pod object (`dump.ForHash`) after defaulting and hashes the text, so to
//! recognise the pods of a running upstream kubelet the text has to agree to the byte. A table of the
//! internal types ([`types`]) is walked over the JSON of the defaulted v1 pod. Only `static_pod` calls this.
//! It never decides defaults (see [`crate::defaults`]) and never sees a manifest's text.
//!
//! One thing cannot be reproduced from a manifest alone: a timestamp is printed with the machine's time
//! zone tables. They are taken to be UTC's, so on nodes with another zone a manifest that carries a
//! `creationTimestamp` with a value gets another UID than upstream's.

mod fnv128;
pub(crate) mod quantity;
pub(crate) mod types;

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value};

pub(crate) use fnv128::Fnv128a;
use quantity::GoQuantity;
use types::{Field, Source, Type};

/// Pod-level quantities that the defaults computed; their inner form differs from what their text would give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DerivedQuantities {
    pub(crate) limits: BTreeMap<String, GoQuantity>,
    pub(crate) requests: BTreeMap<String, GoQuantity>,
}

/// Writes the dump of a defaulted pod, as upstream prints it before the pod is renamed and bound.
///
/// Quantities have to be as the manifest wrote them, not in canonical form.
pub(crate) fn write_pod(pod: &Pod, derived: &DerivedQuantities, out: &mut impl Write) -> fmt::Result {
    let mut value = crate::json::to_value(pod).map_err(|_| fmt::Error)?;
    to_internal(&mut value);
    Printer { out, derived }.typed(Some(&value), &Type::Pointer(&types::POD), Place::Elsewhere)
}

/// Moves v1 fields to where the internal types have them (upstream's conversion functions for pods).
fn to_internal(pod: &mut Value) {
    let Value::Object(pod) = pod else { return };
    pod.remove("apiVersion");
    pod.remove("kind");
    if let Some(Value::Object(spec)) = pod.get_mut("spec") {
        let moved = ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"];
        let moved: Vec<_> = moved.into_iter().filter_map(|key| spec.remove_entry(key)).collect();
        let context = spec.entry("securityContext").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(context) = context {
            context.extend(moved);
        }
        if let Some(name) = spec.remove("serviceAccount")
            && spec.get("serviceAccountName").and_then(Value::as_str).unwrap_or_default().is_empty()
        {
            spec.insert("serviceAccountName".into(), name);
        }
    }
    if let Some(Value::Object(status)) = pod.get_mut("status") {
        let first = status.get("podIPs").and_then(|ips| ips.get(0)).and_then(|ip| ip.get("ip"));
        if let Some(ip) = status.get("podIP").filter(|ip| ip.as_str().is_some_and(|ip| !ip.is_empty()))
            && first != Some(ip)
        {
            let only = serde_json::json!([{ "ip": ip }]);
            status.insert("podIPs".into(), only);
        }
    }
}

/// Whether the walk is inside the pod-level resources, whose quantities may be computed ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Elsewhere,
    PodResources,
    PodLimits,
    PodRequests,
}

impl Place {
    fn inside(self, type_name: &str, field: &str) -> Self {
        match (self, type_name, field) {
            (_, "core.PodSpec", "Resources") => Self::PodResources,
            (Self::PodResources, _, "Limits") => Self::PodLimits,
            (Self::PodResources, _, "Requests") => Self::PodRequests,
            _ => Self::Elsewhere,
        }
    }
}

struct Printer<'a, W> {
    out: &'a mut W,
    derived: &'a DerivedQuantities,
}

impl<W: Write> Printer<'_, W> {
    /// `(type)value`, as every struct field and the root are printed.
    fn typed(&mut self, value: Option<&Value>, of: &Type, place: Place) -> fmt::Result {
        self.out.write_char('(')?;
        of.write_name(self.out)?;
        self.out.write_char(')')?;
        self.bare(value, of, place)
    }

    /// The value alone, as items of lists and maps are printed.
    fn bare(&mut self, value: Option<&Value>, of: &Type, place: Place) -> fmt::Result {
        let value = value.filter(|value| !value.is_null());
        match of {
            Type::Text(_) => self.out.write_str(value.and_then(Value::as_str).unwrap_or_default()),
            Type::Bool => write!(self.out, "{}", value.and_then(Value::as_bool).unwrap_or_default()),
            Type::Int32 | Type::Int64 => {
                write!(self.out, "{}", value.and_then(Value::as_i64).unwrap_or_default())
            }
            Type::Quantity => {
                let quantity = value.and_then(Value::as_str).and_then(GoQuantity::parse);
                write!(self.out, "{}", quantity.unwrap_or(GoQuantity::zero()))
            }
            Type::IntOrString => self.int_or_string(value),
            Type::Time => self.time(value),
            Type::FieldsV1 => self.raw_json(value),
            Type::Pointer(of) => match value {
                None => self.out.write_str("<nil>"),
                Some(_) => self.bare(value, of, place),
            },
            Type::List(of) => match value.and_then(Value::as_array) {
                None => self.out.write_str("<nil>"),
                Some(items) => {
                    self.out.write_char('[')?;
                    for (index, item) in items.iter().enumerate() {
                        self.space(index)?;
                        self.bare(Some(item), of, Place::Elsewhere)?;
                    }
                    self.out.write_char(']')
                }
            },
            Type::Map(name, of) => match value.and_then(Value::as_object) {
                None => self.out.write_str("<nil>"),
                Some(entries) => self.map(entries, name, of, place),
            },
            Type::Struct(name, fields, _) => {
                self.out.write_char('{')?;
                for (index, Field(go_name, source, of)) in fields.iter().enumerate() {
                    self.space(index)?;
                    write!(self.out, "{go_name}:")?;
                    let field = match source {
                        Source::Inline => value,
                        Source::Key(key) | Source::Internal(key) => value.and_then(|value| value.get(key)),
                    };
                    self.typed(field, of, place.inside(name, go_name))?;
                }
                self.out.write_char('}')
            }
        }
    }

    fn space(&mut self, index: usize) -> fmt::Result {
        if index > 0 { self.out.write_char(' ') } else { Ok(()) }
    }

    fn map(&mut self, entries: &Map<String, Value>, name: &str, of: &Type, place: Place) -> fmt::Result {
        let mut keys: Vec<&String> = entries.keys().collect();
        keys.sort();
        self.out.write_str("map[")?;
        for (index, key) in keys.into_iter().enumerate() {
            self.space(index)?;
            write!(self.out, "{key}:")?;
            if name != "core.ResourceList" {
                self.bare(entries.get(key), of, Place::Elsewhere)?;
                continue;
            }
            let derived = match place {
                Place::PodLimits => self.derived.limits.get(key),
                Place::PodRequests => self.derived.requests.get(key),
                Place::Elsewhere | Place::PodResources => None,
            };
            let written = entries.get(key).and_then(Value::as_str).and_then(GoQuantity::parse);
            let quantity = derived.cloned().or(written).unwrap_or(GoQuantity::zero());
            write!(self.out, "{}", quantity.rounded_up_to_milli())?;
        }
        self.out.write_char(']')
    }

    fn int_or_string(&mut self, value: Option<&Value>) -> fmt::Result {
        let text = value.and_then(Value::as_str);
        let number = value.and_then(Value::as_i64).unwrap_or_default();
        write!(
            self.out,
            "{{Type:(intstr.Type){} IntVal:(int32){number} StrVal:(string){}}}",
            i32::from(text.is_some()),
            text.unwrap_or_default()
        )
    }

    fn time(&mut self, value: Option<&Value>) -> fmt::Result {
        let time = value.and_then(Value::as_str).and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let Some(time) = time else {
            return self
                .out
                .write_str("{Time:(time.Time){wall:(uint64)0 ext:(int64)0 loc:(*time.Location)<nil>}}");
        };
        // Seconds from the year 1 to 1970, the epoch of Go's inner form.
        const YEAR_ONE: i64 = 62_135_596_800;
        let seconds = time.as_second() - i64::from(time.subsec_nanosecond() < 0);
        let nanoseconds = time.subsec_nanosecond().rem_euclid(1_000_000_000);
        write!(
            self.out,
            "{{Time:(time.Time){{wall:(uint64){nanoseconds} ext:(int64){} loc:(*time.Location){UTC_LOCATION}}}}}",
            seconds + YEAR_ONE
        )
    }

    fn raw_json(&mut self, value: Option<&Value>) -> fmt::Result {
        let bytes = value.map(Value::to_string).unwrap_or_default();
        self.out.write_str("{Raw:([]uint8)[")?;
        for (index, byte) in bytes.bytes().enumerate() {
            self.space(index)?;
            write!(self.out, "{byte}")?;
        }
        self.out.write_str("]}")
    }
}

/// How Go prints the local time zone of a machine whose zone is UTC.
const UTC_LOCATION: &str = "{name:(string)Local zone:([]time.zone)[{name:(string)UTC offset:(int)0 \
    isDST:(bool)false}] tx:([]time.zoneTrans)[{when:(int64)-9223372036854775808 index:(uint8)0 isstd:(bool)false \
    isutc:(bool)false}] extend:(string)UTC0 cacheStart:(int64)-9223372036854775808 \
    cacheEnd:(int64)9223372036854775807 cacheZone:(*time.zone){name:(string)UTC offset:(int)0 isDST:(bool)false}}";
