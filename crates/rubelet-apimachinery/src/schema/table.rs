//! The rows behind [`super::Type`]: numbers that point into one text and into each other.
//!
//! Written by the build script (`build/tables.rs`); read by this folder only. No row holds a pointer, so that the
//! tables stay in pages the kernel shares and may drop.

use super::{Empty, Field, ListKind, PatchRule, Shape, Type};

/// A piece of [`TEXT`].
#[derive(Clone, Copy)]
struct Text {
    start: u16,
    length: u8,
}

/// One type. `a`, `b`: of a struct its first field and their number, of a list its items' type and its list kind (0
/// atomic, 1 set, else 2 + row of [`KEYS`]), of a map its values' type.
struct TypeRow {
    name: Text,
    shape: u8,
    a: u16,
    b: u16,
}

/// One field. `flags`: bits for required, atomic, merge, retainKeys, replace, then two bits of [`Empty`]. `key` and
/// `default`: 1 + row of [`WORDS`], or 0.
struct FieldRow {
    name: Text,
    flags: u8,
    of: u16,
    key: u8,
    default: u8,
}

/// One kind and its type, sorted by `apiVersion` and kind.
struct KindRow {
    api_version: Text,
    kind: Text,
    of: u16,
}

/// Set in a shape's number: owned as a whole.
const ATOMIC: u8 = 0x80;

const fn t(start: u16, length: u8, shape: u8, a: u16, b: u16) -> TypeRow {
    TypeRow { name: Text { start, length }, shape, a, b }
}

const fn f(start: u16, length: u8, flags: u8, of: u16, key: u8, default: u8) -> FieldRow {
    FieldRow { name: Text { start, length }, flags, of, key, default }
}

const fn k(start: u16, length: u8, kind_start: u16, kind_length: u8, of: u16) -> KindRow {
    KindRow { api_version: Text { start, length }, kind: Text { start: kind_start, length: kind_length }, of }
}

include!(concat!(env!("OUT_DIR"), "/tables.rs"));

fn text(at: Text) -> &'static str {
    let start = usize::from(at.start);
    TEXT.get(start..start + usize::from(at.length)).unwrap_or_default()
}

/// What stands for a row that is not there, which the build script never writes.
static NOTHING: TypeRow = t(0, 0, 10, 0, 0);

fn row(of: Type) -> &'static TypeRow {
    TYPES.get(usize::from(of.0)).unwrap_or(&NOTHING)
}

pub(super) fn by_name(name: &str) -> Option<Type> {
    let named = TYPES.get(..NAMED)?;
    let index = named.binary_search_by(|row| text(row.name).cmp(name)).ok()?;
    u16::try_from(index).ok().map(Type)
}

pub(super) fn by_kind(api_version: &str, kind: &str) -> Option<Type> {
    let key = (api_version, kind);
    let index = KINDS.binary_search_by(|row| (text(row.api_version), text(row.kind)).cmp(&key)).ok()?;
    KINDS.get(index).map(|row| Type(row.of))
}

/// All kinds: `apiVersion`, kind and type.
pub(super) fn kinds() -> impl Iterator<Item = (&'static str, &'static str, Type)> {
    KINDS.iter().map(|row| (text(row.api_version), text(row.kind), Type(row.of)))
}

pub(super) fn name(of: Type) -> &'static str {
    text(row(of).name)
}

pub(super) fn is_atomic(of: Type) -> bool {
    row(of).shape & ATOMIC != 0
}

pub(super) fn shape(of: Type) -> Shape {
    let row = row(of);
    match row.shape & !ATOMIC {
        0 => Shape::String,
        1 => Shape::Integer { wide: false },
        2 => Shape::Integer { wide: true },
        3 => Shape::Number,
        4 => Shape::Boolean,
        5 => Shape::Quantity,
        6 => Shape::IntOrString,
        7 => Shape::Time,
        8 => Shape::MicroTime,
        9 => Shape::Bytes,
        11 => Shape::Struct,
        12 => Shape::List {
            item: Type(row.a),
            kind: match row.b {
                0 => ListKind::Atomic,
                1 => ListKind::Set,
                keys => ListKind::Map(KEYS.get(usize::from(keys) - 2).copied().unwrap_or_default()),
            },
        },
        13 => Shape::Map { value: Type(row.a) },
        _ => Shape::Any,
    }
}

fn field_rows(of: Type) -> &'static [FieldRow] {
    let row = row(of);
    if row.shape & !ATOMIC != 11 {
        return &[];
    }
    let first = usize::from(row.a);
    FIELDS.get(first..first + usize::from(row.b)).unwrap_or_default()
}

pub(super) fn fields(of: Type) -> impl ExactSizeIterator<Item = Field> {
    field_rows(of).iter().map(field_of)
}

pub(super) fn field(of: Type, name: &str) -> Option<Field> {
    let rows = field_rows(of);
    let index = rows.binary_search_by(|row| text(row.name).cmp(name)).ok()?;
    rows.get(index).map(field_of)
}

fn field_of(row: &FieldRow) -> Field {
    let flag = |bit: u8| row.flags & (1 << bit) != 0;
    let word = |number: u8| WORDS.get(usize::from(number).checked_sub(1)?).copied();
    Field {
        name: text(row.name),
        of: Type(row.of),
        required: flag(0),
        atomic: flag(1),
        patch: PatchRule { merge: flag(2), merge_key: word(row.key), retain_keys: flag(3), replace: flag(4) },
        default: word(row.default),
        empty: match row.flags >> 5 {
            0 => Empty::Kept,
            1 => Empty::Dropped,
            2 => Empty::Written,
            _ => Empty::Null,
        },
    }
}
