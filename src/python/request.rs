//! The message by which a worker receives a request: a tuple of its kind, the core that sends it,
//! its number, what the application is told of it, its body, and its deadline.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Once;

use super::body::Collected;
use super::forwarded::Origin;
use super::link::Form;
use super::marshal::Marshal;
use super::message::Id;
use super::outbox::Outgoing;
use super::vars::{self, Site};
use crate::messages;
use crate::service::Request;

/// Where the number of a request stands in its message, and in that of a part of its body.
const ID_AT: usize = 17;
const ID_IN_PART_AT: usize = 12;

/// A request for a thread that takes it whole.
pub(super) fn for_wsgi(
    request: &Request,
    (core, id): (i32, Id),
    (site, origin): (&Site, &Origin),
    body: Collected,
    deadline: f64,
) -> Outgoing {
    let mut message = begin(core, id);
    vars::environ(&mut message, request, site, origin, body.length());
    let descriptor: Option<Rc<OwnedFd>> = match body {
        Collected::None => {
            message.bytes(b"");
            None
        }
        Collected::Inline(bytes) => {
            message.bytes(&bytes);
            None
        }
        Collected::File(file, _) => {
            message.none();
            Some(Rc::new(file))
        }
    };
    message.float(deadline);
    Outgoing {
        bytes: message.into_bytes(),
        descriptor,
    }
}

/// A request for a worker that runs many at a time. Without a `body` it has one that follows in
/// parts.
pub(super) fn for_each(
    request: &mut Request,
    (core, id): (i32, Id),
    (site, origin, form): (&Site, &Origin, Form),
    body: Option<&[u8]>,
    deadline: f64,
) -> Outgoing {
    let mut message = begin(core, id);
    match form {
        Form::Environ => {
            let is_stated = request.header("content-length").is_some();
            let length = request.body().length().filter(|_| is_stated);
            vars::environ(&mut message, request, site, origin, length);
        }
        Form::Scope => vars::scope(&mut message, request, site, origin),
    }
    match body {
        Some(body) => message.bytes(body),
        None => message.none(),
    }
    message.float(deadline);
    Outgoing {
        bytes: message.into_bytes(),
        descriptor: None,
    }
}

pub(super) fn begin(core: i32, id: Id) -> Marshal {
    let mut message = Marshal::with_capacity(1024);
    message.tuple(6);
    message.int(0);
    message.int(core);
    message.bytes(&id);
    message
}

/// A message to a worker with a socket of its own that another one may be given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Request(Id),
    /// A part of a request's body.
    Part(Id),
}

/// Reads what a message to such a worker is about; none if another one has no use for it.
pub(super) fn parse_frame(frame: &[u8]) -> Option<Frame> {
    let id = |at: usize| Some(*frame.get(at..)?.first_chunk()?);
    Some(match frame {
        [b')', 6, b'i', 0, ..] => Frame::Request(id(ID_AT)?),
        [b')', 4, b'i', 1, ..] => Frame::Part(id(ID_IN_PART_AT)?),
        _ => return None,
    })
}

/// A part of the body of a request, which follows it.
pub(super) fn part(id: Id, part: &[u8], has_more: bool) -> Outgoing {
    let mut message = Marshal::with_capacity(part.len() + 64);
    message.tuple(4);
    message.int(1);
    message.bytes(&id);
    message.bytes(part);
    message.bool(has_more);
    Outgoing {
        bytes: message.into_bytes(),
        descriptor: None,
    }
}

/// Tells the operator, once, why clients get 501.
pub(super) fn notify_of_websockets() {
    static NOTICE: Once = Once::new();
    NOTICE.call_once(|| {
        messages::report(format_args!(
            "a client has asked for a WebSocket, which coring does not support yet; such requests \
             get 501"
        ));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_request_is_found_in_its_messages() {
        let id = *b"12345678";
        let request = begin(3, id).into_bytes();
        assert_eq!(parse_frame(&request), Some(Frame::Request(id)));
        let part = part(id, b"data", true).bytes;
        assert_eq!(parse_frame(&part), Some(Frame::Part(id)));
        assert_eq!(parse_frame(&part[..19]), None);
    }
}
