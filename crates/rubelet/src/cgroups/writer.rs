//! The seam between what groups are to be and who makes them so: the file system directly, or systemd.
//!
//! Owns the trait and the file system's side of it ([`super::systemd`] is the other one); decides nothing. Called by [`super::Cgroups`] alone.

use std::io;

use futures::future::BoxFuture;
use rubelet_core::resources::GroupSettings;
use rubelet_linux::cgroup::CgroupTree;
use rubelet_linux::fs_pool::FsError;

use crate::fs_pool::FsPool;

/// Why a group is not as it is to be.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file or directory of the group.
    #[error(transparent)]
    Files(#[from] FsError),
    /// Whoever else manages groups refused.
    #[error("{0}")]
    Driver(String),
}

/// Makes and sets groups, named by their paths from the hierarchy's root. Every call may be repeated.
pub trait CgroupWriter: Send + Sync {
    /// Makes a group with those above it, and sets it.
    fn make<'a>(
        &'a self,
        group: &'a str,
        settings: &'a GroupSettings,
    ) -> BoxFuture<'a, Result<(), WriteError>>;
    /// Sets a group that is there.
    fn set<'a>(
        &'a self,
        group: &'a str,
        settings: &'a GroupSettings,
    ) -> BoxFuture<'a, Result<(), WriteError>>;
    /// Removes a group in which nothing runs; one that is not there is fine.
    fn remove<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<(), WriteError>>;
}

/// Writes the files itself.
pub struct FileWriter {
    tree: CgroupTree,
    fs: FsPool,
}

impl FileWriter {
    /// Into this tree.
    pub fn new(tree: CgroupTree, fs: FsPool) -> Self {
        Self { tree, fs }
    }

    fn run<'a>(
        &self,
        what: &str,
        group: &'a str,
        work: impl FnOnce(&CgroupTree, &str) -> io::Result<()> + Send + 'static,
    ) -> BoxFuture<'a, Result<(), WriteError>> {
        let (tree, owned, fs) = (self.tree.clone(), group.to_owned(), self.fs.clone());
        let what = format!("{what} cgroup {group}");
        Box::pin(async move { Ok(fs.run(what, move || work(&tree, &owned)).await?) })
    }
}

impl CgroupWriter for FileWriter {
    fn make<'a>(
        &'a self,
        group: &'a str,
        settings: &'a GroupSettings,
    ) -> BoxFuture<'a, Result<(), WriteError>> {
        let settings = settings.clone();
        self.run("make", group, move |tree, group| {
            tree.make(group)?;
            tree.set(group, &settings)
        })
    }

    fn set<'a>(
        &'a self,
        group: &'a str,
        settings: &'a GroupSettings,
    ) -> BoxFuture<'a, Result<(), WriteError>> {
        let settings = settings.clone();
        self.run("set", group, move |tree, group| tree.set(group, &settings))
    }

    fn remove<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<(), WriteError>> {
        self.run("remove", group, |tree, group| tree.remove(group))
    }
}
