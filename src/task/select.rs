//! `select!`: waiting for the first of several futures of any types.
//!
//! The macro takes the branches one by one. It makes nested pairs `(branch, (branch, ()))` of them,
//! and gets a nested `Chosen` back, so it need not count them.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::rt::random_below;

/// Waits for the first of several futures, runs the code of its branch, and drops the other
/// futures, which cancels what they have in the kernel. The syntax and the rules are those of
/// `tokio::select!`:
///
/// ```text
/// select! {
///     biased;                                     // optional
///     PATTERN = FUTURE => EXPRESSION,
///     PATTERN = FUTURE, if CONDITION => EXPRESSION,
///     else => EXPRESSION,                         // optional
/// }
/// ```
///
/// - The futures are polled in an order that changes from poll to poll, so that a future that is
///   always ready does not starve the others; after `biased;` in the order of the branches.
/// - A branch whose condition is false takes no part. A branch whose value does not match its
///   pattern takes part no more.
/// - If no branch is left, the code of `else` runs. Without `else`, that panics.
/// - The code of a branch runs when the futures have been dropped. It may use `.await`, `?`,
///   `return` and `break`.
///
/// In a loop, a future that must not begin anew each time stands outside the loop, and the branch
/// waits for `&mut future`. The other futures are dropped whenever another one is first, so use
/// such as lose nothing then: the documentation of each says so.
///
/// ```
/// use std::time::Duration;
/// use coring::time::sleep;
///
/// coring::run(async {
///     let (sender, mut receiver) = coring::sync::channel(4);
///     coring::spawn(async move {
///         for n in 1..=3 {
///             sleep(Duration::from_millis(2)).await;
///             let _ = sender.send(n).await;
///         }
///     });
///     let mut deadline = sleep(Duration::from_secs(60));
///     let mut sum = 0;
///     let is_late = loop {
///         coring::select! {
///             Some(n) = receiver.recv() => sum += n,
///             () = &mut deadline => break true,
///             else => break false,
///         }
///         if sum == 6 {
///             break false;
///         }
///     };
///     assert_eq!((sum, is_late), (6, false));
/// });
/// ```
///
/// # Panics
/// If no branch is left and there is no `else`.
#[macro_export]
macro_rules! select {
    (biased; $($branches:tt)+) => { $crate::__select!(true, [], $($branches)+) };
    ($($branches:tt)+) => { $crate::__select!(false, [], $($branches)+) };
}

/// Reads the branches of `select!`, and then waits. Each branch is kept in braces as
/// `{name, pattern, future, condition, code}`, where the name differs from branch to branch,
/// because each step of a macro has its own.
#[doc(hidden)]
#[macro_export]
macro_rules! __select {
    ($biased:literal, [$($done:tt)*], else => $code:expr $(,)?) => {
        $crate::__select!(@wait $biased, [$($done)*], $code)
    };
    ($biased:literal, [$($done:tt)*],
        $pattern:pat = $future:expr, if $condition:expr => $code:block, $($rest:tt)*) => {
        $crate::__select!($biased,
            [$($done)* {future, $pattern, $future, $condition, $code}], $($rest)*)
    };
    ($biased:literal, [$($done:tt)*],
        $pattern:pat = $future:expr, if $condition:expr => $code:block $($rest:tt)*) => {
        $crate::__select!($biased,
            [$($done)* {future, $pattern, $future, $condition, $code}], $($rest)*)
    };
    ($biased:literal, [$($done:tt)*],
        $pattern:pat = $future:expr => $code:block, $($rest:tt)*) => {
        $crate::__select!($biased, [$($done)* {future, $pattern, $future, true, $code}], $($rest)*)
    };
    ($biased:literal, [$($done:tt)*], $pattern:pat = $future:expr => $code:block $($rest:tt)*) => {
        $crate::__select!($biased, [$($done)* {future, $pattern, $future, true, $code}], $($rest)*)
    };
    ($biased:literal, [$($done:tt)*],
        $pattern:pat = $future:expr, if $condition:expr => $code:expr $(, $($rest:tt)*)?) => {
        $crate::__select!($biased,
            [$($done)* {future, $pattern, $future, $condition, $code}], $($($rest)*)?)
    };
    ($biased:literal, [$($done:tt)*],
        $pattern:pat = $future:expr => $code:expr $(, $($rest:tt)*)?) => {
        $crate::__select!($biased,
            [$($done)* {future, $pattern, $future, true, $code}], $($($rest)*)?)
    };
    ($biased:literal, [$($done:tt)+], ) => {
        $crate::__select!(@wait $biased, [$($done)+],
            ::std::panic!("all branches are disabled and there is no else branch"))
    };

    (@wait $biased:literal,
        [$({$name:ident, $pattern:pat, $future:expr, $condition:expr, $code:expr})*],
        $otherwise:expr) => {{
        let chosen = {
            let conditions = $crate::__select!(@list [$({$condition})*]);
            $(let $name = ::std::pin::pin!(::std::future::IntoFuture::into_future($future));)*
            let mut branches = $crate::__select!(@branches [$({$name, $pattern})*]);
            $crate::task::__select::disable(&mut branches, conditions);
            $crate::task::__select::wait(branches, $biased).await
        };
        $crate::__select!(@choose chosen, [$({$pattern, $code})*], $otherwise)
    }};

    (@list []) => { () };
    (@list [{$first:expr} $($rest:tt)*]) => { ($first, $crate::__select!(@list [$($rest)*])) };

    (@branches []) => { () };
    (@branches [{$name:ident, $pattern:pat} $($rest:tt)*]) => {
        (
            $crate::task::__select::Branch::new($name, |value| {
                // The guard matches, notes that, and fails: so the value is whole again.
                let matches = ::std::cell::Cell::new(false);
                match value {
                    #[allow(unused_variables, unused_mut, reason = "only the match counts")]
                    $pattern if { matches.set(true); false } => ::std::unreachable!(),
                    value => matches.get().then_some(value),
                }
            }),
            $crate::__select!(@branches [$($rest)*]),
        )
    };

    (@choose $chosen:expr, [], $otherwise:expr) => {{
        let () = $chosen;
        $otherwise
    }};
    (@choose $chosen:expr, [{$pattern:pat, $code:expr} $($rest:tt)*], $otherwise:expr) => {
        match $chosen {
            $crate::task::__select::Chosen::First($pattern) => $code,
            #[allow(unreachable_patterns, reason = "most patterns match any value")]
            $crate::task::__select::Chosen::First(_) => ::std::unreachable!(),
            $crate::task::__select::Chosen::Rest(rest) => {
                $crate::__select!(@choose rest, [$($rest)*], $otherwise)
            }
        }
    };
}

