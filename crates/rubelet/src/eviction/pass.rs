//! What is done about thresholds that are due: reclaim first, then pods.

use std::collections::BTreeMap;

use rubelet_core::eviction::{
    IMMEDIATE_GRACE, REASON, Reclaim, Short, explain, reclaim_for, relief, victims,
};
use rubelet_core::ids::pod_uid;
use rubelet_core::image_gc::Need;
use rubelet_core::node::pressure::{Observation, Threshold};
use rubelet_core::stats::usage::PodUsage;
use rubelet_server::node::Extent;
use tokio::time::Instant;
use tracing::{info, warn};

use super::look::Look;
use super::{Eviction, HOPELESS_PAUSE, LEAVES_WITHIN, Leaving, observed};
use crate::events::EventSubject;
use crate::pod_kills::PodKill;

impl Eviction {
    /// Does something about the first threshold that something can be done about; says whether there was one.
    pub(super) async fn act(&mut self, look: &Look, due: &[usize]) -> bool {
        let due: Vec<Threshold> =
            due.iter().filter_map(|place| self.config.thresholds.get(*place).cloned()).collect();
        for threshold in &due {
            let Some(observation) = observed(look, threshold.signal) else { continue };
            let promised = self.promised(threshold, look);
            if threshold.shortage(observation, true) <= promised {
                // Who was told to go will give back enough.
                return true;
            }
            let resource = threshold.signal.resource();
            if self.told.get(&threshold.signal).is_none_or(|at| at.elapsed() >= LEAVES_WITHIN) {
                self.told.insert(threshold.signal, Instant::now());
                let node = EventSubject::node(&self.services.node.name);
                let text = format!("Attempting to reclaim {resource}");
                self.services.events.warning(&node, "EvictionThresholdMet", text);
            }
            let Some((look, observation)) = self.reclaim(threshold, look, observation).await else {
                info!(signal = threshold.signal.name(), "enough was won back without evicting a pod");
                return true;
            };
            if self.evict_for(threshold, &look, observation).await {
                return true;
            }
        }
        false
    }

    /// What pods that are ending will give back of a signal.
    fn promised(&self, threshold: &Threshold, look: &Look) -> i64 {
        let promises = self.leaving.values();
        let promises = promises.filter_map(|leaving| relief(&leaving.usage, threshold.signal, look.layout));
        promises.fold(0, i64::saturating_add)
    }

    /// Wins back what nobody needs, and looks again at what was reclaimed; `None` when that was enough.
    async fn reclaim(
        &mut self,
        threshold: &Threshold,
        look: &Look,
        observation: Observation,
    ) -> Option<(Look, Observation)> {
        let Reclaim { containers, images } = reclaim_for(threshold.signal, look.layout);
        if !containers && !images {
            return Some((look.clone(), observation));
        }
        let mut newest = look.clone();
        for step in [containers.then_some(false), images.then_some(true)].into_iter().flatten() {
            let missing = observed(&newest, threshold.signal).unwrap_or(observation);
            let freed = if step {
                let need = if threshold.signal.is_inodes() {
                    Need::All
                } else {
                    let bytes = threshold.shortage(missing, true);
                    Need::Bytes(u64::try_from(bytes).unwrap_or(u64::MAX))
                };
                self.services.clean_up.images(need).await
            } else {
                self.services.clean_up.containers().await
            };
            let signal = threshold.signal.name();
            info!(
                signal,
                images = freed.images,
                containers = freed.containers,
                bytes = freed.bytes,
                "reclaimed"
            );
            newest = self.eyes.look().await.unwrap_or(newest);
            let left = observed(&newest, threshold.signal).unwrap_or(observation);
            if !threshold.is_met(left, true) {
                return None;
            }
        }
        let left = observed(&newest, threshold.signal).unwrap_or(observation);
        Some((newest, left))
    }

    /// Chooses victims and tells them; says whether there were any.
    async fn evict_for(&mut self, threshold: &Threshold, look: &Look, observation: Observation) -> bool {
        if self.hopeless_until.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        let seen_at = Instant::now();
        let reading = self.usage.usage(Extent::Summary).await;
        let candidates = reading.pods.iter().filter(|pod| self.stays(&pod_uid(&pod.pod)));
        let promised = self.promised(threshold, look);
        let short = Short { threshold, observation, layout: look.layout, promised };
        let chosen = victims(candidates, short);
        if chosen.pods.is_empty() {
            let (signal, shortage) = (threshold.signal.name(), threshold.shortage(observation, true));
            warn!(signal, shortage, "no pod can be evicted whose end would give anything back");
            return false;
        }
        if chosen.hopeless {
            self.hopeless_until = Some(Instant::now() + HOPELESS_PAUSE);
        }
        let signal = threshold.signal.name();
        let age = &self.services.metrics.pods.eviction_stats_age;
        age.with([signal]).observe_duration(seen_at.elapsed());
        let pods: Vec<PodUsage> = chosen.pods.into_iter().cloned().collect();
        for usage in pods {
            let told = explain(&usage, threshold, observation);
            let own = usage.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
            let own = own.and_then(|own| u64::try_from(own).ok());
            let grace = if threshold.is_hard() {
                IMMEDIATE_GRACE
            } else {
                own.map_or(self.config.max_pod_grace, |own| own.min(self.config.max_pod_grace)).max(1)
            };
            self.evict(usage, signal, told.message, told.annotations, grace, true);
        }
        true
    }

    /// Tells a pod to go.
    pub(super) fn evict(
        &mut self,
        usage: PodUsage,
        signal: &str,
        message: String,
        annotations: BTreeMap<String, String>,
        grace: u64,
        disruption: bool,
    ) {
        let uid = pod_uid(&usage.pod);
        let subject = EventSubject::pod(&usage.pod);
        self.services.events.annotated_warning(&subject, REASON, message.clone(), annotations);
        self.services.metrics.pods.evictions.with([signal]).inc();
        self.services.kills.request(PodKill {
            uid: uid.clone(),
            reason: REASON,
            message,
            grace: Some(grace),
            disruption,
        });
        self.leaving.insert(uid, Leaving { usage, since: Instant::now() });
    }
}
