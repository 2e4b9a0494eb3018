//! Executors that can turn a worker's loop. Each has a file, which says how it waits for a guest.

#[cfg(feature = "glommio")]
pub mod glommio;
#[cfg(feature = "tokio")]
pub mod tokio;
