//! The body of a request that its application receives while it arrives (ASGI, gevent).

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::link::Link;
use super::message::Id;
use super::stream::CREDIT_BYTES;
use crate::service::Body;

/// Bytes of a part of a body.
const PART_BYTES_MAX: usize = 64 << 10;

/// Bytes that a worker has room for.
#[derive(Debug)]
pub(super) struct Credit(RefCell<Room>);

#[derive(Debug)]
struct Room {
    bytes: u64,
    /// The worker will ask for no more.
    is_closed: bool,
    waker: Option<Waker>,
}

impl Credit {
    /// What each worker begins with.
    pub(super) fn new() -> Self {
        Self(RefCell::new(Room {
            bytes: CREDIT_BYTES.into(),
            is_closed: false,
            waker: None,
        }))
    }

    /// The worker has room for `bytes` more.
    pub(super) fn add(&self, bytes: u32) {
        self.change(|room| {
            // A worker that asks for more than it has room for gets no more than that.
            let bytes = room.bytes.saturating_add(bytes.into());
            room.bytes = bytes.min(CREDIT_BYTES.into());
        });
    }

    /// The response has ended, or its call was dropped: no more of the body is wanted.
    pub(super) fn close(&self) {
        self.change(|room| room.is_closed = true);
    }

    fn change(&self, change: impl FnOnce(&mut Room)) {
        let mut room = self.0.borrow_mut();
        change(&mut room);
        let waker = room.waker.take();
        drop(room);
        waker.inspect(Waker::wake_by_ref);
    }

    /// Waits until there is room for anything, and takes up to `bytes` of it; none if it is closed.
    async fn take(&self, bytes: usize) -> Option<usize> {
        poll_fn(|context| {
            let mut room = self.0.borrow_mut();
            if room.is_closed {
                return Poll::Ready(None);
            }
            let taken = bytes.min(usize::try_from(room.bytes).unwrap_or(usize::MAX));
            if taken == 0 {
                room.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            room.bytes -= taken as u64;
            Poll::Ready(Some(taken))
        })
        .await
    }
}

/// Passes a request's body on as it arrives, as far as the worker has room for it, until it is
/// whole or its response has ended.
pub(super) async fn upload(link: Rc<Link>, id: Id, credit: Rc<Credit>, mut body: Body) {
    loop {
        match body.part().await {
            Ok(Some(part)) => {
                let mut rest = &part[..];
                while !rest.is_empty() {
                    let Some(len) = credit.take(rest.len().min(PART_BYTES_MAX)).await else {
                        return;
                    };
                    let (first, others) = rest.split_at(len);
                    link.send_part(id, first, true).await;
                    rest = others;
                }
            }
            Ok(None) => return link.send_part(id, b"", false).await,
            // The client has gone, which the worker hears of by itself.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::event::{EventfdFlags, eventfd};
    use rustix::io::write;
    use rustix::net::{SendFlags, send};

    use super::*;
    use crate::python::link::{Call, Dispatch, Form, Joined};
    use crate::python::outbox::Outgoing;
    use crate::python::{pair, request};
    use crate::run;
    use crate::sys::file::anonymous_file;
    use crate::task::spawn;
    use crate::task::time::{sleep, timeout};

    /// A worker cannot have more sent to it than it said at first that it has room for.
    #[test]
    fn room_has_a_limit() {
        run(async {
            let credit = Credit::new();
            for added in [0, 1, CREDIT_BYTES, u32::MAX, u32::MAX] {
                credit.add(added);
                assert_eq!(credit.take(usize::MAX).await, Some(CREDIT_BYTES as usize));
                credit.add(CREDIT_BYTES);
            }
            assert_eq!(credit.take(100).await, Some(100));
            let rest = CREDIT_BYTES as usize - 100;
            assert_eq!(credit.take(usize::MAX).await, Some(rest));
            credit.add(7);
            assert_eq!(credit.take(usize::MAX).await, Some(7));
        });
    }

    /// The far ends of the socket and of the bell of a worker.
    struct Worker {
        socket: OwnedFd,
        bell: OwnedFd,
    }

    impl Worker {
        const NUMBER: u32 = 7;

        fn join(link: &Rc<Link>) -> Self {
            let (data, far) = pair(512 << 10).expect("a pair");
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
            let bell = bell.expect("an eventfd");
            let copy = |descriptor: &OwnedFd| descriptor.try_clone().expect("a descriptor");
            let joined = Joined {
                number: Self::NUMBER,
                width: 1,
                dispatch: Dispatch::Each(Form::Scope),
                data,
                far: copy(&far),
                bell: copy(&bell),
                page: anonymous_file("page").expect("a file"),
                process: None,
            };
            link.join(joined);
            Self { socket: far, bell }
        }

        /// Sends a whole response.
        fn respond(&self, id: Id) {
            let head = [1, 1, 200, 0, 0, 0, 0, 0];
            let message = [head, id].concat();
            send(&self.socket, &message, SendFlags::empty()).expect("room");
            write(&self.bell, &1_u64.to_ne_bytes()).expect("a bell");
        }
    }

    /// A worker asks for no more of a body when its response has ended, or its call was dropped.
    #[test]
    fn an_upload_ends_with_its_response() {
        let ends: [fn(&Rc<Link>, &Worker, Call); 3] = [
            |_, worker, call| {
                worker.respond(call.id);
                drop(spawn(call.response(None::<std::future::Pending<()>>)));
            },
            |link, _, call| {
                link.worker_ended(Worker::NUMBER, false);
                drop(call);
            },
            |_, _, call| drop(call),
        ];
        for end in ends {
            run(async move {
                let (shared, _far) = pair(4096).expect("a pair");
                let link = Link::new(0, shared, usize::MAX, (0, 0));
                let worker = Worker::join(&link);
                let call = link.open(f64::MAX, false);
                let (id, credit) = (call.id, call.upload());
                let message = Outgoing {
                    bytes: request::begin(0, id).into_bytes(),
                    descriptor: None,
                };
                assert!(link.send_to_one(id, message));
                let body = Body::from(vec![0; CREDIT_BYTES as usize + 1]);
                let mut upload = spawn(upload(link.clone(), id, credit.clone(), body));
                while credit.0.borrow().waker.is_none() {
                    sleep(Duration::from_millis(1)).await;
                }
                end(&link, &worker, call);
                let ended = timeout(Duration::from_secs(20), &mut upload).await;
                assert!(ended.is_ok(), "the upload has not ended");
            });
        }
    }
}
