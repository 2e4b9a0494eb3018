//! Linux as it is: what the standard library does not tell, one safe function each.

pub mod file;
pub mod kernel;
pub mod limits;
pub mod mutants;
pub mod output;
pub mod port;
pub mod signals;
pub mod socket;
