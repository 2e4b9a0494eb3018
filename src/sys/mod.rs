//! Linux interfaces that the standard library lacks, as safe functions.

pub mod children;
pub mod cores;
pub mod file;
#[cfg(feature = "glommio")]
pub mod glommio;
pub mod kernel;
pub mod limits;
pub mod lock;
pub mod mutants;
pub mod output;
pub mod port;
pub mod signals;
pub mod socket;
pub mod user;
