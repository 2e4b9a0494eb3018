//! How long something takes that is too short for the clock: so many times over that it is not.

use std::time::{Duration, Instant};

/// A sample takes at least so long: the clock's own time is nothing beside it.
const SAMPLE_MIN: Duration = Duration::from_millis(2);
const SAMPLES: usize = 51;

/// Prints how long `act` takes.
pub(crate) fn time(name: &str, mut act: impl FnMut()) {
    let mut sample = |count: u32| {
        let begin = Instant::now();
        for _ in 0..count {
            act();
        }
        begin.elapsed()
    };
    let mut count = 1;
    while sample(count) < SAMPLE_MIN {
        count *= 2;
    }
    print(name, (0..SAMPLES).map(|_| each(sample(count), count)));
}

/// What one of `count` takes that took `whole` together, in ns.
pub(crate) fn each(whole: Duration, count: u32) -> f64 {
    whole.as_secs_f64() * 1e9 / f64::from(count)
}

/// Prints a figure of several samples, in ns: the median; the least, which is the one that others
/// disturbed least; and the mean, which has the work that comes up rarely.
pub(crate) fn print(name: &str, samples: impl Iterator<Item = f64>) {
    let mut samples: Vec<f64> = samples.collect();
    samples.sort_by(f64::total_cmp);
    let (least, median) = (samples[0], samples[samples.len() / 2]);
    let mean = samples.iter().sum::<f64>() / samples.len() as f64;
    println!("{name:56}{median:10.1} ns   least {least:7.1}   mean {mean:7.1}");
}
