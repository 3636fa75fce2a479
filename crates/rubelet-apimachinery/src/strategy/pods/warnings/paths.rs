//! Warnings about volumes that put two things in one place.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, PodSpec, Volume, VolumeProjection};

use super::super::super::Warnings;

/// A path, and what comes to be there where that matters.
#[derive(Clone, PartialEq)]
struct Placed {
    path: String,
    source: String,
}

impl Placed {
    fn new(path: &str, source: &str) -> Self {
        Self { path: path.trim_end_matches('/').to_owned(), source: source.to_owned() }
    }

    fn shown(&self) -> String {
        if self.source.is_empty() {
            format!("{:?}", self.path)
        } else {
            format!("{:?} ({})", self.path, self.source)
        }
    }

    /// Whether one is the other, or a directory on the way to it.
    fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (format!("{}/", self.path), format!("{}/", other.path));
        !self.path.is_empty() && !other.path.is_empty() && (a.starts_with(&b) || b.starts_with(&a))
    }
}

/// Paths within one volume that hide each other.
pub(super) fn overlaps(spec: &PodSpec, warnings: &mut Warnings) {
    for volume in spec.volumes.iter().flatten() {
        if let Some(source) = &volume.config_map {
            let what = format!("ConfigMap {:?}", source.name);
            check(volume, &what, keys(source.items.as_deref(), ""), warnings);
        }
        if let Some(source) = &volume.secret {
            let what = format!("Secret {:?}", source.secret_name.as_deref().unwrap_or_default());
            check(volume, &what, keys(source.items.as_deref(), ""), warnings);
        }
        if let Some(source) = &volume.downward_api {
            check(volume, "DownwardAPI", files(source.items.as_deref(), ""), warnings);
        }
        if let Some(projected) = &volume.projected {
            let mut placed = Vec::new();
            for source in projected.sources.iter().flatten() {
                if *source == VolumeProjection::default() {
                    warnings.push(format!("volume {:?} (Projected) has no sources provided", volume.name));
                }
                placed.extend(projection(source));
            }
            check(volume, "Projected", placed, warnings);
        }
    }
}

fn projection(source: &VolumeProjection) -> Vec<Placed> {
    if let Some(config_map) = &source.config_map {
        keys(config_map.items.as_deref(), &format!("ConfigMap {:?}", config_map.name))
    } else if let Some(secret) = &source.secret {
        keys(secret.items.as_deref(), &format!("Secret {:?}", secret.name))
    } else if let Some(downward) = &source.downward_api {
        files(downward.items.as_deref(), "DownwardAPI")
    } else if let Some(token) = &source.service_account_token {
        vec![Placed::new(&token.path, "ServiceAccountToken")]
    } else {
        Vec::new()
    }
}

fn keys(items: Option<&[KeyToPath]>, source: &str) -> Vec<Placed> {
    items.unwrap_or_default().iter().map(|item| Placed::new(&item.path, source)).collect()
}

fn files(items: Option<&[DownwardAPIVolumeFile]>, source: &str) -> Vec<Placed> {
    items.unwrap_or_default().iter().map(|item| Placed::new(&item.path, source)).collect()
}

fn check(volume: &Volume, what: &str, placed: Vec<Placed>, warnings: &mut Warnings) {
    for (index, one) in placed.iter().enumerate() {
        for before in placed[..index].iter().filter(|before| before.overlaps(one)) {
            warnings.push(format!(
                "volume {:?} ({what}): overlapping paths: {} with {}",
                volume.name,
                one.shown(),
                before.shown()
            ));
        }
    }
}
