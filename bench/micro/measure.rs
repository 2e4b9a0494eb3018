//! Measures operations that are too short for the clock, by repeating them.

use std::time::{Duration, Instant};

/// The shortest sample. Beside it the time that reading the clock takes is negligible.
const SAMPLE_MIN: Duration = Duration::from_millis(2);
const SAMPLES: usize = 51;

/// Measures and prints how long one call of `operation` takes.
pub(crate) fn time(name: &str, mut operation: impl FnMut()) {
    let mut sample = |count: u32| {
        let begin = Instant::now();
        for _ in 0..count {
            operation();
        }
        begin.elapsed()
    };
    let mut count = 1;
    while sample(count) < SAMPLE_MIN {
        count *= 2;
    }
    print(name, (0..SAMPLES).map(|_| ns_each(sample(count), count)));
}

/// The time of one operation in ns, if `count` of them took `whole`.
pub(crate) fn ns_each(whole: Duration, count: u32) -> f64 {
    whole.as_secs_f64() * 1e9 / f64::from(count)
}

/// Prints the median, the minimum and the mean of several samples in ns. The minimum is the sample
/// that other processes disturbed least. The mean includes work that is done rarely.
pub(crate) fn print(name: &str, samples: impl Iterator<Item = f64>) {
    let mut samples: Vec<f64> = samples.collect();
    samples.sort_by(f64::total_cmp);
    let (minimum, median) = (samples[0], samples[samples.len() / 2]);
    let mean = samples.iter().sum::<f64>() / samples.len() as f64;
    println!("{name:56}{median:10.1} ns   min {minimum:7.1}   mean {mean:7.1}");
}
