//! What SELinux says of containers on this machine. Reads its policy's files; decides and labels nothing.

use std::fs;
use std::path::Path;

/// Where SELinux is configured.
const SELINUX: &str = "/etc/selinux";

/// The label of files of containers by the policy in force; `None` when there is none or it does not say.
pub fn file_label() -> Option<String> {
    file_label_in(Path::new(SELINUX))
}

fn file_label_in(dir: &Path) -> Option<String> {
    let policy = value_of(&fs::read_to_string(dir.join("config")).ok()?, "SELINUXTYPE")?;
    if policy.contains('/') {
        return None;
    }
    value_of(&fs::read_to_string(dir.join(policy).join("contexts/lxc_contexts")).ok()?, "file")
}

/// The value of a key in lines of `key = "value"`; lines that begin with `#` or `;` are comments.
fn value_of(text: &str, key: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let mut values = lines.filter_map(|line| line.split_once('=')).filter(|(name, _)| name.trim() == key);
    let value = values.next_back()?.1.trim().trim_matches('"');
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_in_force_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let check = |config: &str, contexts: &str, expected: Option<&str>| {
            fs::create_dir_all(dir.path().join("targeted/contexts")).unwrap();
            fs::write(dir.path().join("config"), config).unwrap();
            fs::write(dir.path().join("targeted/contexts/lxc_contexts"), contexts).unwrap();
            assert_eq!(file_label_in(dir.path()).as_deref(), expected, "{config} {contexts}");
        };
        let file = "process = \"system_u:system_r:container_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\n";
        check("SELINUXTYPE=targeted\n", file, Some("system_u:object_r:container_file_t:s0"));
        check(
            "# SELINUXTYPE=mls\nSELINUX=enforcing\nSELINUXTYPE=targeted",
            file,
            Some("system_u:object_r:container_file_t:s0"),
        );
        check("SELINUXTYPE=targeted", "; file = \"x\"\nfile=\n", None);
        check("SELINUXTYPE=mls", file, None);
        check("SELINUXTYPE=../targeted", file, None);
        check("", file, None);
    }
}