/// The value of the first branch of a list, or the result of the others.
#[derive(Debug)]
pub enum Chosen<T, R> {
    /// The first branch was chosen.
    First(T),
    /// One of the others was chosen, or none.
    Rest(R),
}

/// A branch: a pinned future, and whether its value matches.
#[derive(Debug)]
pub struct Branch<'a, F, M> {
    future: Pin<&'a mut F>,
    matches: M,
    is_disabled: bool,
}

impl<'a, F, M> Branch<'a, F, M>
where
    F: Future,
    M: Fn(F::Output) -> Option<F::Output>,
{
    /// Makes a branch. `matches` returns the value if the branch wants it.
    pub fn new(future: Pin<&'a mut F>, matches: M) -> Self {
        Self {
            future,
            matches,
            is_disabled: false,
        }
    }
}

/// A list of branches: `()`, or a pair of a branch and a list.
pub trait Branches {
    /// Nested [`Chosen`]s that end in `()`.
    type Chosen;
    /// Nested pairs of conditions that end in `()`.
    type Conditions;
    /// The number of branches.
    const COUNT: usize;

    /// Disables the branches whose condition is false.
    fn disable(&mut self, conditions: Self::Conditions);

    /// Polls the branch with that number; `None` if it is disabled.
    fn poll(&mut self, number: usize, context: &mut Context<'_>) -> Option<Poll<Self::Chosen>>;

    /// The result if no branch is left.
    fn none() -> Self::Chosen;
}

impl Branches for () {
    type Chosen = ();
    type Conditions = ();
    const COUNT: usize = 0;

    fn disable(&mut self, (): ()) {}

    fn poll(&mut self, _number: usize, _context: &mut Context<'_>) -> Option<Poll<()>> {
        None
    }

    fn none() {}
}

impl<F, M, R> Branches for (Branch<'_, F, M>, R)
where
    F: Future,
    M: Fn(F::Output) -> Option<F::Output>,
    R: Branches,
{
    type Chosen = Chosen<F::Output, R::Chosen>;
    type Conditions = (bool, R::Conditions);
    const COUNT: usize = 1 + R::COUNT;

    fn disable(&mut self, (condition, rest): Self::Conditions) {
        self.0.is_disabled = !condition;
        self.1.disable(rest);
    }

    fn poll(&mut self, number: usize, context: &mut Context<'_>) -> Option<Poll<Self::Chosen>> {
        let (branch, rest) = self;
        if number > 0 {
            let polled = rest.poll(number - 1, context)?;
            return Some(polled.map(Chosen::Rest));
        }
        if branch.is_disabled {
            return None;
        }
        let Poll::Ready(value) = branch.future.as_mut().poll(context) else {
            return Some(Poll::Pending);
        };
        branch.is_disabled = true;
        let value = (branch.matches)(value)?;
        Some(Poll::Ready(Chosen::First(value)))
    }

    fn none() -> Self::Chosen {
        Chosen::Rest(R::none())
    }
}

/// Disables the branches whose condition is false.
pub fn disable<B: Branches>(branches: &mut B, conditions: B::Conditions) {
    branches.disable(conditions);
}

/// Waits for the first branch whose value matches.
pub async fn wait<B: Branches>(mut branches: B, is_biased: bool) -> B::Chosen {
    poll_fn(|context| {
        let first = if is_biased { 0 } else { random_below(B::COUNT) };
        let mut is_disabled = true;
        for number in first..first + B::COUNT {
            match branches.poll(number % B::COUNT, context) {
                Some(Poll::Ready(chosen)) => return Poll::Ready(chosen),
                Some(Poll::Pending) => is_disabled = false,
                None => {}
            }
        }
        match is_disabled {
            true => Poll::Ready(B::none()),
            false => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
