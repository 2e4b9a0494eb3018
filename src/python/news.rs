//! What the supervisor tells the cores: which workers are ready, are to end, or have ended.
//!
//! Supervisor and cores are threads of one process, so descriptors are handed over as they are. A
//! core learns of its workers even if the process may open no further descriptor.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::link::Joined;
use crate::task::channel::TrySendError;
use crate::task::channel::between::Sender;
use crate::task::spawn;

/// What the supervisor tells a core.
#[derive(Debug)]
pub(super) enum News {
    Joined(Joined),
    /// The worker gets no further requests.
    Retired(u32),
    Left {
        number: u32,
        /// It was ended because it did not go on.
        is_late: bool,
    },
    /// WSGI workers receive from another socket, of which this is the near end.
    Shared(OwnedFd),
}

impl News {
    /// The worker that they are about, if they are about one.
    fn number(&self) -> Option<u32> {
        match *self {
            Self::Joined(Joined { number, .. })
            | Self::Retired(number)
            | Self::Left { number, .. } => Some(number),
            Self::Shared(_) => None,
        }
    }
}

/// The supervisor's end of the channel to a core.
///
/// A core takes no news before it has a request. News of workers that have ended meanwhile are
/// forgotten, so that their descriptors do not pile up.
pub(super) struct Teller {
    core: Sender<News>,
    is_sending: Cell<bool>,
    waiting: RefCell<VecDeque<News>>,
}

impl Teller {
    pub(super) fn new(core: Sender<News>) -> Self {
        Self {
            core,
            is_sending: Cell::new(false),
            waiting: RefCell::default(),
        }
    }

    /// Tells the core, after all that it is yet to be told.
    pub(super) fn tell(self: &Rc<Self>, news: News) {
        let mut waiting = self.waiting.borrow_mut();
        match &news {
            News::Left { number, .. } => {
                let joins =
                    |news: &News| matches!(news, News::Joined(one) if one.number == *number);
                if waiting.iter().any(joins) {
                    waiting.retain(|news| news.number() != Some(*number));
                    return;
                }
            }
            News::Shared(_) => waiting.retain(|news| !matches!(news, News::Shared(_))),
            News::Joined(_) | News::Retired(_) => {}
        }
        let news = match self.is_sending.get() {
            true => news,
            // The first one is there before the server starts.
            false => match self.core.try_send(news) {
                Err(TrySendError::Full(news)) => news,
                // A core that has ended need not know.
                Ok(()) | Err(TrySendError::Closed(_)) => return,
            },
        };
        waiting.push_back(news);
        drop(waiting);
        if !self.is_sending.replace(true) {
            let teller = self.clone();
            spawn(async move { teller.send_all().await });
        }
    }

    async fn send_all(&self) {
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(next) = next else { break };
            let _ = self.core.send(next).await;
        }
        self.is_sending.set(false);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::python::link::Dispatch;
    use crate::task::channel::between::channel;
    use crate::task::run::run;
    use crate::task::time::sleep;

    fn joined(number: u32) -> News {
        let file = || OwnedFd::from(File::open("Cargo.toml").expect("a file"));
        News::Joined(Joined {
            number,
            width: 1,
            dispatch: Dispatch::Shared,
            data: file(),
            far: file(),
            bell: file(),
            page: file(),
            process: None,
        })
    }

    #[test]
    fn a_core_that_reads_late_hears_only_of_workers_that_live() {
        run(async {
            let (core, mut news) = channel(1);
            let teller = Rc::new(Teller::new(core));
            for number in 0..1000 {
                teller.tell(joined(number));
                if number > 0 {
                    let (number, is_late) = (number - 1, false);
                    teller.tell(News::Left { number, is_late });
                }
                sleep(std::time::Duration::ZERO).await;
            }
            assert!(teller.waiting.borrow().len() < 10);
            let mut living = Vec::new();
            while let Some(news) = news.recv().await {
                match news {
                    News::Joined(joined) => living.push(joined.number),
                    News::Left { number: left, .. } => living.retain(|number| *number != left),
                    News::Retired(_) | News::Shared(_) => {}
                }
                if living == [999] {
                    break;
                }
            }
        });
    }
}
