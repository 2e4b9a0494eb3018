//! Panics that belong to an input. They are caught by the code under test, and neither printed nor
//! taken for a fault by libFuzzer, which ends the process in the hook.

use std::panic;
use std::sync::Once;

/// The message of a panic that an input asks for.
pub(crate) const PLANNED: &str = "a planned panic";

/// Lets planned panics pass the hook.
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

/// Panics as planned.
pub(crate) fn panic_as_planned() -> ! {
    panic::panic_any(PLANNED)
}
