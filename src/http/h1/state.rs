//! The states of an exchange, and whether another exchange follows it: all moves between states
//! are made in this file.
//!
//! An exchange has two parties, a requester and a responder, and each party has a state of its own.
//! A [`Step`] is something that a party did; [`RULES`] lists for each party the steps that its
//! state allows and where they lead. A step that is not listed is a bug of the caller. The rules do
//! not say which party we are: this file does not know our role, and it sees no bytes.
//!
//! ```text
//! requester   Idle ─Request─► Body ─End─► Done ─Reuse─► Idle     (a bodiless request ends at once)
//!                     Expect │ ▲ Proceed
//!                            ▼ │
//!                          Waiting                               (for 100 Continue)
//! responder   Idle ─Request─► Head ─Response─► Body ─End─► Done ─Reuse─► Idle
//! ```
//!
//! If the response agrees on another protocol, both parties are `Switched`: from then on they send
//! data, until the connection ends.
//!
//! The connection persists until one of the parties declares its message to be the last one; this
//! cannot be taken back. Some moves follow from the states and these declarations alone, and are
//! made after every end: if both parties are `Done` and the connection persists, both return to
//! `Idle` for the next request; otherwise a party that is `Done` retires to `MustClose`. A
//! responder may answer from `Idle`: a request that could not be read still gets its 4xx.

/// Who took a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// Sends requests.
    Requester,
    /// Sends responses.
    Responder,
}

/// Where one party stands in the exchange. States that are asked for together are neighbours, so
/// that one comparison finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing of the exchange has happened yet.
    Idle,
    /// A response is owed; its final head has not been sent.
    Head,
    /// This party has said all it had to say.
    Done,
    /// As `Done`, and no other exchange follows.
    MustClose,
    /// This party has ended its side of the connection.
    Closed,
    /// This party broke the protocol or gave up in the middle; it will say nothing more.
    Error,
    /// The head is through, the body is not.
    Body,
    /// As `Body`, and the requester waits for `100 Continue` before it sends the body.
    Waiting,
    /// Another protocol has taken the place of HTTP.
    Switched,
}

/// What a party can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A request's head is through; also what makes the responder owe a response.
    Request,
    /// The request's head asks for `100 Continue`.
    Expect,
    /// The requester need not wait any longer: it was told to continue, it sends the body without
    /// that, or the final response has come instead.
    Proceed,
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
    /// Both parties have agreed on another protocol.
    Switch,
}

/// The states of an exchange, and what the parties have declared of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    requester: State,
    responder: State,
    /// The requester sends no request after the one at hand.
    is_last_request: bool,
    /// The responder answers no request after the one at hand, or after the next one if there is
    /// none at hand.
    is_last_response: bool,
}

impl Exchange {
    /// Before the first request.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            requester: State::Idle,
            responder: State::Idle,
            is_last_request: false,
            is_last_response: false,
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

    /// Whether nothing of an exchange has happened yet.
    #[inline]
    #[must_use]
    pub fn is_idle(self) -> bool {
        (self.requester, self.responder) == (State::Idle, State::Idle)
    }

    /// Whether the requester has declared that it sends no request after the one at hand.
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

