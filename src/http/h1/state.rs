//! The states of an exchange, and whether another exchange follows it. All state transitions are
//! made in this file.
//!
//! An exchange has two parties, a requester and a responder, and each party has its own state. A
//! [`Step`] is something that a party did. [`RULES`] lists, for each state of each party, the steps
//! that are allowed and the states they lead to. Any other step is a bug of the caller. The rules
//! are the same for a client and a server, and no bytes are handled here.
//!
//! ```text
//! requester   Idle ─Request─► Body ─End─► Done ─Reuse─► Idle     (a bodiless request ends at once)
//!                     Expect │ ▲ Proceed
//!                            ▼ │
//!                          Waiting                               (for 100 Continue)
//! responder   Idle ─Request─► Head ─Response─► Body ─End─► Done ─Reuse─► Idle
//! ```
//!
//! If the response switches to another protocol (101), both parties become `Switched`: they send
//! data until the connection ends.
//!
//! The connection persists until a party declares that its message is the last one. This cannot be
//! undone. After each message that ends, some transitions follow from the states and these
//! declarations. If both parties are `Done` and the connection persists, both return to `Idle` for
//! the next request. If no further exchange can follow, the responder retires from `Done` to
//! `MustClose`; a requester that is `Done` does so once the responder has retired or failed. A
//! responder may respond from `Idle`: a request that could not be parsed still gets its 4xx.

/// A party of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// Sends requests.
    Requester,
    /// Sends responses.
    Responder,
}

/// The state of one party. States that are tested together are adjacent, so that the compiler can
/// test them with one comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartyState {
    /// Nothing of the exchange has happened yet.
    Idle,
    /// The responder has a request, and has not sent the head of the final response.
    Head,
    /// The message of this party is complete.
    Done,
    /// Like `Done`, and no other exchange follows.
    MustClose,
    /// This party has half-closed or closed the connection.
    Closed,
    /// This party violated the protocol or did not complete its message. Nothing more is read from
    /// it, or sent by it.
    Error,
    /// The head is complete, the body is not.
    Body,
    /// Like `Body`, and the requester waits for `100 Continue` before it sends the body.
    Waiting,
    /// This party sends data of another protocol, after a 101 response.
    Switched,
}

/// An event that changes the state of a party.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The head of a request is complete. The responder takes this step too: it must respond now.
    Request,
    /// The request's head asks for `100 Continue`.
    Expect,
    /// The requester waits no longer: it received `100 Continue` or the final response, or it sends
    /// the body without either.
    Proceed,
    /// An interim (1xx) response is complete.
    Interim,
    /// The head of the final response is complete.
    Response,
    /// Data of a body, or of the protocol that was switched to.
    Data,
    /// The message is complete.
    End,
    /// The exchange is over, and another may follow on this connection.
    Reuse,
    /// The exchange is over for this party, and no other follows.
    Retire,
    /// The party half-closed or closed the connection.
    Close,
    /// The party violated the protocol or did not complete its message.
    Fault,
    /// A 101 response was sent: both parties switch to another protocol.
    Switch,
}

/// The states of both parties, and whether they have declared their messages to be the last ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeState {
    requester: PartyState,
    responder: PartyState,
    /// The requester sends no request after the current one.
    is_last_request: bool,
    /// The responder responds to no request after the current one or, between two exchanges, after
    /// the next one.
    is_last_response: bool,
}

