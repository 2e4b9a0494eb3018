//! Requests, connections and messages that are dropped at random moments: nothing leaks, and what
//! comes after them still works.

use std::pin::Pin;
use std::sync::Arc;

use super::*;
use crate::engine::Worker;
use crate::metrics::WorkerMetrics;
use crate::net::{UdpSocket, UnixSeqpacket, lookup_host};
use crate::rt::{random_below, yield_now};
use crate::task::race;

const COROUTINES: usize = 8;
/// The futures that each of them makes.
const STEPS: usize = 60;
/// More bytes than one receive or one send takes.
const BODY_BYTES: usize = 300_000;

/// A server that receives a body if the request has one, and sends one back in pieces.
fn serve() -> Server {
    Server::start(|_, mut stream| async move {
        while let Some(head) = read_head(&mut stream).await? {
            if head[0].starts_with("POST") {
                stream.read_exact(BODY_BYTES).await?;
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
            stream.write_all(head).await?;
            for _ in 0..3 {
                stream.write_all(vec![b'x'; BODY_BYTES / 3]).await?;
                yield_now().await;
            }
        }
        Ok(())
    })
}

/// Waits for the network in a random way.
async fn wait(client: &Client, address: SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
    let url = format!("http://localhost:{}/", address.port());
    match random_below(6) {
        0 | 1 => {
            let response = match random_below(2) {
                0 => client.get(&url).await?,
                _ => client.post(&url, vec![b'x'; BODY_BYTES]).await?,
            };
            assert_eq!(
                response.into_body().read(BODY_BYTES).await?.len(),
                BODY_BYTES
            );
        }
        2 => {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all("POST / HTTP/1.1\r\n\r\n").await?;
            stream.write_all(vec![b'x'; BODY_BYTES]).await?;
            while stream.read().await?.is_some_and(|chunk| !chunk.is_empty()) {
                if random_below(10) == 0 {
                    break;
                }
            }
        }
        3 => {
            let (here, there) = (
                UdpSocket::bind(([127, 0, 0, 1], 0))?,
                UdpSocket::bind(([127, 0, 0, 1], 0))?,
            );
            here.send_to(b"hello", there.local_addr()?).await?;
            assert_eq!(there.recv_from(100).await?.0, b"hello");
            here.recv_from(100).await?;
        }
        4 => {
            let (mut here, there) = UnixSeqpacket::pair()?;
            let mut there = UnixSeqpacket::new(there)?;
            there.send("hello", Vec::new()).await?;
            here.recv(Vec::with_capacity(100)).await?;
            here.recv(Vec::with_capacity(100)).await?;
        }
        _ => {
            let listener = TcpListener::bind(([127, 0, 0, 1], 0));
            lookup_host(("localhost", address.port())).await?;
            listener?.accept().await?;
        }
    }
    Ok(())
}

/// Makes a future and lets it end if it does, or drops it in a random way.
async fn step(client: &Client, address: SocketAddr) {
    let wait = async { drop(wait(client, address).await) };
    let moment = random_below(40);
    match random_below(3) {
        0 => drop(timeout(Duration::from_millis(moment as u64 / 10), wait).await),
        _ => {
            let yields = async {
                for _ in 0..moment {
                    yield_now().await;
                }
            };
            let either: [Pin<Box<dyn Future<Output = ()>>>; 2] = [Box::pin(wait), Box::pin(yields)];
            race(either).await;
        }
    }
}

#[test]
fn waits_for_the_network_may_be_dropped_at_any_moment() {
    for choice in [EngineChoice::Auto, EngineChoice::Epoll] {
        let metrics = Arc::<WorkerMetrics>::default();
        let selected = choice.probe().expect("an engine");
        let worker = Worker::new(&selected, usize::MAX, &metrics).expect("a worker");
        let in_use = metrics.clone();
        let storm = async move {
            let in_use = || {
                [
                    &in_use.tasks_live,
                    &in_use.timers_live,
                    &in_use.ops_in_flight,
                ]
                .map(|gauge| gauge.get())
            };
            let server = serve();
            sleep(Duration::from_millis(1)).await;
            let before = in_use();
            let limits = Limits {
                idle_timeout: Duration::from_millis(5),
                ..Limits::default()
            };
            let client = Rc::new(Client::with_limits(limits).expect("valid limits"));
            let coroutines = (0..COROUTINES).map(|_| {
                let (client, address) = (client.clone(), server.address);
                spawn(async move {
                    for _ in 0..STEPS {
                        step(&client, address).await;
                    }
                })
            });
            let outcomes = join_all(coroutines).await;
            assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
            let response = client.get(&server.url()).await.expect("a response");
            drop(response);
            drop(client);
            while in_use() != before {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let storm = worker.run(async move { timeout(PATIENCE, storm).await });
        storm.expect("an engine").expect("nothing leaks");
    }
}
