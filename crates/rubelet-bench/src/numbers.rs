//! What many measurements of one thing amount to: median, least and greatest. Pure; never measures anything.
//! Called by the plan of the benchmark and by its report.

use serde::Serialize;

/// Repeated measurements of one thing, in the unit of whoever measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// The middle one; of an even number the mean of the two in the middle.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// The greatest.
    pub(crate) max: f64,
    /// How many.
    pub(crate) runs: usize,
}

impl Spread {
    /// The spread of some measurements; `None` of none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Self { median: quantile(&values, 0.5)?, min, max, runs: values.len() })
    }

    /// The spread of `above / below`, taken pair by pair: the two of a pair were measured one after the other, so
    /// that what else the machine was doing weighs on both.
    pub(crate) fn of_ratios(above: &[f64], below: &[f64]) -> Option<Self> {
        Self::of(
            above.iter().zip(below).filter(|(_, below)| **below > 0.0).map(|(above, below)| above / below),
        )
    }
}

/// The value below which the share `at` (0 to 1) of sorted values lies, between neighbours in proportion.
pub(crate) fn quantile(sorted: &[f64], at: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = at.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (place.floor(), place.ceil());
    let (below, above) = (sorted.get(low as usize)?, sorted.get(high as usize)?);
    Some(below + (above - below) * (place - low))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[f64], wanted: Option<(f64, f64, f64)>) {
        let spread = Spread::of(values.iter().copied());
        assert_eq!(spread.map(|s| (s.median, s.min, s.max)), wanted);
        assert_eq!(spread.map_or(0, |s| s.runs), values.len());
    }

    #[test]
    fn the_median_is_the_middle_and_order_does_not_matter() {
        check(&[], None);
        check(&[3.0], Some((3.0, 3.0, 3.0)));
        check(&[5.0, 1.0, 3.0], Some((3.0, 1.0, 5.0)));
        check(&[4.0, 1.0, 3.0, 2.0], Some((2.5, 1.0, 4.0)));
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let ratios = Spread::of_ratios(&[2.0, 30.0, 4.0], &[1.0, 10.0, 4.0]).unwrap();
        assert_eq!((ratios.median, ratios.min, ratios.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of_ratios(&[1.0], &[0.0]), None);
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert_eq!(quantile(&[10.0, 20.0], 0.9), Some(19.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