impl ExchangeState {
    /// The state before the first request.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            requester: PartyState::Idle,
            responder: PartyState::Idle,
            is_last_request: false,
            is_last_response: false,
        }
    }

    /// The requester's state.
    #[inline]
    #[must_use]
    pub const fn requester(self) -> PartyState {
        self.requester
    }

    /// The responder's state.
    #[inline]
    #[must_use]
    pub const fn responder(self) -> PartyState {
        self.responder
    }

    /// Whether no exchange has begun.
    #[inline]
    #[must_use]
    pub fn is_idle(self) -> bool {
        (self.requester, self.responder) == (PartyState::Idle, PartyState::Idle)
    }

    /// Whether the requester has declared that it sends no request after the current one.
    #[inline]
    #[must_use]
    pub const fn is_last_request(self) -> bool {
        self.is_last_request
    }

    /// Whether another exchange may follow this one.
    #[inline]
    #[must_use]
    pub const fn persists(self) -> bool {
        !(self.is_last_request || self.is_last_response)
    }

    /// `party` declares that its current message is its last one.
    #[inline]
    pub fn declare_last(&mut self, party: Party) {
        match party {
            Party::Requester => self.is_last_request = true,
            Party::Responder => self.is_last_response = true,
        }
    }

    /// `party` took `step`. A step that no rule allows is a bug of the caller; it leads to `Error`.
    #[inline]
    pub fn step(&mut self, party: Party, step: Step) {
        let state = match party {
            Party::Requester => &mut self.requester,
            Party::Responder => &mut self.responder,
        };
        let next = next(party, *state, step);
        debug_assert!(next.is_some(), "{party:?} in {state:?} cannot {step:?}");
        *state = next.unwrap_or(PartyState::Error);
    }

    /// The requester no longer waits for `100 Continue`.
    #[inline]
    pub fn proceed(&mut self) {
        if self.requester == PartyState::Waiting {
            self.step(Party::Requester, Step::Proceed);
        }
    }

    /// The head of the final response is complete. `may_persist` is false if the connection must
    /// close after this response.
    #[inline]
    pub fn respond(&mut self, may_persist: bool) {
        // Without a request (`Idle`), the response is for bytes that could not be parsed as one.
        // A requester that was not told to continue may send the body or not. So the next bytes
        // could be a body or a request (RFC 9110 §10.1.1).
        let is_body_in_doubt = self.requester == PartyState::Waiting;
        if is_body_in_doubt {
            self.step(Party::Requester, Step::Proceed);
        }
        self.is_last_response |=
            (self.responder != PartyState::Head) | is_body_in_doubt | !may_persist;
        self.step(Party::Responder, Step::Response);
    }

    /// The final response, a 101, switches to another protocol, which the bytes after it belong to.
    /// No exchange follows.
    pub fn switch(&mut self) {
        self.declare_last(Party::Responder);
        self.step(Party::Requester, Step::Switch);
        self.step(Party::Responder, Step::Switch);
    }

    /// The message of `party` is complete. Returns whether this ended the exchange and the
    /// connection is ready for another.
    #[inline]
    pub fn end(&mut self, party: Party) -> bool {
        self.step(party, Step::End);
        self.settle()
    }

    /// `party` violated the protocol or did not complete its message. No other exchange follows.
    pub fn fail(&mut self, party: Party) {
        self.declare_last(Party::Responder);
        self.step(party, Step::Fault);
        self.settle();
    }

    /// The requester half-closed the connection between two requests, or after the last one.
    pub fn close_requester(&mut self) {
        self.step(Party::Requester, Step::Close);
        self.settle();
    }

    /// Makes the transitions that follow from the states and declarations alone. Returns whether
    /// the exchange was over and the connection is ready for another.
    fn settle(&mut self) -> bool {
        let persists = self.persists();
        let both_done = self.requester == PartyState::Done && self.responder == PartyState::Done;
        if both_done && persists {
            self.step(Party::Requester, Step::Reuse);
            self.step(Party::Responder, Step::Reuse);
            return true;
        }
        if self.responder == PartyState::Done && (!persists || is_last(self.requester)) {
            self.step(Party::Responder, Step::Retire);
        }
        if self.responder == PartyState::Idle && self.requester == PartyState::Closed {
            self.step(Party::Responder, Step::Retire);
        }
        if self.requester == PartyState::Done && is_last(self.responder) {
            self.step(Party::Requester, Step::Retire);
        }
        false
    }
}

impl Default for ExchangeState {
    fn default() -> Self {
        Self::new()
    }
}

/// The state that `step` leads `party` to from `state`; `None` if no rule allows the step.
#[inline]
#[must_use]
pub const fn next(party: Party, state: PartyState, step: Step) -> Option<PartyState> {
    TABLE[party as usize][state as usize][step as usize]
}

/// Whether a party in this state takes part in no further exchange.
const fn is_last(state: PartyState) -> bool {
    matches!(
        state,
        PartyState::MustClose | PartyState::Closed | PartyState::Error
    )
}

const PARTIES: usize = Party::Responder as usize + 1;
const STATES: usize = PartyState::Switched as usize + 1;
const STEPS: usize = Step::Switch as usize + 1;