    /// `party` declares that its message at hand is its last one.
    #[inline]
    pub fn declare_last(&mut self, party: Party) {
        match party {
            Party::Requester => self.is_last_request = true,
            Party::Responder => self.is_last_response = true,
        }
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

    /// The requester need not wait for `100 Continue` any longer.
    #[inline]
    pub fn proceed(&mut self) {
        if self.requester == State::Waiting {
            self.step(Party::Requester, Step::Proceed);
        }
    }

    /// The head of the final response is through. `may_persist`: the connection can outlive it.
    #[inline]
    pub fn respond(&mut self, may_persist: bool) {
        // A response to no request was made for bytes that could not be read as one. A requester
        // that was not told to continue may send the body or not, so that the next bytes could be
        // a body or a request (RFC 9110 §10.1.1).
        let is_body_in_doubt = self.requester == State::Waiting;
        if is_body_in_doubt {
            self.step(Party::Requester, Step::Proceed);
        }
        self.is_last_response |= (self.responder != State::Head) | is_body_in_doubt | !may_persist;
        self.step(Party::Responder, Step::Response);
    }

    /// The final response has agreed on another protocol, which the bytes behind it speak. No
    /// exchange follows.
    pub fn switch(&mut self) {
        self.declare_last(Party::Responder);
        self.step(Party::Requester, Step::Switch);
        self.step(Party::Responder, Step::Switch);
    }

    /// The message of `party` is complete. Returns whether this was the end of the exchange, and
    /// the connection is ready for another.
    #[inline]
    pub fn end(&mut self, party: Party) -> bool {
        self.step(party, Step::End);
        self.settle()
    }

    /// `party` broke the protocol or gave up: this exchange is the last one.
    pub fn fail(&mut self, party: Party) {
        self.declare_last(Party::Responder);
        self.step(party, Step::Fault);
        self.settle();
    }

    /// The requester ended its side of the connection between two requests, or after the last.
    pub fn close_requester(&mut self) {
        self.step(Party::Requester, Step::Close);
        self.settle();
    }

    /// The moves that follow from the states and the declarations alone. Returns whether the
    /// exchange was over and the connection is ready for another.
    fn settle(&mut self) -> bool {
        let persists = self.persists();
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
const STATES: usize = State::Switched as usize + 1;
const STEPS: usize = Step::Switch as usize + 1;

/// The rules: who, in which state, by which step, comes to which state.
#[rustfmt::skip]
pub const RULES: [(Party, State, Step, State); 37] = [
    (Party::Requester, State::Idle,      Step::Request,  State::Body),
    (Party::Requester, State::Idle,      Step::Close,    State::Closed),
    (Party::Requester, State::Idle,      Step::Fault,    State::Error),
    (Party::Requester, State::Body,      Step::Data,     State::Body),
    (Party::Requester, State::Body,      Step::End,      State::Done),
    (Party::Requester, State::Body,      Step::Fault,    State::Error),
    (Party::Requester, State::Body,      Step::Expect,   State::Waiting),
    (Party::Requester, State::Waiting,   Step::Proceed,  State::Body),
    (Party::Requester, State::Waiting,   Step::Fault,    State::Error),
    (Party::Requester, State::Done,      Step::Reuse,    State::Idle),
    (Party::Requester, State::Done,      Step::Retire,   State::MustClose),
    (Party::Requester, State::Done,      Step::Fault,    State::Error),
    (Party::Requester, State::Done,      Step::Switch,   State::Switched),
    (Party::Requester, State::Switched,  Step::Data,     State::Switched),
    (Party::Requester, State::Switched,  Step::Close,    State::Closed),
    (Party::Requester, State::Switched,  Step::Fault,    State::Error),
    (Party::Requester, State::MustClose, Step::Close,    State::Closed),
    (Party::Requester, State::MustClose, Step::Fault,    State::Error),
    (Party::Requester, State::Closed,    Step::Close,    State::Closed),
    (Party::Requester, State::Closed,    Step::Fault,    State::Closed),
    (Party::Requester, State::Error,     Step::Fault,    State::Error),

    (Party::Responder, State::Idle,      Step::Request,  State::Head),
    (Party::Responder, State::Idle,      Step::Response, State::Body),
    (Party::Responder, State::Idle,      Step::Retire,   State::MustClose),
    (Party::Responder, State::Head,      Step::Interim,  State::Head),
    (Party::Responder, State::Head,      Step::Response, State::Body),
    (Party::Responder, State::Head,      Step::Fault,    State::Error),
    (Party::Responder, State::Head,      Step::Switch,   State::Switched),
    (Party::Responder, State::Switched,  Step::Data,     State::Switched),
    (Party::Responder, State::Switched,  Step::End,      State::Done),
    (Party::Responder, State::Switched,  Step::Fault,    State::Error),
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
        let check = |before: (State, State), persists: bool, after: (State, State), reused| {
            let mut exchange = Exchange {
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
