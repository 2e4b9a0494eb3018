//! The cost of taking blocks from the pool and giving them back.

use std::hint::black_box;

use coring::parts::Pool;

use crate::measure::time;

/// The number of blocks that are taken before they are given back.
const MANY: usize = 64;

pub(crate) fn measure() {
    let pool = Pool::new();
    time("pool: take a block and give it back", || {
        drop(black_box(pool.take()));
    });
    let mut out = Vec::with_capacity(MANY);
    time(
        &format!("pool: take {MANY} blocks and give them back"),
        || {
            out.extend((0..MANY).map(|_| pool.take()));
            black_box(&mut out).clear();
        },
    );
}
