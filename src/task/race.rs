//! Waiting for the first of several futures of one type.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// Waits for the first of `futures` that is ready, and returns its value. The others are dropped,
/// which cancels what they have in the kernel. If several are ready, the first of them wins.
///
/// For futures of different types, and to know which one was first, use [`select!`](crate::select).
///
/// If the future is dropped, all of `futures` are.
///
/// ```
/// use std::time::Duration;
///
/// coring::run(async {
///     let runners = [30, 10, 20].map(|ms| async move {
///         coring::time::sleep(Duration::from_millis(ms)).await;
///         ms
///     });
///     assert_eq!(coring::task::race(runners).await, 10);
/// });
/// ```
///
/// # Panics
/// If there are no futures.
pub async fn race<F: Future>(futures: impl IntoIterator<Item = F>) -> F::Output {
    let mut futures: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    assert!(!futures.is_empty(), "a race needs at least one future");
    poll_fn(|context| {
        for future in &mut futures {
            if let Poll::Ready(value) = future.as_mut().poll(context) {
                return Poll::Ready(value);
            }
        }
        Poll::Pending
    })
    .await
}
