//! What may follow what in one exchange: every move between states is made in this file.
//!
//! An exchange has two parties, a requester and a responder, and each is in one state of its own.
//! A [`Step`] is something a party did; [`RULES`] lists for each party the steps its state allows
//! and where they lead. A step that is not listed is an error of whoever took it. The rules do
//! not say which party we are: this file refuses to know our role, and it sees no bytes.
//!
//! ```text
//! requester   Idle ─Request─► Body ─End─► Done ─Reuse─► Idle     (a bodiless request ends at once)
//! responder   Idle ─Request─► Head ─Response─► Body ─End─► Done ─Reuse─► Idle
//! ```
//!
//! Some moves follow from the states alone; [`Exchange::settle`] makes them after every end. When
//! both parties are `Done` and the connection persists, both go back to `Idle` for the next
//! request; otherwise who is `Done` retires to `MustClose`. A responder may answer from `Idle`:
//! a request that never became readable still gets its 4xx.

/// Who took a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// Sends requests.
    Requester,
    /// Sends responses.
    Responder,
}

/// Where one party stands in the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing of the exchange has happened yet.
    Idle,
    /// A response is owed; its final head has not been sent.
    Head,
    /// The head is through, the body is not.
    Body,
    /// This party has said all it had to say.
    Done,
    /// As `Done`, and no other exchange follows.
    MustClose,
    /// This party has ended its side of the connection.
    Closed,
    /// This party broke the protocol or gave up in the middle; it will say nothing more.
    Error,
}

/// What a party can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A request's head is through; also what makes the responder owe a response.
    Request,
    /// An interim (1xx) response is through.
    Interim,
    /// A final response's head is through.
    Response,
    /// Bytes of a body.
    Data,
    /// The message is complete.
    End,
    /// Another exchange may follow on this connection.
    Reuse,
    /// No other exchange follows.
    Retire,
    /// The party ended its side of the connection.
    Close,
    /// The party broke the protocol or gave up.
    Fault,
}

/// The two states of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    requester: State,
    responder: State,
}

impl Exchange {
    /// Before the first request.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            requester: State::Idle,
            responder: State::Idle,
        }
    }

    /// The requester's state.
    #[inline]
    #[must_use]
    pub const fn requester(self) -> State {
        self.requester
    }

    /// The responder's state.
    #[inline]
    #[must_use]
    pub const fn responder(self) -> State {
        self.responder
    }

    /// `party` took `step`. A step that no rule allows is a bug of the caller: it leads to `Error`.
    #[inline]
    pub fn step(&mut self, party: Party, step: Step) {
        let state = match party {
            Party::Requester => &mut self.requester,
            Party::Responder => &mut self.responder,
        };
        let next = next(party, *state, step);
        debug_assert!(next.is_some(), "{party:?} in {state:?} cannot {step:?}");
        *state = next.unwrap_or(State::Error);
    }

    /// The moves that follow from the states alone. Returns whether the exchange was over and the
    /// connection is ready for another.
    pub fn settle(&mut self, persists: bool) -> bool {
        let both_done = self.requester == State::Done && self.responder == State::Done;
        if both_done && persists {
            self.step(Party::Requester, Step::Reuse);
            self.step(Party::Responder, Step::Reuse);
            return true;
        }
        if self.responder == State::Done && (!persists || is_last(self.requester)) {
            self.step(Party::Responder, Step::Retire);
        }
        if self.responder == State::Idle && self.requester == State::Closed {
            self.step(Party::Responder, Step::Retire);
        }
        if self.requester == State::Done && is_last(self.responder) {
            self.step(Party::Requester, Step::Retire);
        }
        false
    }
}

impl Default for Exchange {
    fn default() -> Self {
        Self::new()
    }
}

/// Where `step` leads `party` from `state`; `None` where no rule allows it.
#[inline]
#[must_use]
pub const fn next(party: Party, state: State, step: Step) -> Option<State> {
    TABLE[party as usize][state as usize][step as usize]
}

/// Whether no other exchange can follow for a party in this state.
const fn is_last(state: State) -> bool {
    matches!(state, State::MustClose | State::Closed | State::Error)
}

const PARTIES: usize = Party::Responder as usize + 1;
const STATES: usize = State::Error as usize + 1;
const STEPS: usize = Step::Fault as usize + 1;

