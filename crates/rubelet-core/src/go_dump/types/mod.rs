//! The table of upstream's internal pod types: every field in declaration order, with the type names Go prints.
//!
//! Owns facts only; the parent module prints them, `static_pod` checks manifests against them. The internal
//! types (upstream `pkg/apis/core`) differ from the API's v1 types in few places; where they do, [`Source`]
//! says so. `xtask` does not generate this: it changes once per Kubernetes release, and the golden UIDs in
//! `tests/data/static-uid` fail when a row is missing.

mod container;
mod pod;
mod shared;
mod status;
mod volume;

pub(crate) use pod::POD;

/// One Go type.
pub(crate) enum Type {
    /// A string type, by its printed name.
    Text(&'static str),
    /// `bool`.
    Bool,
    /// `int32`.
    Int32,
    /// `int64`.
    Int64,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `v1.Time` of the metadata package.
    Time,
    /// `v1.FieldsV1`: JSON kept as bytes.
    FieldsV1,
    /// A pointer.
    Pointer(&'static Type),
    /// A slice.
    List(&'static Type),
    /// A map from strings, by its printed name.
    Map(&'static str, &'static Type),
    /// A struct: printed name, its fields, and fields that only the v1 type has.
    Struct(&'static str, &'static [Field], &'static [Field]),
}

/// One field of a struct: the Go name, where its value comes from, its type.
pub(crate) struct Field(pub(crate) &'static str, pub(crate) Source, pub(crate) &'static Type);

/// Where the value of an internal field stands in the v1 JSON.
pub(crate) enum Source {
    /// Under this key.
    Key(&'static str),
    /// In the same object: an embedded struct.
    Inline,
    /// Nowhere in v1; the conversion puts it under this key before printing.
    Internal(&'static str),
}

impl Type {
    /// Writes the name as Go prints it.
    pub(crate) fn write_name(&self, out: &mut impl std::fmt::Write) -> std::fmt::Result {
        match self {
            Type::Text(name) | Type::Map(name, _) | Type::Struct(name, _, _) => out.write_str(name),
            Type::Bool => out.write_str("bool"),
            Type::Int32 => out.write_str("int32"),
            Type::Int64 => out.write_str("int64"),
            Type::Quantity => out.write_str("resource.Quantity"),
            Type::IntOrString => out.write_str("intstr.IntOrString"),
            Type::Time => out.write_str("v1.Time"),
            Type::FieldsV1 => out.write_str("v1.FieldsV1"),
            Type::Pointer(of) => {
                out.write_str("*")?;
                of.write_name(out)
            }
            Type::List(of) => {
                out.write_str("[]")?;
                of.write_name(out)
            }
        }
    }
}
