//! Reads `wire.txt`, the numbers of fields in protobuf, and writes them as a table sorted by type.

use std::fmt::Write as _;

use crate::Failure;

/// The table's source.
pub fn source(text: &str) -> Result<String, Failure> {
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let mut words = line.split(' ');
        let name = words.next().ok_or("an empty line")?;
        let mut fields = Vec::new();
        for word in words {
            let (field, number) = word.rsplit_once('=').ok_or_else(|| format!("{word}: no number"))?;
            fields.push((number.parse::<u32>()?, field));
        }
        fields.sort_unstable();
        rows.push((name, fields));
    }
    rows.sort_unstable();
    let mut source = format!("static WIRE: [(&str, &[(u32, &str)]); {}] = [\n", rows.len());
    for (name, fields) in rows {
        writeln!(source, "    ({name:?}, &{fields:?}),")?;
    }
    source.push_str("];\n");
    Ok(source)
}
