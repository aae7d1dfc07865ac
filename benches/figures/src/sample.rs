//! Repeated measurements of one thing.

use std::time::Duration;

/// Values in ascending order; never empty when it is asked for one.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample(Vec<f64>);

// === impl Sample ===

impl Sample {
    /// The value that `percent` of all do not exceed (nearest rank); NaN where nothing was measured.
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).clamp(1, self.0.len().max(1));
        self.0.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    /// The one in the middle.
    pub fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// The greatest.
    pub fn max(&self) -> f64 {
        self.percentile(100)
    }
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        Self(values)
    }
}

/// In milliseconds.
impl FromIterator<Duration> for Sample {
    fn from_iter<I: IntoIterator<Item = Duration>>(durations: I) -> Self {
        durations.into_iter().map(|duration| duration.as_secs_f64() * 1e3).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let percentiles =
            |sample: Sample, percents: [usize; 4]| percents.map(|percent| sample.percentile(percent).to_string());
        let hundred: Sample = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentiles(hundred, [50, 90, 99, 100]), ["50", "90", "99", "100"]);
        let three: Sample = [3.0, 1.0, 2.0].into_iter().collect();
        assert_eq!(percentiles(three, [0, 50, 99, 100]), ["1", "2", "3", "3"]);
    }

    #[test]
    fn nothing_measured_is_not_zero() {
        assert!(Sample::from_iter(Vec::<f64>::new()).median().is_nan());
    }
}
