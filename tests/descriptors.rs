//! The agent's HTTP face in a process that has no file descriptor left. In a process of its own: the limit is the process's.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use linkerd_gate::decide::gate_status::NodeStatus;
use linkerd_gate::decide::{Gate, GateStatus, Policy, ProbeResult};
use linkerd_gate::http::{self, Face, Limits};
use linkerd_gate::metrics::Metrics;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};

const PATIENCE: Duration = Duration::from_mins(1);

fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros = [usage.user_time(), usage.system_time()].map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    Duration::from_micros(micros.iter().sum::<i64>().try_into().unwrap())
}

/// Every descriptor that is left.
fn all_that_are_left() -> Vec<File> {
    let mut held = Vec::new();
    loop {
        match File::open("/dev/null") {
            Ok(file) => held.push(file),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(nix::libc::EMFILE));
                return held;
            }
        }
    }
}

async fn ask(stream: &mut TcpStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

async fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("it takes for ever").unwrap();
    answer
}

#[tokio::test]
async fn a_server_out_of_descriptors_resumes_when_one_is_free() {
    // Also the hard limit, or the server would ask for more.
    setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
    let listener = http::bind(0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let node = NodeStatus { name: "node-0".to_owned(), state: "closed".to_owned(), reason: "no verdict".to_owned() };
    let closed = GateStatus::of(&Gate::closed(), &Policy::proven(), None, node);
    let (_face, shown) = watch::channel(Face::new(&closed, ProbeResult::Ready));
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let server = tokio::spawn(http::serve(listener, shown, Arc::new(Metrics::default()), Limits::default(), shutdown));

    let mut waiting = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    ask(&mut waiting, "/gate?wait=1s").await;
    // It is accepted once it is counted; another one asks.
    loop {
        let mut asking = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        ask(&mut asking, "/metrics").await;
        if answer(asking).await.contains("\nlinkerd_gate_gate_waiting_requests 1\n") {
            break;
        }
    }
    let mut held = all_that_are_left();
    // One for this client; the server finds none for its own end of it.
    drop(held.pop());
    let mut another = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    ask(&mut another, "/live").await;

    let before = cpu_time();
    let answered = answer(waiting).await;
    assert!(answered.starts_with("HTTP/1.1 503 "), "who is served already is served on: {answered}");
    let spent = cpu_time().saturating_sub(before);
    assert!(spent < Duration::from_millis(500), "it spun: {spent:?} of CPU time in a second of waiting");

    // That connection's end gave a descriptor back, and nothing else did.
    let answered = answer(another).await;
    assert!(answered.starts_with("HTTP/1.1 200 "), "{answered}");
    assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (64, 64));
    drop(held);
    stop.send(()).unwrap();
    tokio::time::timeout(PATIENCE, server).await.expect("it does not end").unwrap().unwrap();
}
