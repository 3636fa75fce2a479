//! `vol_data.json`: what is kept on disk of a volume of a driver, in upstream's words, so that it can be unpublished and
//! unstaged without anybody's word, by this agent or by the kubelet. Blocks; for the file system pool.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use rubelet_core::ids::PodUid;

use super::paths::DATA_FILE;

/// Largest file that is read, bytes.
const LIMIT: u64 = 64 * 1024;
/// The same file while it is written.
const DRAFT: &str = ".vol_data.json.new";

/// The facts of one volume. What a file does not have is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VolumeData {
    /// Name of the PersistentVolume, or of the pod's volume.
    pub(crate) spec_name: String,
    /// The driver's name for the volume.
    pub(crate) handle: String,
    /// Name of the driver.
    pub(crate) driver: String,
    /// Name of the node.
    pub(crate) node: String,
    /// Name of the VolumeAttachment, whether there is one or not.
    pub(crate) attachment: String,
    /// `Persistent` or `Ephemeral`.
    pub(crate) lifecycle: String,
    /// SELinux context that it was mounted with.
    pub(crate) selinux: String,
}

impl VolumeData {
    /// By upstream's keys.
    fn fields(&self) -> [(&'static str, &String); 7] {
        [
            ("specVolID", &self.spec_name),
            ("volumeHandle", &self.handle),
            ("driverName", &self.driver),
            ("nodeName", &self.node),
            ("attachmentID", &self.attachment),
            ("volumeLifecycleMode", &self.lifecycle),
            ("seLinuxMountContext", &self.selinux),
        ]
    }

    /// The pod's own volume, which is never staged.
    pub(crate) fn is_inline(&self) -> bool {
        self.lifecycle == "Ephemeral"
    }

    /// The text of the file: one line, keys in order, empty ones left out.
    pub(crate) fn to_text(&self) -> io::Result<Vec<u8>> {
        let filled: BTreeMap<&str, &String> =
            self.fields().into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let mut text = serde_json::to_vec(&filled)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads the text of a file; keys that nobody knows are passed over.
    pub(crate) fn parse(text: &[u8]) -> io::Result<Self> {
        let mut found: BTreeMap<String, String> = serde_json::from_slice(text)?;
        let mut take = |key: &str| found.remove(key).unwrap_or_default();
        let data = Self {
            spec_name: take("specVolID"),
            handle: take("volumeHandle"),
            driver: take("driverName"),
            node: take("nodeName"),
            attachment: take("attachmentID"),
            lifecycle: take("volumeLifecycleMode"),
            selinux: take("seLinuxMountContext"),
        };
        if data.driver.is_empty() || data.handle.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it names no driver or no volume"));
        }
        Ok(data)
    }

    /// Writes it into `dir`, replacing what is there in one step; nothing is written when it is there already.
    pub(crate) fn save(&self, dir: &Path) -> io::Result<()> {
        let (file, draft, text) = (dir.join(DATA_FILE), dir.join(DRAFT), self.to_text()?);
        if fs::read(&file).is_ok_and(|present| present == text) {
            return Ok(());
        }
        fs::write(&draft, text)?;
        fs::File::open(&draft)?.sync_all()?;
        fs::rename(draft, file)
    }

    /// What `dir` has; `None` when it has no such file.
    pub(crate) fn load(dir: &Path) -> io::Result<Option<Self>> {
        match rubelet_linux::beneath::read_file(dir, Path::new(DATA_FILE), LIMIT) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => Self::parse(&read?).map(Some).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", dir.join(DATA_FILE).display()))
            }),
        }
    }
}

/// Removes the file, and the rest of a write that was cut short.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    for name in [DATA_FILE, DRAFT] {
        gone(fs::remove_file(dir.join(name)))?;
    }
    Ok(())
}

