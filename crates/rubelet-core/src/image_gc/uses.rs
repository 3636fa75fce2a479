//! What containers, pods and sandboxes need of images, by ID and by name.

use std::collections::BTreeSet;

use super::ListedImage;
use crate::image::parse_image_name;

/// References to images that have to stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageUse {
    references: BTreeSet<String>,
}

impl ImageUse {
    /// Something needs the image of this reference: an ID, a digest or a name, as a pod or the runtime writes it.
    pub fn insert(&mut self, reference: &str) {
        if !reference.is_empty() {
            self.references.insert(canonical(reference));
        }
    }

    /// Whether the image is one of them, by its ID or any of its names.
    pub fn covers(&self, image: &ListedImage) -> bool {
        let is_used = |reference: &String| self.references.contains(&canonical(reference));
        is_used(&image.id) || image.names.iter().any(is_used)
    }

    /// The references, as [`canonical`] writes them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.references.iter().map(String::as_str)
    }
}

impl<'a> FromIterator<&'a str> for ImageUse {
    fn from_iter<T: IntoIterator<Item = &'a str>>(references: T) -> Self {
        let mut uses = Self::default();
        references.into_iter().for_each(|reference| uses.insert(reference));
        uses
    }
}

/// One writing for each image: IDs without the name of the hash, names with registry and tag. What is neither stays as
/// it is.
pub(super) fn canonical(reference: &str) -> String {
    let is_hex = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(hex) = reference.strip_prefix("sha256:").filter(|hex| is_hex(hex)) {
        return hex.to_owned();
    }
    match parse_image_name(reference) {
        Ok(name) => match (name.digest, name.tag) {
            (Some(digest), _) => format!("{}@{digest}", name.repository),
            (None, tag) => format!("{}:{}", name.repository, tag.as_deref().unwrap_or("latest")),
        },
        Err(_) => reference.to_owned(),
    }
}
