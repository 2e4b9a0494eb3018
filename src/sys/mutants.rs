//! Where a fault can be planted in the core, for tests; the list of faults is the simulation's.
//! Without the feature `mutants` there is nothing here but the macro, which leaves the original as
//! it stands.

/// `mutate!(Name, mutated, original)`: the mutated expression where that fault is planted, else
/// the original. `mutate!(Name, mutated)` is one where there is nothing otherwise.
#[cfg(feature = "mutants")]
macro_rules! mutate {
    ($name:ident, $mutated:expr, $original:expr) => {
        if $crate::sys::mutants::is_planted($crate::sys::mutants::Mutant::$name) {
            $mutated
        } else {
            $original
        }
    };
    ($name:ident, $mutated:expr) => {
        mutate!($name, $mutated, ())
    };
}

/// The original, or nothing.
#[cfg(not(feature = "mutants"))]
macro_rules! mutate {
    ($name:ident, $mutated:expr, $original:expr) => {
        $original
    };
    ($name:ident, $mutated:expr) => {};
}
pub(crate) use mutate;

#[cfg(feature = "mutants")]
pub use crate::sim::mutants::*;