/// The rules: who, in which state, by which step, comes to which state.
#[rustfmt::skip]
pub const RULES: [(Party, State, Step, State); 25] = [
    (Party::Requester, State::Idle,      Step::Request,  State::Body),
    (Party::Requester, State::Idle,      Step::Close,    State::Closed),
    (Party::Requester, State::Idle,      Step::Fault,    State::Error),
    (Party::Requester, State::Body,      Step::Data,     State::Body),
    (Party::Requester, State::Body,      Step::End,      State::Done),
    (Party::Requester, State::Body,      Step::Fault,    State::Error),
    (Party::Requester, State::Done,      Step::Reuse,    State::Idle),
    (Party::Requester, State::Done,      Step::Retire,   State::MustClose),
    (Party::Requester, State::Done,      Step::Fault,    State::Error),
    (Party::Requester, State::MustClose, Step::Close,    State::Closed),
    (Party::Requester, State::MustClose, Step::Fault,    State::Error),
    (Party::Requester, State::Closed,    Step::Close,    State::Closed),
    (Party::Requester, State::Error,     Step::Fault,    State::Error),

    (Party::Responder, State::Idle,      Step::Request,  State::Head),
    (Party::Responder, State::Idle,      Step::Response, State::Body),
    (Party::Responder, State::Idle,      Step::Retire,   State::MustClose),
    (Party::Responder, State::Head,      Step::Interim,  State::Head),
    (Party::Responder, State::Head,      Step::Response, State::Body),
    (Party::Responder, State::Head,      Step::Fault,    State::Error),
    (Party::Responder, State::Body,      Step::Data,     State::Body),
    (Party::Responder, State::Body,      Step::End,      State::Done),
    (Party::Responder, State::Body,      Step::Fault,    State::Error),
    (Party::Responder, State::Done,      Step::Reuse,    State::Idle),
    (Party::Responder, State::Done,      Step::Retire,   State::MustClose),
    (Party::Responder, State::Error,     Step::Fault,    State::Error),
];

/// [`RULES`] laid out for a look-up without a search.
const TABLE: [[[Option<State>; STEPS]; STATES]; PARTIES] = {
    let mut table = [[[None; STEPS]; STATES]; PARTIES];
    let mut index = 0;
    while index < RULES.len() {
        let (party, state, step, next) = RULES[index];
        let cell = &mut table[party as usize][state as usize][step as usize];
        assert!(cell.is_none(), "two rules for one step");
        *cell = Some(next);
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::{Exchange, Party, RULES, State, Step, next};

    /// The rules as a graph, one cluster for each party.
    fn dot() -> String {
        use std::fmt::Write as _;
        let mut text =
            String::from("digraph h1_states {\n    rankdir=LR;\n    node [shape=box];\n");
        for party in [Party::Requester, Party::Responder] {
            let _ = writeln!(
                text,
                "    subgraph cluster_{party:?} {{\n        label={party:?};"
            );
            for (_, state, step, next) in RULES.iter().filter(|rule| rule.0 == party) {
                let from = format!("{party:?}_{state:?}");
                let _ = writeln!(
                    text,
                    "        {from} -> {party:?}_{next:?} [label={step:?}];"
                );
            }
            text.push_str("    }\n");
        }
        text + "}\n"
    }

    #[test]
    fn the_graph_is_the_recorded_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/h1_states.dot");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, dot()).expect("tests/golden is writable");
        }
        let recorded = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(dot(), recorded, "run with UPDATE=1 if the change is meant");
    }

    #[test]
    fn the_table_says_what_the_rules_say() {
        for (party, state, step, to) in RULES {
            assert_eq!(next(party, state, step), Some(to));
        }
        assert_eq!(next(Party::Requester, State::Idle, Step::Data), None);
        assert_eq!(next(Party::Responder, State::Done, Step::Response), None);
    }

    #[test]
    fn settles_by_both_states() {
        use State::{Body, Closed, Done, Error, Head, Idle, MustClose};
        let check = |before: (State, State), persists, after: (State, State), reused| {
            let mut exchange = Exchange {
                requester: before.0,
                responder: before.1,
            };
            assert_eq!(exchange.settle(persists), reused, "{before:?}");
            assert_eq!(
                (exchange.requester, exchange.responder),
                after,
                "{before:?}"
            );
        };
        check((Done, Done), true, (Idle, Idle), true);
        check((Done, Done), false, (MustClose, MustClose), false);
        check((Done, Head), true, (Done, Head), false);
        check((Done, Body), false, (Done, Body), false);
        check((Body, Done), true, (Body, Done), false);
        check((Body, Done), false, (Body, MustClose), false);
        check((Done, MustClose), false, (MustClose, MustClose), false);
        check((Done, Error), false, (MustClose, Error), false);
        check((Error, Done), true, (Error, MustClose), false);
        check((Closed, Idle), true, (Closed, MustClose), false);
        check((Idle, Idle), true, (Idle, Idle), false);
    }
}
