//! may_minihttp: stackful coroutines over epoll, with a listener of its own: a page only.

use std::io;

use may_minihttp::{HttpService, HttpServiceFactory, Request, Response};
use peer_shared::{Arguments, PAGE};

struct Pages;

impl HttpService for Pages {
    fn call(&mut self, request: Request, response: &mut Response) -> io::Result<()> {
        if request.path() == "/" {
            response.header("Content-Type: text/html").body(PAGE);
        } else {
            response.status_code(404, "Not Found");
        }
        Ok(())
    }
}

struct Factory;

impl HttpServiceFactory for Factory {
    type Service = Pages;

    fn new_service(&self, _: usize) -> Pages {
        Pages
    }
}

fn main() -> io::Result<()> {
    let arguments = Arguments::from_env();
    may::config().set_workers(arguments.workers);
    let server = Factory.start(arguments.bind)?;
    let ended = server.join();
    Err(io::Error::other(format!("the server ended: {ended:?}")))
}
