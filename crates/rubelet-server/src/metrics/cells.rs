//! The cells that metrics are counted in: counters, gauges, histograms, and one of them for each set of label values.
//!
//! An update is an atomic add; finding the cell of a set of labels takes a short lock and allocates only the first
//! time. Nothing here knows names or text; `catalogue` gives the cells their names, `render` writes them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::desc::Desc;

/// The most sets of label values one family keeps: whatever comes in as a label, memory stays bounded. What comes
/// after is counted nowhere.
const MAX_SERIES: usize = 4096;
/// The bits of a gauge that was never set: a NaN that no calculation gives.
const UNSET: u64 = 0x7ff8_dead_beef_0001;

/// A cell that can stand in a family.
pub trait Cell: Send + Sync + 'static {
    /// A cell as it begins.
    fn new(desc: &'static Desc) -> Self;
}

/// A count that only grows.
#[derive(Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Counts some.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Cell for Counter {
    fn new(_: &'static Desc) -> Self {
        Self(AtomicU64::new(0))
    }
}

/// A value that goes up and down. Until it is set it is not shown: zero would be an answer.
#[derive(Debug)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// Adds to it; one that was never set begins at zero.
    pub fn add(&self, change: f64) {
        // A closure that always gives a value cannot fail.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
            let value = if bits == UNSET { 0.0 } else { f64::from_bits(bits) };
            Some((value + change).to_bits())
        });
    }

    /// Its value, if it has one.
    pub fn get(&self) -> Option<f64> {
        let bits = self.0.load(Ordering::Relaxed);
        (bits != UNSET).then(|| f64::from_bits(bits))
    }
}

impl Cell for Gauge {
    fn new(_: &'static Desc) -> Self {
        Self(AtomicU64::new(UNSET))
    }
}

/// Observations counted by size.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and one for what is larger than all of them; not cumulative.
    counts: Box<[AtomicU64]>,
    /// Bits of the sum.
    sum: AtomicU64,
}

impl Histogram {
    /// Counts one observation.
    pub fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        // A closure that always gives a value cannot fail.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
            Some((f64::from_bits(bits) + value).to_bits())
        });
    }

    /// Counts one duration, in seconds.
    pub fn observe_duration(&self, took: Duration) {
        self.observe(took.as_secs_f64());
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The sum of all.
    pub fn sum(&self) -> f64 {
        f64::from_bits(self.sum.load(Ordering::Relaxed))
    }

    /// Each bound with how many were no larger; the last one is infinity.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(&self.counts).scan(0, |sum, (bound, count)| {
            *sum += count.load(Ordering::Relaxed);
            Some((bound, *sum))
        })
    }
}

impl Cell for Histogram {
    fn new(desc: &'static Desc) -> Self {
        Self {
            bounds: desc.buckets,
            counts: std::iter::repeat_with(|| AtomicU64::new(0)).take(desc.buckets.len() + 1).collect(),
            sum: AtomicU64::new(0.0_f64.to_bits()),
        }
    }
}

/// A cell for each set of label values.
pub struct Vector<C, const N: usize> {
    desc: &'static Desc,
    /// By label values, sorted.
    series: RwLock<Vec<Series<C, N>>>,
}

type Series<C, const N: usize> = ([Box<str>; N], Arc<C>);

impl<C: Cell, const N: usize> Vector<C, N> {
    /// The cell of these label values, made when there is none.
    pub fn with(&self, labels: [&str; N]) -> Arc<C> {
        let order = |(key, _): &Series<C, N>| key.iter().map(|value| &**value).cmp(labels);
        {
            let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
            if let Ok(at) = series.binary_search_by(order) {
                return series[at].1.clone();
            }
        }
        let mut series = self.series.write().unwrap_or_else(PoisonError::into_inner);
        match series.binary_search_by(order) {
            Ok(at) => series[at].1.clone(),
            Err(at) => {
                let cell = Arc::new(C::new(self.desc));
                if series.len() < MAX_SERIES {
                    series.insert(at, (labels.map(Box::from), cell.clone()));
                }
                cell
            }
        }
    }

    /// Drops every set of label values that is not to be kept, such as those of a pod that is gone.
    pub fn retain(&self, keep: impl Fn(&[Box<str>; N]) -> bool) {
        let mut series = self.series.write().unwrap_or_else(PoisonError::into_inner);
        series.retain(|(labels, _)| keep(labels));
        // A node that ran many pods once does not keep their places.
        if series.capacity() > 2 * series.len() + 16 {
            series.shrink_to_fit();
        }
    }

    /// Looks at each cell, in the order of labels.
    pub(super) fn for_each(&self, mut look: impl FnMut(&[Box<str>; N], &C)) {
        for (labels, cell) in &*self.series.read().unwrap_or_else(PoisonError::into_inner) {
            look(labels, cell);
        }
    }
}

impl<C: Cell, const N: usize> Cell for Vector<C, N> {
    fn new(desc: &'static Desc) -> Self {
        Self { desc, series: RwLock::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::desc::{Kind, Stability};

    static DESC: Desc = Desc {
        name: "test_seconds",
        help: "",
        kind: Kind::Histogram,
        stability: Stability::Alpha,
        labels: &["a", "b"],
        buckets: &[0.5, 1.0],
    };

    #[test]
    fn observations_count_in_the_bucket_whose_bound_they_do_not_pass() {
        let histogram = Histogram::new(&DESC);
        for value in [0.0, 0.5, 0.6, 1.0, 1.1] {
            histogram.observe(value);
        }
        let told: Vec<_> = histogram.cumulative().collect();
        assert_eq!(told, [(0.5, 2), (1.0, 4), (f64::INFINITY, 5)]);
        assert_eq!(histogram.count(), 5);
        assert!((histogram.sum() - 3.2).abs() < 1e-9);
        histogram.observe(f64::NAN);
        assert_eq!(histogram.count(), 6, "counted although no bucket fits");
    }

    #[test]
    fn a_gauge_has_no_value_before_it_is_set() {
        let gauge = Gauge::new(&DESC);
        assert_eq!(gauge.get(), None);
        gauge.add(2.0);
        gauge.add(-1.0);
        assert_eq!(gauge.get(), Some(1.0));
        gauge.set(0.0);
        assert_eq!(gauge.get(), Some(0.0));
    }

    #[test]
    fn series_are_found_again_sorted_and_removed() {
        let vector = Vector::<Counter, 2>::new(&DESC);
        vector.with(["y", "1"]).inc();
        vector.with(["x", "2"]).inc();
        vector.with(["y", "1"]).inc();
        let told = |vector: &Vector<Counter, 2>| {
            let mut told = vec![];
            vector.for_each(|labels, cell| told.push(format!("{}{}={}", labels[0], labels[1], cell.get())));
            told.join(" ")
        };
        assert_eq!(told(&vector), "x2=1 y1=2");
        vector.retain(|labels| &*labels[0] != "y");
        assert_eq!(told(&vector), "x2=1");
    }

    #[test]
    fn a_family_is_bounded_whatever_its_labels() {
        let vector = Vector::<Counter, 2>::new(&DESC);
        for number in 0..MAX_SERIES + 10 {
            vector.with(["", &number.to_string()]).inc();
        }
        let mut count = 0;
        vector.for_each(|_, _| count += 1);
        assert_eq!(count, MAX_SERIES);
    }
}
