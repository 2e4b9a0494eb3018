//! The faults that can be planted in the core, one at a time: a test suite that does not notice one
//! of them is not worth its time. The macro that plants them is in `sys/mutants.rs`.

use std::cell::Cell;

/// Declares the faults, and the list of them.
macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A fault that can be planted.
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
    /// A name is taken for an operation's whatever its generation.
    IgnoreGeneration,
    /// An operation whose owner is gone gives its descriptor up before its final completion.
    CloseBeforeFinal,
    /// An operation whose owner is gone gives its bytes up before its final completion.
    FreeOrphan,
    /// A short send is taken for the whole.
    ShortSendIsWhole,
    /// A peer that has half-closed is asked about again and again.
    AskForRoomAgain,
    /// The error behind a partial send is forgotten, so the socket is sent on again.
    ForgetSendError,
    /// The end of a stream is not noted, so the receive is armed again.
    RearmOnEof,
    /// A reset is not noticed while no receive is armed.
    DeafAfterEnd,
    /// The result of the last completion of a multishot is dropped.
    DropLastData,
    /// The descriptors that a message brings which nobody waits for any more are forgotten.
    LeakDescriptors,
    /// A multishot that ended with data is thought to go on.
    MissLostMore,
    /// A receive that found no buffer does not wait for one.
    ForgetQueued,
    /// A receive that asks for a buffer does not wait behind those that asked before.
    Overtake,
    /// A worker sleeps while receives wait for their turn to get a buffer.
    SleepInQueue,
    /// A wake-up from outside does not end the worker's sleep.
    LoseRemoteWake,
    /// A worker goes to sleep without looking once more whether something came.
    SleepUnchecked,
    /// A task that wakes itself while it runs is not run again.
    LoseSelfWake,
    /// A buffer's number is returned twice.
    DoubleReturn,
    /// The buffer of a completion that nobody waits for is not returned.
    LeakBuffer,
    /// Every byte of a head moves its deadline.
    SlowlorisDeadline,
    /// What a short send left goes out after what was queued later.
    PutBackLast,
    /// The completion of a cancel is taken for that of its target.
    CancelIsFinal,
    /// An operation whose owner is gone is not cancelled.
    ForgetCancel,
    /// A connection is closed while its peer may still send.
    NoLinger,
    /// An answer during a drain does not say that it is the last.
    SilentDrain,
    /// What waits in the backlog when a drain begins is left there.
    ForgetBacklog,
    /// A failed accept is tried again at once.
    SpinOnExhausted,
    /// A connection that was accepted after the accept was stopped is forgotten.
    LoseLateAccept,
    /// A receive goes on however much waits to be asked for.
    NeverFull,
    /// A worker's memory goes before the kernel has given it back.
    SkipFinish,
    /// Buffers are returned only once none is left.
    StingyTopUp,
    /// The place for the next buffer does not wrap around.
    StuckTail,
    /// A signal during the wait is an error.
    FatalSignal,
    /// A send is begun while another one is in flight.
    SecondSend,
    /// What follows the last request of a connection is answered, too.
    AnswerAfterClose,
    /// While tasks are busy, completions that wait to be posted are not fetched.
    NeverFetch,
    /// A turn of the loop goes on while tasks are ready.
    GreedyTurn,
    /// Of the tasks that are ready, the one that was woken last runs first.
    NewestFirst,
    /// A deadline is acted on before the kernel was asked what has come.
    JudgeUnheard,
    /// The time in which something holds the worker up counts against its peers.
    CountDelays,
    /// A connection in the backlog that is gone before it is taken hides those behind it.
    AbortedIsLast,
    /// A span of a file that was sent in part goes on from its start.
    SpanFromStart,
    /// A body whose writer broke it off ends as if it were whole.
    BrokenIsWhole,
    /// The trailers of a body are not sent.
    ForgetTrailers,
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
