//! Linkerd's containers, and a workload, played by one small program: the role is its first argument.
//!
//! ```text
//! linkerd-standin injector | identity | destination | policy
//! linkerd-standin proxy | init | await [--timeout=2m] [--port=4191]
//! linkerd-standin app [PORT] | app once | app until FILE
//! ```
//!
//! `LINKERD_STANDIN_FAULT` gives a server its fault (`hang`, `slow=2s`, …). The servers listen on Linkerd's ports, of all
//! addresses; a proxy reads the genuine `LINKERD2_PROXY_*` variables. It is never shipped.

use anyhow::{Context as _, Result, bail};
use linkerd_gate_kit::standin::{
    self, Certificates, Fault, Identity, Injector, Namespaces, Proxy, Sidecar, Standin, client,
};
use std::{
    env,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

/// What `linkerd-await` ends with when it gives up.
const GAVE_UP: u8 = 69;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // As a container's first process we have no default action for signals: without this, SIGTERM would be ignored.
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        eprintln!("linkerd-standin: cannot listen for signals");
        return ExitCode::FAILURE;
    };
    let arguments: Vec<String> = env::args().skip(1).collect();
    tokio::select! {
        biased;
        // Asked to end: at once.
        _ = terminate.recv() => ExitCode::SUCCESS,
        _ = interrupt.recv() => ExitCode::SUCCESS,
        // The role came to its end.
        end = run(&arguments) => end.unwrap_or_else(|error| {
            eprintln!("linkerd-standin: {error:#}");
            ExitCode::FAILURE
        }),
    }
}

async fn run(arguments: &[String]) -> Result<ExitCode> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["injector"] => serve(injector().await?).await,
        ["identity"] => serve(Identity::new().serving_on(all(8080)).admin_on(all(9990)).start().await?).await,
        ["destination"] => serve(standin::readiness(all(9996)).await?).await,
        ["policy"] => serve(standin::readiness(all(9990)).await?).await,
        ["proxy"] => proxy().await,
        // The genuine one writes firewall rules and ends. Ours leaves traffic where it flows.
        ["init"] => Ok(ExitCode::SUCCESS),
        ["await", ref flags @ ..] => await_proxy(flags).await,
        ["app", "once"] => {
            announce_app().await;
            Ok(ExitCode::SUCCESS)
        }
        ["app", "until", file] => {
            announce_app().await;
            until_file(Path::new(file)).await;
            Ok(ExitCode::SUCCESS)
        }
        ["app"] => app("8080").await,
        ["app", port] => app(port).await,
        _ => bail!(
            "usage: linkerd-standin injector | identity | destination | policy | proxy | init | await [--timeout=2m] \
             [--port=4191] | app [PORT] | app once | app until FILE"
        ),
    }
}

async fn injector() -> Result<Standin> {
    let linkerd = variable("LINKERD_STANDIN_LINKERD_NAMESPACE").unwrap_or_else(|| "linkerd".to_owned());
    let certificates = match variable("LINKERD_STANDIN_CERTIFICATES") {
        Some(json) => Certificates::from_json(&json).context("LINKERD_STANDIN_CERTIFICATES")?,
        None => bail!("LINKERD_STANDIN_CERTIFICATES is not set"),
    };
    let namespaces = match variable("LINKERD_STANDIN_NAMESPACES") {
        Some(json) => Namespaces::from_json(&json).context("LINKERD_STANDIN_NAMESPACES")?,
        None => Namespaces::any(),
    };
    let sidecar = match variable("LINKERD_STANDIN_IMAGE") {
        Some(image) => {
            let program = variable("LINKERD_STANDIN_PROGRAM").unwrap_or_else(|| "/linkerd-standin".to_owned());
            Sidecar::standin(&linkerd, &image, &program)
        }
        None => Sidecar::genuine(&linkerd),
    };
    Injector::new(certificates, &namespaces, sidecar).serving_on(all(8443)).admin_on(all(9995)).start().await
}

/// Serves, with the fault asked for, until the process is asked to end.
async fn serve(server: Standin) -> Result<ExitCode> {
    match variable("LINKERD_STANDIN_FAULT") {
        Some(fault) => {
            let fault: Fault = fault.parse().context("LINKERD_STANDIN_FAULT")?;
            server.suffer(fault).await?;
            println!("listening on {}, admin port {}; {fault}", server.address(), server.admin_address());
        }
        None => println!("listening on {}, admin port {}", server.address(), server.admin_address()),
    }
    std::future::pending().await
}

async fn proxy() -> Result<ExitCode> {
    let address = |name: &str, default: SocketAddr| -> Result<SocketAddr> {
        variable(name).map_or(Ok(default), |text| text.parse().with_context(|| name.to_owned()))
    };
    let identity =
        variable("LINKERD2_PROXY_IDENTITY_SVC_ADDR").context("LINKERD2_PROXY_IDENTITY_SVC_ADDR is not set")?;
    let name = variable("LINKERD2_PROXY_IDENTITY_LOCAL_NAME").unwrap_or_else(|| "unnamed".to_owned());
    let mut proxy = Proxy::new(&identity, &name)
        .reporting(|line| println!("{line}"))
        .admin_on(address("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", all(4191))?)
        .inbound_on(address("LINKERD2_PROXY_INBOUND_LISTEN_ADDR", all(4143))?)
        .outbound_on(address("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR", SocketAddr::from((Ipv4Addr::LOCALHOST, 4140)))?);
    if let Some(file) = variable("LINKERD2_PROXY_IDENTITY_TOKEN_FILE") {
        proxy = proxy.with_token_file(file);
    }
    if let Some(pause) = variable("LINKERD_STANDIN_RETRY") {
        proxy = proxy.retrying_after(standin::duration(&pause).context("LINKERD_STANDIN_RETRY: such as 500ms or 10s")?);
    }
    let _proxy = proxy.start().await?;
    std::future::pending().await
}

/// Polls the proxy beside us as `linkerd-await` does: every second, until the deadline.
async fn await_proxy(flags: &[&str]) -> Result<ExitCode> {
    let (mut limit, mut port) = (Duration::from_mins(2), 4191);
    for flag in flags {
        match flag.split_once('=') {
            Some(("--timeout", text)) => limit = standin::duration(text).context("--timeout: such as 2m")?,
            Some(("--port", text)) => port = text.parse().context("--port")?,
            _ => bail!("{flag}: not known"),
        }
    }
    let end = Instant::now() + limit;
    while !proxy_ready(port, Duration::from_secs(5)).await {
        if Instant::now() >= end {
            eprintln!("linkerd-await (stand-in): the proxy is not ready after {limit:?}");
            return Ok(ExitCode::from(GAVE_UP));
        }
        sleep(Duration::from_secs(1)).await;
    }
    Ok(ExitCode::SUCCESS)
}

async fn app(port: &str) -> Result<ExitCode> {
    let _app = standin::app(all(port.parse().context("the app's port")?)).await?;
    announce_app().await;
    std::future::pending().await
}

/// The line that says how the app was started: the tests read it from the container's log.
async fn announce_app() {
    let proxy = if proxy_ready(4191, Duration::from_secs(1)).await { "a ready proxy" } else { "no ready proxy" };
    println!("app: started beside {proxy}");
}

async fn until_file(path: &Path) {
    // No watch on a directory is worth a dependency here.
    while !path.exists() {
        sleep(Duration::from_millis(100)).await;
    }
}

async fn proxy_ready(port: u16, patience: Duration) -> bool {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    matches!(timeout(patience, client::get(admin, "/ready")).await, Ok(Ok(answer)) if answer.status.is_success())
}

fn all(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
