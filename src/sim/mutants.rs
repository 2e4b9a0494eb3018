//! The faults that tests can plant in the core, one at a time, to check that the test suite detects
//! each of them. The macro that plants them is in `sys/mutants.rs`.

use std::cell::Cell;

/// Declares the faults, and the list of them.
macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A fault that a test can plant.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[$doc])* $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

mutants! {
    /// An operation's id is matched by its slot alone, without its generation.
    IgnoreGeneration,
    /// An orphaned operation releases its descriptor before its final completion.
    CloseBeforeFinal,
    /// An orphaned operation frees its bytes before its final completion.
    FreeOrphan,
    /// A short send is treated as complete.
    ShortSendIsWhole,
    /// A poll for room is repeated although it reports only a half-closed peer.
    AskForRoomAgain,
    /// The error after a partial send is ignored, so more is sent on the socket.
    ForgetSendError,
    /// The end of a stream is ignored, so the receive is armed again.
    RearmOnEof,
    /// A reset is not noticed while no receive is armed.
    MissReset,
    /// The data of the last completion of a multishot is dropped.
    DropLastData,
    /// The descriptors of a message whose receive is orphaned are not closed.
    LeakDescriptors,
    /// A multishot that ended with data is treated as still armed.
    MissLostMore,
    /// A receive that found no buffer is not queued for one.
    ForgetQueued,
    /// A receive that needs a buffer does not queue behind earlier ones.
    SkipBufferQueue,
    /// A worker sleeps while receives wait for their turn to get a buffer.
    SleepInQueue,
    /// A guest waits with submissions that the kernel has not seen.
    WaitUnsubmitted,
    /// A guest waits without a way to wake its host.
    ForgetHost,
    /// A wake-up from another thread does not end the worker's sleep.
    LoseRemoteWake,
    /// A worker goes to sleep without checking again for queued wake-ups.
    SleepUnchecked,
    /// What a future in a queue was granted is lost if the future is dropped.
    LoseGrant,
    /// A task that wakes itself while it is polled is not polled again.
    LoseSelfWake,
    /// A buffer's number is returned twice.
    DoubleReturn,
    /// The buffer of a completion whose operation is orphaned is not returned.
    LeakBuffer,
    /// Every byte of a request head extends the head's deadline.
    SlowlorisDeadline,
    /// The rest of a short send is sent after bytes that were queued later.
    PutBackLast,
    /// The completion of a cancellation is treated as that of its target.
    CancelIsFinal,
    /// An orphaned operation is not cancelled.
    ForgetCancel,
    /// A connection is closed while its peer may still send.
    NoLinger,
    /// A response during a drain does not announce that it is the last.
    SilentDrain,
    /// Connections that are in the backlog when a drain begins are not accepted.
    ForgetBacklog,
    /// A failed accept is repeated at once.
    SpinOnExhausted,
    /// A connection that was accepted after accepting was stopped is leaked.
    LoseLateAccept,
    /// A receive stays armed however many received bytes wait for their reader.
    NeverFull,
    /// A worker's memory is freed while the kernel may still use it.
    SkipFinish,
    /// Buffers are returned only when none is left.
    StingyTopUp,
    /// The index of the next buffer does not wrap around.
    StuckTail,
    /// A signal during the wait is treated as an error.
    FatalSignal,
    /// A send is started while another one is in flight.
    SecondSend,
    /// Bytes after the last request of a connection get a response.
    RespondAfterClose,
    /// While tasks are busy, completions that wait to be posted are not fetched.
    NeverFetch,
    /// A turn of the loop does not end while tasks are ready.
    GreedyTurn,
    /// The task that was woken last runs first.
    NewestFirst,
    /// A deadline is enforced before pending completions are processed.
    EnforceEarly,
    /// Delays of the worker count against its peers.
    CountDelays,
    /// An aborted connection in the backlog prevents the acceptance of those behind it.
    AbortedIsLast,
    /// After a partial send, a file span is sent again from its start.
    SpanFromStart,
    /// A body whose writer has failed ends as if it were complete.
    BrokenIsWhole,
    /// The trailers of a body are not sent.
    ForgetTrailers,
    /// A worker may answer the requests of others.
    BelieveAnyWorker,
    /// A response may be longer than its worker was granted.
    ForgetCredit,
    /// A second head for a request is taken.
    SecondHead,
    /// The status of a response is not checked.
    TrustHead,
}

thread_local! {
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Whether the fault is planted on this thread.
pub fn is_planted(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}

/// Runs `body` with a fault planted on this thread.
pub fn with_mutant<R>(mutant: Mutant, body: impl FnOnce() -> R) -> R {
    struct Pull;
    impl Drop for Pull {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }
    PLANTED.set(Some(mutant));
    let _pull = Pull;
    body()
}
