//! The macro that plants a fault (a mutant) in the core, for tests. The faults are listed in
//! `sim/mutants.rs`. Without the feature `mutants` the macro is the only item here, and it expands
//! to the original code.

/// `mutate!(Name, mutated, original)` is the mutated expression if the fault `Name` is planted,
/// else the original. In `mutate!(Name, mutated)` the original is nothing.
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

/// Expands to the original, or to nothing.
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
