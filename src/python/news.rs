//! What the supervisor tells the cores: which workers are ready, are to end, or have ended.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::link::{Dispatch, Form};
use crate::net::UnixSeqpacket;
use crate::task::spawn;

pub(super) fn join_message(number: u32, width: u32, dispatch: Dispatch) -> Vec<u8> {
    let dispatch = match dispatch {
        Dispatch::Shared => 0,
        Dispatch::Each(Form::Environ) => 1,
        Dispatch::Each(Form::Scope) => 2,
    };
    let mut message = vec![b'J', dispatch];
    message.extend_from_slice(&number.to_ne_bytes());
    message.extend_from_slice(&width.to_ne_bytes());
    message
}

pub(super) fn retire_message(number: u32) -> Vec<u8> {
    about(b'R', number)
}

/// `is_late`: the worker was ended because it did not go on.
pub(super) fn leave_message(number: u32, is_late: bool) -> Vec<u8> {
    let mut message = about(b'L', number);
    message[1] = is_late.into();
    message
}

/// Carries the near end of another shared socket.
pub(super) fn shared_message() -> Vec<u8> {
    vec![b'S']
}

fn about(kind: u8, number: u32) -> Vec<u8> {
    let mut message = vec![kind, 0];
    message.extend_from_slice(&number.to_ne_bytes());
    message
}

/// What the supervisor tells a core.
#[derive(Debug)]
pub(super) enum News {
    Joined {
        number: u32,
        width: u32,
        dispatch: Dispatch,
    },
    /// The worker gets no further requests.
    Retired(u32),
    Left {
        number: u32,
        /// It was ended because it did not go on.
        is_late: bool,
    },
    /// WSGI workers receive from another socket.
    Shared,
}

/// Reads a message of the supervisor; none if it is not one.
pub(super) fn parse_news(message: &[u8]) -> Option<News> {
    let number = |at: usize| Some(u32::from_ne_bytes(*message.get(at..)?.first_chunk()?));
    Some(match message {
        [b'J', dispatch, ..] => News::Joined {
            number: number(2)?,
            width: number(6)?,
            dispatch: match dispatch {
                0 => Dispatch::Shared,
                1 => Dispatch::Each(Form::Environ),
                _ => Dispatch::Each(Form::Scope),
            },
        },
        [b'R', ..] => News::Retired(number(2)?),
        [b'L', is_late, ..] => News::Left {
            number: number(2)?,
            is_late: *is_late != 0,
        },
        [b'S'] => News::Shared,
        _ => return None,
    })
}

/// The supervisor's end of the socket to a core.
///
/// A core reads no news before it has a connection. News of workers that have ended meanwhile are
/// forgotten, so that their descriptors do not pile up.
pub(super) struct Teller {
    /// None while messages are being sent.
    socket: RefCell<Option<UnixSeqpacket>>,
    waiting: RefCell<VecDeque<Waiting>>,
}

struct Waiting {
    /// The worker that the message is about, if it is about one.
    number: Option<u32>,
    message: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Teller {
    pub(super) fn new(socket: UnixSeqpacket) -> Self {
        Self {
            socket: RefCell::new(Some(socket)),
            waiting: RefCell::default(),
        }
    }

    /// Tells the core of the worker with this number, after all that it is yet to be told.
    pub(super) fn tell(self: &Rc<Self>, number: u32, message: Vec<u8>, descriptors: Vec<OwnedFd>) {
        let number = Some(number);
        let joins = |waiting: &Waiting| waiting.number == number && waiting.message[0] == b'J';
        let mut waiting = self.waiting.borrow_mut();
        if message[0] == b'L' && waiting.iter().any(joins) {
            waiting.retain(|waiting| waiting.number != number);
            return;
        }
        drop(waiting);
        self.push(Waiting {
            number,
            message,
            descriptors,
        });
    }

    /// Gives the core the near end of another shared socket.
    pub(super) fn tell_shared(self: &Rc<Self>, near: OwnedFd) {
        let message = shared_message();
        let is_other = |waiting: &Waiting| waiting.message != message;
        self.waiting.borrow_mut().retain(is_other);
        self.push(Waiting {
            number: None,
            message,
            descriptors: vec![near],
        });
    }

    fn push(self: &Rc<Self>, waiting: Waiting) {
        self.waiting.borrow_mut().push_back(waiting);
        if let Some(socket) = self.socket.take() {
            let teller = self.clone();
            spawn(async move { teller.send_all(socket).await });
        }
    }

    async fn send_all(&self, mut socket: UnixSeqpacket) {
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(next) = next else { break };
            // A core that has ended need not know.
            let _ = socket.send(next.message, next.descriptors).await;
        }
        self.socket.replace(Some(socket));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::task::run::run;
    use crate::task::time::sleep;

    #[test]
    fn a_core_that_reads_late_hears_only_of_workers_that_live() {
        run(async {
            let (near, far) = UnixSeqpacket::pair().expect("a pair");
            let far = Rc::new(Teller::new(UnixSeqpacket::new(far).expect("a socket")));
            let page = || vec![OwnedFd::from(File::open("Cargo.toml").expect("a file"))];
            for number in 0..1000 {
                far.tell(number, join_message(number, 1, Dispatch::Shared), page());
                if number > 0 {
                    far.tell(number - 1, leave_message(number - 1, false), Vec::new());
                }
                sleep(std::time::Duration::ZERO).await;
            }
            assert!(far.waiting.borrow().len() < 1000);
            let (mut near, mut living) = (near, Vec::new());
            while let Ok(Some(message)) = near.recv(Vec::with_capacity(16)).await {
                match parse_news(&message.bytes).expect("news") {
                    News::Joined { number, .. } => living.push(number),
                    News::Left { number: left, .. } => living.retain(|number| *number != left),
                    News::Retired(_) | News::Shared => {}
                }
                if living == [999] {
                    break;
                }
            }
        });
    }
}
