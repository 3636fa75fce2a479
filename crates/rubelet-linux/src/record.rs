//! Small durable records, one file for each pod: a line with a checksum and a body, replaced by rename, so that kill -9
//! at any moment leaves the old or the new one and never a torn one.
//!
//! Owns the form and the names of files; what is in a body is its journal's. For threads that may block.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rubelet_core::ids::PodUid;

/// What the name of a record that was set aside ends with.
pub const DAMAGED: &str = "damaged";

/// The text of a record: a first line with kind, version and checksum, and the body, which has to be one line.
pub fn encode(kind: &str, version: u32, body: &str) -> String {
    format!("{}\n{body}\n", head(kind, version, body))
}

/// The body of a record.
///
/// # Errors
/// What is wrong with it: torn, changed, of another kind or version.
pub fn decode<'a>(kind: &str, version: u32, text: &'a str) -> Result<&'a str, String> {
    let (found, body) = text.split_once('\n').ok_or("the record is empty or torn")?;
    let body = body.strip_suffix('\n').ok_or("the record is torn")?;
    let expected = head(kind, version, body);
    if found == expected {
        return Ok(body);
    }
    Err(format!("bad head `{}`, expected `{expected}`", found.chars().take(60).collect::<String>()))
}

fn head(kind: &str, version: u32, body: &str) -> String {
    format!("{kind} v{version} {:08x}", checksum(body.as_bytes()))
}

/// FNV-1a, 32 bits: enough to notice torn or edited text.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Name of a pod's file. UIDs come from manifests: everything but letters, digits and dashes is written as `%` and two
/// hexadecimal digits, so that none chooses its path and each can be read back.
pub fn file_name(uid: &PodUid) -> String {
    let mut name = String::new();
    for byte in uid.as_str().bytes() {
        match byte {
            b'-' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => name.push(byte.into()),
            _ => {
                let _ = write!(name, "%{byte:02x}");
            }
        }
    }
    name.push_str(".json");
    name
}

/// The UID whose record a file is; `None` for any other file.
pub fn uid_of(path: &Path) -> Option<PodUid> {
    let name = path.file_name()?.to_str()?.strip_suffix(".json")?;
    let mut parts = name.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(part.get(2..)?.as_bytes());
    }
    Some(PodUid::new(String::from_utf8(bytes).ok()?))
}

/// Replaces a record; makes its directory if it is not there.
///
/// # Errors
/// When it cannot be written; the old one is then still there.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let written = fs::File::create(&fresh).and_then(|mut file| file.write_all(text.as_bytes()));
    match (written, path.parent()) {
        (Err(error), Some(dir)) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir)?;
            fs::File::create(&fresh)?.write_all(text.as_bytes())?;
        }
        (written, _) => written?,
    }
    fs::rename(&fresh, path)
}

/// Removes a record; one that is not there is fine.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Puts a damaged record where it is not read again; the answer says where, or why not.
pub fn set_aside(path: &Path) -> String {
    let aside: PathBuf = path.with_extension(DAMAGED);
    match fs::rename(path, &aside) {
        Ok(()) => format!("set aside as {}", aside.display()),
        Err(error) => format!("and it cannot be set aside: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_truncation_and_bit_flip_is_noticed() {
        let text = encode("mounts", 1, r#"{"a":[1,2],"b":"x"}"#);
        assert_eq!(decode("mounts", 1, &text), Ok(r#"{"a":[1,2],"b":"x"}"#));
        assert!(decode("mounts", 2, &text).is_err() && decode("pods", 1, &text).is_err());
        for cut in 0..text.len() {
            assert!(decode("mounts", 1, &text[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert!(decode("mounts", 1, &changed).is_err(), "bit flipped at {at}");
        }
    }

    #[test]
    fn replaced_removed_and_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("below/u.json");
        replace(&path, "one").unwrap();
        replace(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert!(set_aside(&path).starts_with("set aside as "));
        remove(&path).unwrap();
        assert!(set_aside(&path).starts_with("and it cannot be set aside: "));
        assert_eq!(fs::read_to_string(path.with_extension("damaged")).unwrap(), "two");
    }

    proptest! {
        #[test]
        fn any_uid_is_one_plain_name_and_can_be_read_back(uid in ".*") {
            let uid = PodUid::new(uid);
            let name = file_name(&uid);
            prop_assert!(!name.contains('/') && name != ".json" || uid.as_str().is_empty());
            prop_assert_eq!(uid_of(Path::new(&name)), Some(uid));
        }

        #[test]
        fn any_text_and_name_is_survived(text in ".*", name in "[^/]*") {
            let _ = decode("mounts", 1, &text);
            let _ = uid_of(Path::new(&name));
        }
    }
}
