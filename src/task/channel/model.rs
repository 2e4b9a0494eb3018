//! A model of a channel between two workers for loom, which explores how their turns, their sleeps
//! and their wake-ups of each other can interleave. If both sleep, a wake-up was lost.

use std::sync::Arc;

use loom::thread;

use super::between::channel;
use crate::rt::model::{Eventfd, ModelWorker, explore};

/// Runs `task` on a worker of this thread, until it ends. Another worker, whose sleep `theirs`
/// ends, may wait for it.
fn work(ours: Arc<Eventfd>, theirs: &Eventfd, task: impl Future<Output = ()> + 'static) {
    let worker = ModelWorker::on(ours);
    worker.spawn(task);
    worker.run();
    theirs.remove_sender();
}

/// Sends `count` values to another worker, which receives `wanted` of them at the most.
fn pass(count: usize, wanted: usize) {
    let (here, there) = (Arc::<Eventfd>::default(), Arc::<Eventfd>::default());
    here.add_sender();
    there.add_sender();
    let (sender, mut receiver) = channel(1);
    let (ours, theirs) = (there.clone(), here.clone());
    let receiving = thread::spawn(move || {
        work(ours, &theirs, async move {
            for n in 0..wanted.min(count) {
                assert_eq!(receiver.recv().await, Some(n));
            }
            if wanted > count {
                assert_eq!(receiver.recv().await, None);
            }
        });
    });
    work(here, &there, async move {
        for n in 0..count {
            let sent = sender.send(n).await;
            assert!(sent.is_ok() || n >= wanted);
        }
    });
    receiving.join().unwrap();
}

/// The receiver waits for a value, and the sender for room.
#[test]
fn no_value_is_lost_and_no_worker_waits_for_ever() {
    explore(3, || pass(2, 3));
}

/// The sender that waits for room learns that the receiver was dropped.
#[test]
fn a_sender_does_not_wait_for_a_receiver_that_is_gone() {
    explore(3, || pass(3, 1));
}