/// The rules: party, state, step, and the state that the step leads to.
#[rustfmt::skip]
pub const RULES: [(Party, PartyState, Step, PartyState); 37] = [
    (Party::Requester, PartyState::Idle,      Step::Request,  PartyState::Body),
    (Party::Requester, PartyState::Idle,      Step::Close,    PartyState::Closed),
    (Party::Requester, PartyState::Idle,      Step::Fault,    PartyState::Error),
    (Party::Requester, PartyState::Body,      Step::Data,     PartyState::Body),
    (Party::Requester, PartyState::Body,      Step::End,      PartyState::Done),
    (Party::Requester, PartyState::Body,      Step::Fault,    PartyState::Error),
    (Party::Requester, PartyState::Body,      Step::Expect,   PartyState::Waiting),
    (Party::Requester, PartyState::Waiting,   Step::Proceed,  PartyState::Body),
    (Party::Requester, PartyState::Waiting,   Step::Fault,    PartyState::Error),
    (Party::Requester, PartyState::Done,      Step::Reuse,    PartyState::Idle),
    (Party::Requester, PartyState::Done,      Step::Retire,   PartyState::MustClose),
    (Party::Requester, PartyState::Done,      Step::Fault,    PartyState::Error),
    (Party::Requester, PartyState::Done,      Step::Switch,   PartyState::Switched),
    (Party::Requester, PartyState::Switched,  Step::Data,     PartyState::Switched),
    (Party::Requester, PartyState::Switched,  Step::Close,    PartyState::Closed),
    (Party::Requester, PartyState::Switched,  Step::Fault,    PartyState::Error),
    (Party::Requester, PartyState::MustClose, Step::Close,    PartyState::Closed),
    (Party::Requester, PartyState::MustClose, Step::Fault,    PartyState::Error),
    (Party::Requester, PartyState::Closed,    Step::Close,    PartyState::Closed),
    (Party::Requester, PartyState::Closed,    Step::Fault,    PartyState::Closed),
    (Party::Requester, PartyState::Error,     Step::Fault,    PartyState::Error),

    (Party::Responder, PartyState::Idle,      Step::Request,  PartyState::Head),
    (Party::Responder, PartyState::Idle,      Step::Response, PartyState::Body),
    (Party::Responder, PartyState::Idle,      Step::Retire,   PartyState::MustClose),
    (Party::Responder, PartyState::Head,      Step::Interim,  PartyState::Head),
    (Party::Responder, PartyState::Head,      Step::Response, PartyState::Body),
    (Party::Responder, PartyState::Head,      Step::Fault,    PartyState::Error),
    (Party::Responder, PartyState::Head,      Step::Switch,   PartyState::Switched),
    (Party::Responder, PartyState::Switched,  Step::Data,     PartyState::Switched),
    (Party::Responder, PartyState::Switched,  Step::End,      PartyState::Done),
    (Party::Responder, PartyState::Switched,  Step::Fault,    PartyState::Error),
    (Party::Responder, PartyState::Body,      Step::Data,     PartyState::Body),
    (Party::Responder, PartyState::Body,      Step::End,      PartyState::Done),
    (Party::Responder, PartyState::Body,      Step::Fault,    PartyState::Error),
    (Party::Responder, PartyState::Done,      Step::Reuse,    PartyState::Idle),
    (Party::Responder, PartyState::Done,      Step::Retire,   PartyState::MustClose),
    (Party::Responder, PartyState::Error,     Step::Fault,    PartyState::Error),
];

/// [`RULES`] as a table that is indexed by party, state and step.
const TABLE: [[[Option<PartyState>; STEPS]; STATES]; PARTIES] = {
    let mut table = [[[None; STEPS]; STATES]; PARTIES];
    let mut index = 0;
    while index < RULES.len() {
        let (party, state, step, next) = RULES[index];
        let cell = &mut table[party as usize][state as usize][step as usize];
        assert!(
            cell.is_none(),
            "two rules for the same party, state and step"
        );
        *cell = Some(next);
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::{ExchangeState, Party, PartyState, RULES, Step, next};

    /// The rules as a graph in the DOT language, with one cluster for each party.
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
    fn the_graph_matches_the_golden_file() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/h1_states.dot");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, dot()).expect("tests/golden is writable");
        }
        let recorded = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(
            dot(),
            recorded,
            "if the change is intended, run the test with UPDATE=1"
        );
    }

    #[test]
    fn the_table_matches_the_rules() {
        for (party, state, step, to) in RULES {
            assert_eq!(next(party, state, step), Some(to));
        }
        assert_eq!(next(Party::Requester, PartyState::Idle, Step::Data), None);
        assert_eq!(
            next(Party::Responder, PartyState::Done, Step::Response),
            None
        );
    }

    #[test]
    fn settle_depends_on_both_states() {
        use PartyState::{Body, Closed, Done, Error, Head, Idle, MustClose};
        let check = |before: (PartyState, PartyState),
                     persists: bool,
                     after: (PartyState, PartyState),
                     reused| {
            let mut exchange = ExchangeState {
                requester: before.0,
                responder: before.1,
                is_last_request: false,
                is_last_response: !persists,
            };
            assert_eq!(exchange.settle(), reused, "{before:?}");
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
