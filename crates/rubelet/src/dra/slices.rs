//! ResourceSlices of drivers that do not answer are removed, so that no pod is scheduled here for devices that nobody can
//! prepare: all of them when the agent begins, for no driver has registered yet, and those of one driver half a minute
//! after it was last there. A driver that comes back publishes its own again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use tokio::time::Instant;
use tracing::{debug, info};

use super::Claims;

/// How long a driver may be away: enough for a container that is started anew (upstream `defaultWipingDelay`).
const DELAY: Duration = Duration::from_secs(30);
/// First and longest pause after a failure (upstream's).
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);

/// Whose slices are to be removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    /// Everyone's who does not answer when it comes to it.
    All,
    /// One driver's.
    Driver(String),
}

/// A removal that is due.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Instant,
    pause: Duration,
}

impl Claims {
    /// Removes slices when that is due. Without an API server there are none.
    pub(super) async fn wipe_slices(&self, client: Option<&kube::Client>, node_name: &str) {
        let Some(client) = client else { return };
        let slices: Api<ResourceSlice> = Api::all(client.clone());
        let drivers = &self.0.drivers;
        let mut changes = drivers.changes();
        let mut due = BTreeMap::from([(Whose::All, Due { at: Instant::now(), pause: PAUSES.0 })]);
        // Drivers whose slices are gone since they were last there.
        let mut wiped: BTreeSet<String> = BTreeSet::new();
        loop {
            let (usable, unusable) = (drivers.usable(), drivers.unusable());
            due.retain(|whose, _| !matches!(whose, Whose::Driver(name) if usable.contains(name)));
            wiped.retain(|name| unusable.contains(name));
            for name in unusable.difference(&wiped) {
                let fresh = Due { at: Instant::now() + DELAY, pause: PAUSES.0 };
                due.entry(Whose::Driver(name.clone())).or_insert(fresh);
            }
            let next = due.iter().min_by_key(|(_, due)| due.at).map(|(whose, due)| (whose.clone(), *due));
            let sleep = async {
                match &next {
                    Some((_, due)) => tokio::time::sleep_until(due.at).await,
                    None => std::future::pending().await,
                }
            };
            // News is kept by the channel, and times in the table.
            tokio::select! {
                biased;
                changed = changes.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                () = sleep => {}
            }
            let Some((whose, Due { pause, .. })) = next else { continue };
            let selector = selector(node_name, &whose, &drivers.usable());
            if remove(&slices, &selector).await {
                due.remove(&whose);
                if let Whose::Driver(name) = whose {
                    drivers.forget(&name);
                    wiped.insert(name);
                }
            } else {
                let later = Due { at: Instant::now() + pause, pause: (pause * 2).min(PAUSES.1) };
                due.insert(whose, later);
            }
        }
    }
}

/// The field selector of what is to go.
fn selector(node_name: &str, whose: &Whose, usable: &BTreeSet<String>) -> String {
    let mut selector = format!("spec.nodeName={node_name}");
    match whose {
        // Drivers that were faster than the server's answer keep what they have published.
        Whose::All => usable.iter().for_each(|name| selector.push_str(&format!(",spec.driver!={name}"))),
        Whose::Driver(name) => selector.push_str(&format!(",spec.driver={name}")),
    }
    selector
}

/// Whether they are gone. A server that does not know ResourceSlices has none.
async fn remove(slices: &Api<ResourceSlice>, selector: &str) -> bool {
    let (delete, list) = (DeleteParams::default(), ListParams::default().fields(selector));
    let answer = tokio::time::timeout(REQUEST, slices.delete_collection(&delete, &list)).await;
    match answer {
        Ok(Ok(_)) => {
            info!(selector, "ResourceSlices removed");
            true
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => true,
        Ok(Err(error)) => {
            debug!(selector, "ResourceSlices stay: {}", crate::logging::chain(&error));
            false
        }
        Err(_elapsed) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_that_answer_keep_their_slices() {
        let usable = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let all = selector("n", &Whose::All, &usable);
        assert_eq!(all, "spec.nodeName=n,spec.driver!=a,spec.driver!=b");
        let one = selector("n", &Whose::Driver("c".to_owned()), &usable);
        assert_eq!(one, "spec.nodeName=n,spec.driver=c");
    }
}
