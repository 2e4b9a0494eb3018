//! `Debug` for types that hold a value of the program, whose type need not have it.

/// Implements `Debug` for types with one parameter. It shows their names alone.
macro_rules! opaque {
    ($($name:ident),+) => {
        $(
            impl<T> std::fmt::Debug for $name<T> {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.debug_struct(stringify!($name)).finish_non_exhaustive()
                }
            }
        )+
    };
}

pub(crate) use opaque;
