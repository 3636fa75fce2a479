//! Faults: what goes wrong between the agent and the runtime. Planned one by one or drawn from a seed.
//! A fault never makes a list untruthful: answers are right, late, lost or errors.

use std::time::Duration;

use rubelet_cri::CriErrorKind;

use super::op::Op;

/// One thing that goes wrong with one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails and nothing was done.
    ErrorBefore(CriErrorKind),
    /// The call is carried out and the answer says that it failed.
    ErrorAfter(CriErrorKind),
    /// The call is carried out late.
    Delay(Duration),
    /// Nothing is done and no answer comes.
    Hang,
    /// The call is carried out and no answer comes.
    HangAfter,
}

/// Chances, in thousandths of calls or events, of faults drawn from a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RandomFaults {
    /// Same seed, same calls: same faults.
    pub seed: u64,
    /// [`Fault::ErrorBefore`].
    pub error_before: u32,
    /// [`Fault::ErrorAfter`].
    pub error_after: u32,
    /// [`Fault::Delay`], of up to `max_delay`.
    pub delay: u32,
    /// [`Fault::Hang`].
    pub hang: u32,
    /// [`Fault::HangAfter`].
    pub hang_after: u32,
    /// Longest delay of a call or an event.
    pub max_delay: Duration,
    /// Events that are never delivered.
    pub lost_event: u32,
    /// Events that are delivered twice.
    pub duplicated_event: u32,
    /// Events that are delivered late, and so out of order.
    pub late_event: u32,
    /// Calls of this operation meet none.
    pub spared: Option<Op>,
}

impl RandomFaults {
    /// A rough day: about one call in five suffers.
    pub fn rough(seed: u64) -> Self {
        Self {
            seed,
            error_before: 60,
            error_after: 40,
            delay: 80,
            hang: 5,
            hang_after: 5,
            max_delay: Duration::from_secs(3),
            lost_event: 100,
            duplicated_event: 50,
            late_event: 100,
            spared: None,
        }
    }

    /// No faults; a base for struct update.
    pub fn none(seed: u64) -> Self {
        Self {
            seed,
            error_before: 0,
            error_after: 0,
            delay: 0,
            hang: 0,
            hang_after: 0,
            max_delay: Duration::ZERO,
            lost_event: 0,
            duplicated_event: 0,
            late_event: 0,
            spared: None,
        }
    }
}

/// A planned fault: for the next `times` calls of an operation, of one pod or of any.
#[derive(Debug)]
struct Planned {
    op: Op,
    pod: Option<String>,
    fault: Fault,
    times: usize,
}

/// All faults to come.
#[derive(Debug, Default)]
pub(super) struct FaultPlan {
    planned: Vec<Planned>,
    random: Option<(RandomFaults, Rng)>,
}

/// How an event reaches a listener.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) copies: u32,
    pub(super) late_by: Duration,
}

impl FaultPlan {
    pub(super) fn plan(&mut self, op: Op, pod: Option<&str>, fault: Fault, times: usize) {
        self.planned.push(Planned { op, pod: pod.map(str::to_owned), fault, times });
    }

    pub(super) fn draw_from(&mut self, faults: RandomFaults) {
        let rng = Rng::new(faults.seed);
        self.random = Some((faults, rng));
    }

    pub(super) fn stop(&mut self) {
        *self = Self::default();
    }

    /// The fault that meets a call, if any; planned ones first.
    pub(super) fn for_call(&mut self, op: Op, pod: &str) -> Option<Fault> {
        let planned = self
            .planned
            .iter_mut()
            .find(|p| p.times > 0 && p.op == op && p.pod.as_deref().is_none_or(|wanted| wanted == pod));
        if let Some(planned) = planned {
            planned.times -= 1;
            return Some(planned.fault.clone());
        }
        let (faults, rng) = self.random.as_mut().filter(|(faults, _)| faults.spared != Some(op))?;
        let dice = rng.below(1000);
        let mut edge = 0;
        let mut falls_into = |share: u32| {
            edge += u64::from(share);
            dice < edge
        };
        if falls_into(faults.error_before) {
            Some(Fault::ErrorBefore(rng.error_kind()))
        } else if falls_into(faults.error_after) {
            Some(Fault::ErrorAfter(rng.error_kind()))
        } else if falls_into(faults.delay) {
            Some(Fault::Delay(rng.up_to(faults.max_delay)))
        } else if falls_into(faults.hang) {
            Some(Fault::Hang)
        } else if falls_into(faults.hang_after) {
            Some(Fault::HangAfter)
        } else {
            None
        }
    }

    /// How the next event reaches a listener.
    pub(super) fn for_event(&mut self) -> Delivery {
        let mut delivery = Delivery { copies: 1, late_by: Duration::ZERO };
        if let Some((faults, rng)) = self.random.as_mut() {
            if rng.below(1000) < u64::from(faults.lost_event) {
                delivery.copies = 0;
            } else if rng.below(1000) < u64::from(faults.duplicated_event) {
                delivery.copies = 2;
            }
            if rng.below(1000) < u64::from(faults.late_event) {
                delivery.late_by = rng.up_to(faults.max_delay);
            }
        }
        delivery
    }
}

/// A small generator of its own (splitmix64), so that a seed means the same for ever.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// A duration of whole milliseconds up to `longest`.
    pub fn up_to(&mut self, longest: Duration) -> Duration {
        let milliseconds = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.below(milliseconds.saturating_add(1)))
    }

    fn error_kind(&mut self) -> CriErrorKind {
        match self.below(10) {
            0..6 => CriErrorKind::Unknown,
            6..8 => CriErrorKind::Unreachable,
            8 => CriErrorKind::ResourceExhausted,
            _ => CriErrorKind::DeadlineExceeded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planned_faults_meet_their_calls_and_run_out() {
        let mut plan = FaultPlan::default();
        plan.plan(Op::StartContainer, Some("web"), Fault::Hang, 2);
        assert_eq!(plan.for_call(Op::StopContainer, "web"), None);
        assert_eq!(plan.for_call(Op::StartContainer, "db"), None);
        assert_eq!(plan.for_call(Op::StartContainer, "web"), Some(Fault::Hang));
        assert_eq!(plan.for_call(Op::StartContainer, "web"), Some(Fault::Hang));
        assert_eq!(plan.for_call(Op::StartContainer, "web"), None);
    }

    #[test]
    fn a_seed_gives_the_same_faults_and_every_kind_of_them() {
        let draw = |seed| {
            let mut plan = FaultPlan::default();
            plan.draw_from(RandomFaults { hang: 50, hang_after: 50, ..RandomFaults::rough(seed) });
            (0..1000).map(|_| plan.for_call(Op::StartContainer, "web")).collect::<Vec<_>>()
        };
        let faults = draw(7);
        assert_eq!(faults, draw(7));
        assert_ne!(faults, draw(8));
        let count = |kind: fn(&Fault) -> bool| faults.iter().flatten().filter(|fault| kind(fault)).count();
        for (name, found, expected) in [
            ("before", count(|f| matches!(f, Fault::ErrorBefore(_))), 60),
            ("after", count(|f| matches!(f, Fault::ErrorAfter(_))), 40),
            ("delay", count(|f| matches!(f, Fault::Delay(_))), 80),
            ("hang", count(|f| matches!(f, Fault::Hang)), 50),
            ("hang after", count(|f| matches!(f, Fault::HangAfter)), 50),
        ] {
            assert!(found > expected / 2 && found < expected * 2, "{name}: {found} of about {expected}");
        }
    }
}
