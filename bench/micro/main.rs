//! Microbenchmarks of single parts of the core: time by the clock, memory by the allocator, and
//! loops whose instructions `bench/instructions` counts.

mod allocator;
mod coroutines;
mod heaps;
mod http;
mod measure;
mod pool;
mod timers;

use std::error::Error;

const USAGE: &str = "usage: micro [http|pool|coroutines|timers] | micro million \
                     | micro count wheel|heap|indexed-heap soonest|any TIMERS";

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [] => {
            http::measure();
            pool::measure();
            coroutines::measure();
            timers::measure();
            coroutines::measure_a_million();
        }
        ["http"] => http::measure(),
        ["pool"] => pool::measure(),
        ["coroutines"] => coroutines::measure(),
        ["timers"] => timers::measure(),
        ["million"] => coroutines::measure_a_million(),
        ["count", contender, which, armed] => timers::count(contender, which, armed.parse()?)?,
        _ => return Err(USAGE.into()),
    }
    Ok(())
}
