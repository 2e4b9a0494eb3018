//! Panics that an input causes on purpose. The code under test catches them. They must not reach
//! the panic hook of libFuzzer, which aborts the process.

use std::panic;
use std::sync::Once;

/// The message of these panics.
pub(crate) const PLANNED: &str = "a planned panic";

/// Installs a panic hook that ignores planned panics and passes on all others.
pub(crate) fn allow_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&PLANNED) {
                hook(info);
            }
        }));
    });
}

/// Panics with the message `PLANNED`.
pub(crate) fn panic_as_planned() -> ! {
    panic::panic_any(PLANNED)
}
