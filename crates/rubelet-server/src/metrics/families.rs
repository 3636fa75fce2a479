//! The macros that give cells their names: one line for a metric, its doc comment is its help text.

use rubelet_core::stats::exposition::{Buckets, Exposition};

use super::cells::{Cell, Counter, Gauge, Histogram, Vector};
use super::desc::Desc;

/// A cell with its name.
pub struct Metric<C> {
    desc: &'static Desc,
    cell: C,
}

impl<C: Cell> Metric<C> {
    pub(super) fn new(desc: &'static Desc) -> Self {
        Self { desc, cell: C::new(desc) }
    }
}

impl<C> std::ops::Deref for Metric<C> {
    type Target = C;
    fn deref(&self) -> &C {
        &self.cell
    }
}

/// A metric that can be written.
pub(super) trait Family: Sync {
    fn desc(&self) -> &'static Desc;
    /// Writes its samples; nothing at all when there are none.
    fn write(&self, out: &mut Samples<'_>);
}

/// Where the samples of one family go.
pub(super) struct Samples<'a> {
    desc: &'static Desc,
    out: &'a mut Exposition,
}

impl<'a> Samples<'a> {
    /// Begins the family.
    pub(super) fn new(desc: &'static Desc, out: &'a mut Exposition) -> Self {
        out.family(desc.name, &desc.help_line(), desc.kind);
        Self { desc, out }
    }

    /// Writes what one cell holds, under its label values.
    pub(super) fn write(&mut self, labels: &[&str], shown: Shown) {
        let pairs: Vec<(&str, &str)> = self.desc.labels.iter().copied().zip(labels.iter().copied()).collect();
        match shown {
            Shown::Nothing => {}
            Shown::Count(count) => self.out.sample(self.desc.name, &pairs, count, None),
            Shown::Value(value) => self.out.sample(self.desc.name, &pairs, value, None),
            Shown::Histogram { mut cumulative, sum } => {
                // The count is the last bucket's, whatever is counted meanwhile.
                let count = cumulative.pop().map_or(0, |(_, count)| count);
                self.out.histogram(&pairs, &Buckets { cumulative: &cumulative, sum, count }, None);
            }
        }
    }
}

/// What a cell shows.
pub(super) enum Shown {
    Nothing,
    Count(u64),
    Value(f64),
    /// Each bound with how many were no larger, infinity last.
    Histogram {
        cumulative: Vec<(f64, u64)>,
        sum: f64,
    },
}

/// A cell that is one value or one histogram.
pub(super) trait Show {
    fn show(&self) -> Shown;
}

impl Show for Counter {
    fn show(&self) -> Shown {
        Shown::Count(self.get())
    }
}

impl Show for Gauge {
    fn show(&self) -> Shown {
        self.get().map_or(Shown::Nothing, Shown::Value)
    }
}

impl Show for Histogram {
    fn show(&self) -> Shown {
        Shown::Histogram { cumulative: self.cumulative().collect(), sum: self.sum() }
    }
}

impl<C: Cell + Show> Family for Metric<C> {
    fn desc(&self) -> &'static Desc {
        self.desc
    }
    fn write(&self, out: &mut Samples<'_>) {
        out.write(&[], self.cell.show());
    }
}

impl<C: Cell + Show, const N: usize> Family for Metric<Vector<C, N>> {
    fn desc(&self) -> &'static Desc {
        self.desc
    }
    fn write(&self, out: &mut Samples<'_>) {
        self.for_each(|labels, cell| {
            let labels: [&str; N] = std::array::from_fn(|at| &*labels[at]);
            out.write(&labels, cell.show());
        });
    }
}

/// Makes a [`Desc`] of a line's parts.
macro_rules! desc {
    ($([$help:literal])+ $kind:ident [$($label:literal),*] $name:literal $stability:ident [$($buckets:expr)?]) => {
        $crate::metrics::desc::Desc {
            name: $name,
            help: concat!($($help),+),
            kind: $crate::metrics::desc::Kind::$kind,
            stability: $crate::metrics::desc::Stability::$stability,
            labels: &[$($label),*],
            buckets: { let buckets: &[f64] = &[]; $(let _ = buckets; let buckets: &[f64] = $buckets;)? buckets },
        }
    };
}

/// A group of metrics that are counted: a struct with a cell for each.
macro_rules! families {
    ($(#[$meta:meta])* $group:ident {
        $( $(#[doc = $help:literal])+ $field:ident: $kind:ident $([$($label:literal),+])? $name:literal $stability:ident $(($buckets:expr))?; )+
    }) => {
        $(#[$meta])*
        pub struct $group {
            $( $(#[doc = $help])+ pub $field: $crate::metrics::families::Metric<families!(@cell $kind $($($label),+)?)>, )+
        }

        impl $group {
            pub(in crate::metrics) fn new() -> Self {
                Self { $( $field: {
                    static DESC: $crate::metrics::desc::Desc = $crate::metrics::families::desc!(
                        $([$help])+ $kind [$($($label),+)?] $name $stability [$($buckets)?]);
                    $crate::metrics::families::Metric::new(&DESC)
                }, )+ }
            }

            pub(in crate::metrics) fn families(&self) -> Vec<&dyn $crate::metrics::families::Family> {
                vec![$( &self.$field ),+]
            }
        }
    };
    (@cell $kind:ident) => { $crate::metrics::cells::$kind };
    (@cell $kind:ident $($label:literal),+) => {
        $crate::metrics::cells::Vector<$crate::metrics::cells::$kind, { <[&str]>::len(&[$($label),+]) }>
    };
}

/// Metrics whose values are asked for when a page is made: a name for each, and the list of all.
macro_rules! collected {
    ($( $(#[doc = $help:literal])+ $constant:ident: $kind:ident $([$($label:literal),+])? $name:literal $stability:ident; )+) => {
        $(
            $(#[doc = $help])+
            pub static $constant: $crate::metrics::desc::Desc = $crate::metrics::families::desc!(
                $([$help])+ $kind [$($($label),+)?] $name $stability []);
        )+

        /// All of them.
        #[cfg(test)]
        pub(in crate::metrics) static ALL: &[&$crate::metrics::desc::Desc] = &[$( &$constant ),+];
    };
}

pub(super) use {collected, desc, families};
