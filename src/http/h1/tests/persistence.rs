//! Tests of [`ExchangeState`]: the states of both parties, and whether another exchange follows.

use self::Action::{Close, Expect, Fail, Last, Proceed, Request, RequestEnd, Respond, ResponseEnd};
use crate::http::h1::state::Party::{self, Requester, Responder};
use crate::http::h1::state::PartyState::{
    self, Body, Closed, Done, Error, Head, Idle, MustClose, Waiting,
};
use crate::http::h1::state::{ExchangeState, Step};

/// An action of a party, or of both.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// The head of a request with a body.
    Request,
    Expect,
    Proceed,
    RequestEnd,
    /// The head of a final response, and whether it lets the connection persist.
    Respond(bool),
    ResponseEnd,
    Last(Party),
    Fail(Party),
    Close,
}

/// The second half of an exchange, after a request's head.
const REST: [Action; 3] = [RequestEnd, Respond(true), ResponseEnd];

/// Actions, the states of requester and responder after them, and whether the connection persists.
type Row<'a> = (&'a [Action], (PartyState, PartyState), bool);

fn check(table: &[Row<'_>]) {
    for (actions, states, persists) in table {
        let exchange = after(actions);
        let found = (exchange.requester(), exchange.responder());
        assert_eq!(found, *states, "{actions:?}");
        assert_eq!(exchange.persists(), *persists, "{actions:?}");
    }
}

fn after(actions: &[Action]) -> ExchangeState {
    let mut exchange = ExchangeState::new();
    for each in actions {
        match *each {
            Request => {
                exchange.step(Requester, Step::Request);
                exchange.step(Responder, Step::Request);
            }
            Expect => exchange.step(Requester, Step::Expect),
            Proceed => exchange.proceed(),
            RequestEnd => assert_eq!(exchange.end(Requester), exchange.is_idle()),
            Respond(may_persist) => exchange.respond(may_persist),
            ResponseEnd => assert_eq!(exchange.end(Responder), exchange.is_idle()),
            Last(party) => exchange.declare_last(party),
            Fail(party) => exchange.fail(party),
            Close => exchange.close_requester(),
        }
    }
    exchange
}

#[test]
fn exchanges_follow_one_another() {
    let whole = [&[Request], &REST[..]].concat();
    let response_first = [Request, Respond(true), ResponseEnd, RequestEnd];
    check(&[
        (&[], (Idle, Idle), true),
        (&[Request], (Body, Head), true),
        (&whole, (Idle, Idle), true),
        (&[&whole[..], &whole[..]].concat(), (Idle, Idle), true),
        (&response_first[..3], (Body, Done), true),
        (&response_first, (Idle, Idle), true),
    ]);
}

#[test]
fn either_party_can_declare_an_exchange_the_last_one() {
    let whole = [&[Request], &REST[..]].concat();
    let ends = (MustClose, MustClose);
    let response_first = [Request, Last(Requester), Respond(true), ResponseEnd];
    check(&[
        (&[Request, Last(Requester)], (Body, Head), false),
        (
            &[&[Request, Last(Requester)], &REST[..]].concat(),
            ends,
            false,
        ),
        (&response_first, (Body, MustClose), false),
        (
            &[&[Request, Last(Responder)], &REST[..]].concat(),
            ends,
            false,
        ),
        (
            &[Request, RequestEnd, Respond(false), ResponseEnd],
            ends,
            false,
        ),
        // Declared between two exchanges: the next one is the last.
        (&[Last(Responder)], (Idle, Idle), false),
        (&[&[Last(Responder)], &whole[..]].concat(), ends, false),
        (
            &[&whole[..], &[Last(Responder)], &whole[..]].concat(),
            ends,
            false,
        ),
    ]);
}

#[test]
fn a_body_without_100_continue_makes_the_exchange_the_last_one() {
    let waits = [Request, Expect];
    check(&[
        (&waits, (Waiting, Head), true),
        (&[&waits[..], &[Proceed]].concat(), (Body, Head), true),
        (
            &[&waits[..], &[Proceed], &REST[..]].concat(),
            (Idle, Idle),
            true,
        ),
        (
            &[&waits[..], &[Respond(true)]].concat(),
            (Body, Body),
            false,
        ),
        (
            &[&waits[..], &[Respond(true), ResponseEnd, RequestEnd]].concat(),
            (MustClose, MustClose),
            false,
        ),
        (
            &[&waits[..], &[Fail(Requester)]].concat(),
            (Error, Head),
            false,
        ),
    ]);
}

#[test]
fn no_exchange_follows_a_fault_or_a_half_close() {
    let response_first = [Request, Respond(true), ResponseEnd, Fail(Requester)];
    let response_fails = [Request, RequestEnd, Respond(true), Fail(Responder)];
    let last = [&[Request, Last(Requester)], &REST[..]].concat();
    check(&[
        (&[Fail(Requester)], (Error, Idle), false),
        (
            &[Fail(Requester), Respond(true), ResponseEnd],
            (Error, MustClose),
            false,
        ),
        (&response_first, (Error, MustClose), false),
        (&response_fails, (MustClose, Error), false),
        // A response to bytes that could not be parsed as a request.
        (&[Respond(true)], (Idle, Body), false),
        (&[Close], (Closed, MustClose), true),
        (&[Close, Fail(Requester)], (Closed, MustClose), false),
        (&[&last[..], &[Close]].concat(), (Closed, MustClose), false),
    ]);
}
