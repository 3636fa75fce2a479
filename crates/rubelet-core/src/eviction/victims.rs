//! How many pods go in one pass.

use super::rank::{Layout, rank, relief};
use crate::node::pressure::{Observation, Threshold};
use crate::stats::usage::PodUsage;

/// A shortage that pods have to end for.
#[derive(Clone, Copy, Debug)]
pub struct Short<'a> {
    /// The threshold that is crossed.
    pub threshold: &'a Threshold,
    /// What was observed.
    pub observation: Observation,
    /// How disks are laid out.
    pub layout: Layout,
    /// What pods that are ending already will give back.
    pub promised: i64,
}

/// Who goes.
#[derive(Clone, Debug, Default)]
pub struct Victims<'a> {
    /// First who goes first.
    pub pods: Vec<&'a PodUsage>,
    /// Whether all candidates together would not end the shortage: somebody else causes it, and pods go one by one,
    /// with time between them.
    pub hopeless: bool,
}

/// Chooses pods until what they give back covers the shortage with its minimum reclaim. Nobody goes whose end would
/// give nothing back. When even the end of all would not do, one goes. `pods` are those that may go: something of them
/// runs, and they are not ending yet.
pub fn victims<'a>(pods: impl IntoIterator<Item = &'a PodUsage>, short: Short<'_>) -> Victims<'a> {
    let Short { threshold, observation, layout, promised } = short;
    let mut missing = threshold.shortage(observation, true).saturating_sub(promised);
    if missing <= 0 {
        return Victims::default();
    }
    let gives = |pod: &PodUsage| relief(pod, threshold.signal, layout);
    let mut ranked = rank(pods, threshold.signal, layout);
    ranked.retain(|pod| gives(pod) != Some(0));
    let all = ranked.iter().filter_map(|pod| gives(pod)).fold(0_i64, i64::saturating_add);
    let hopeless = all < missing;
    let mut chosen = Vec::new();
    for pod in ranked {
        chosen.push(pod);
        match gives(pod) {
            Some(relief) if !hopeless => missing = missing.saturating_sub(relief),
            // What it gives back has to be seen first.
            _ => break,
        }
        if missing <= 0 {
            break;
        }
    }
    Victims { pods: chosen, hopeless }
}