/// What is not there needs no removing.
pub(super) fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Pods that have a file system volume of this driver and handle, by what lies in their directories. One whose facts
/// cannot be read is taken to have it.
pub(super) fn users(pods: &Path, driver: &str, handle: &str) -> io::Result<Vec<PodUid>> {
    let mut users = Vec::new();
    for pod in entries(pods)? {
        let Ok(uid) = pod.file_name().into_string() else { continue };
        let volumes = entries(&super::paths::pod_volumes(&pod.path()))?;
        let uses = volumes.iter().any(|volume| match VolumeData::load(&volume.path()) {
            Ok(Some(data)) => data.driver == driver && data.handle == handle,
            Ok(None) => false,
            Err(_) => true,
        });
        if uses {
            users.push(PodUid::from(uid));
        }
    }
    Ok(users)
}

/// The entries of a directory; none when it is not there.
pub(super) fn entries(dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        read => read?.collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data() -> VolumeData {
        VolumeData {
            spec_name: "pv-1".into(),
            handle: "vol-1".into(),
            driver: "d.example".into(),
            node: "n1".into(),
            attachment: "csi-00".into(),
            lifecycle: "Persistent".into(),
            selinux: String::new(),
        }
    }

    #[test]
    fn what_upstream_writes_is_what_is_written() {
        let text = "{\"attachmentID\":\"csi-00\",\"driverName\":\"d.example\",\"nodeName\":\"n1\",\"specVolID\":\"pv-1\",\
                    \"volumeHandle\":\"vol-1\",\"volumeLifecycleMode\":\"Persistent\"}\n";
        assert_eq!(String::from_utf8(data().to_text().unwrap()).unwrap(), text);
        assert_eq!(VolumeData::parse(text.as_bytes()).unwrap(), data());
        // Staged volumes have no more than these.
        let staged = VolumeData::parse(br#"{"driverName":"d","volumeHandle":"v","new":"x"}"#).unwrap();
        assert_eq!((staged.driver.as_str(), staged.handle.as_str(), staged.is_inline()), ("d", "v", false));
    }

    #[test]
    fn saved_loaded_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(VolumeData::load(dir.path()).unwrap(), None);
        data().save(dir.path()).unwrap();
        data().save(dir.path()).unwrap();
        assert_eq!(VolumeData::load(dir.path()).unwrap(), Some(data()));
        fs::write(dir.path().join(DATA_FILE), "{\"driverName\":").unwrap();
        let error = VolumeData::load(dir.path()).unwrap_err();
        assert!(error.to_string().contains(DATA_FILE), "{error}");
        fs::write(dir.path().join(DRAFT), "").unwrap();
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        fs::remove_dir(dir.path()).unwrap();
    }

    #[test]
    fn users_are_read_from_the_pods_directories() {
        let root = tempfile::tempdir().unwrap();
        assert!(users(&root.path().join("pods"), "d", "v").unwrap().is_empty());
        let pod = |uid: &str, volume: &str, text: &[u8]| {
            let dir = super::super::paths::pod_volume(&root.path().join(uid), volume);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(DATA_FILE), text).unwrap();
        };
        pod("a", "one", &VolumeData { handle: "other".into(), ..data() }.to_text().unwrap());
        pod("a", "two", &data().to_text().unwrap());
        pod("b", "one", &VolumeData { driver: "other".into(), ..data() }.to_text().unwrap());
        pod("c", "torn", b"");
        fs::write(root.path().join("a file"), "").unwrap();
        let mut found = users(root.path(), "d.example", "vol-1").unwrap();
        found.sort();
        // Of the torn one nobody knows: it is taken to be one.
        assert_eq!(found, [PodUid::from("a"), PodUid::from("c")]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes: Vec<u8>) {
            let _ = VolumeData::parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read(handle in "[ -~]{1,40}", driver in "[a-z.]{1,20}", spec in ".{0,20}") {
            let data = VolumeData { handle, driver, spec_name: spec, ..VolumeData::default() };
            prop_assert_eq!(VolumeData::parse(&data.to_text().unwrap()).unwrap(), data);
        }
    }
}
