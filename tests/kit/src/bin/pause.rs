//! `pause`: the container that holds a pod's network while its own containers come and go, and a smallest possible
//! workload for the kit's own tests. It is never shipped.
//!
//! ```text
//! pause                    waits for SIGTERM
//! pause reach HOST:PORT    connects until it succeeds, prints the answer, then waits for SIGTERM
//! pause show FILE          prints the file, then waits for SIGTERM
//! pause copy FILE TARGET   makes the target a copy of the file, all at once, then waits for SIGTERM
//! ```

use std::{fs, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    signal::unix::{SignalKind, signal},
};

/// Between two attempts to connect.
const RETRY_AFTER: Duration = Duration::from_millis(200);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    // The first process of a container has no default actions: without a handler SIGTERM would do nothing.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    tokio::select! {
        biased;
        // Asked to end.
        _ = terminate.recv() => Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        // Only an error ends it.
        outcome = work(&arguments) => outcome.map(|()| ExitCode::SUCCESS),
    }
}

async fn work(arguments: &[String]) -> Result<()> {
    match arguments {
        [] => {}
        [verb, address] if verb == "reach" => println!("{address} says: {}", reach(address).await),
        [verb, file] if verb == "show" => println!("{}", read(file)?.trim()),
        [verb, file, target] if verb == "copy" => copy(file, target)?,
        _ => bail!("usage: pause [reach HOST:PORT | show FILE | copy FILE TARGET]"),
    }
    std::future::pending().await
}

fn read(file: &str) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {file}"))
}

/// Whoever watches for the target sees all of it or nothing.
fn copy(file: &str, target: &str) -> Result<()> {
    let unfinished = format!("{target}.unfinished");
    fs::write(&unfinished, read(file)?).with_context(|| format!("cannot write {unfinished}"))?;
    fs::rename(&unfinished, target).with_context(|| format!("cannot rename {unfinished} to {target}"))
}

async fn reach(address: &str) -> String {
    let mut text = String::new();
    loop {
        match TcpStream::connect(address).await {
            Ok(mut stream) => match stream.read_to_string(&mut text).await {
                Ok(_) => return text.trim().to_owned(),
                Err(error) => eprintln!("{address}: {error}"),
            },
            Err(error) => eprintln!("{address}: {error}"),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}
