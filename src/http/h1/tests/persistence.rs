//! Whether another exchange follows, by the moves of both parties.

use self::Move::{Close, Expect, Fail, Last, Proceed, Request, RequestEnd, Respond, ResponseEnd};
use crate::http::h1::state::Party::{self, Requester, Responder};
use crate::http::h1::state::State::{
    self, Body, Closed, Done, Error, Head, Idle, MustClose, Waiting,
};
use crate::http::h1::state::{Exchange, Step};

/// What can happen on a connection.
#[derive(Clone, Copy, Debug)]
enum Move {
    /// A request's head; a body follows.
    Request,
    Expect,
    Proceed,
    RequestEnd,
    /// A final response's head that lets the connection persist, or does not.
    Respond(bool),
    ResponseEnd,
    Last(Party),
    Fail(Party),
    Close,
}

/// The second half of an exchange, after a request's head.
const REST: [Move; 3] = [RequestEnd, Respond(true), ResponseEnd];

/// The moves, the states of requester and responder after them, and whether the connection
/// persists.
type Row<'a> = (&'a [Move], (State, State), bool);

fn check(table: &[Row<'_>]) {
    for (moves, states, persists) in table {
        let exchange = after(moves);
        let found = (exchange.requester(), exchange.responder());
        assert_eq!(found, *states, "{moves:?}");
        assert_eq!(exchange.persists(), *persists, "{moves:?}");
    }
}

fn after(moves: &[Move]) -> Exchange {
    let mut exchange = Exchange::new();
    for each in moves {
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
fn exchanges_follow_each_other() {
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
fn either_party_makes_an_exchange_the_last_one() {
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
        // Between two exchanges: the next one is the last.
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
fn a_body_that_may_not_come_makes_an_exchange_the_last_one() {
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
fn nothing_follows_a_fault_or_the_end_of_the_client_s_side() {
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
        // A response to bytes that were not a request.
        (&[Respond(true)], (Idle, Body), false),
        (&[Close], (Closed, MustClose), true),
        (&[Close, Fail(Requester)], (Closed, MustClose), false),
        (&[&last[..], &[Close]].concat(), (Closed, MustClose), false),
    ]);
}
