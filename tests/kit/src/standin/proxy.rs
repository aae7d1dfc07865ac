//! `linkerd-proxy`, as far as its readiness goes.

use super::{
    admin,
    client::{self, Refused},
    fault::Fault,
    grpc::CertifyRequest,
    process::Standin,
};
use anyhow::{Context as _, Result, bail};
use rcgen::{CertificateParams, KeyPair};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};
use tokio::{
    net::{TcpListener, lookup_host},
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Settings of a proxy. Like the genuine one it binds its traffic ports eagerly, so that TCP handshakes complete, and accepts
/// nothing until it is certified; it is ready from then on and for ever.
#[derive(Clone, Debug)]
pub struct Proxy {
    identity: String,
    name: String,
    token: PathBuf,
    admin: SocketAddr,
    inbound: SocketAddr,
    outbound: SocketAddr,
    retry: Duration,
    report: fn(&str),
}

/// A proxy at work. Dropping it stops it.
pub struct RunningProxy {
    admin: Standin,
    inbound: SocketAddr,
    certified: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

// === impl Proxy ===

impl Proxy {
    /// Asks identity at `host:port` for a certificate of that name. On free ports of 127.0.0.1; tries again after 10 s when it
    /// is refused, like the genuine one, and no later than that when identity is out of reach.
    pub fn new(identity: &str, name: &str) -> Self {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            identity: identity.to_owned(),
            name: name.to_owned(),
            token: PathBuf::new(),
            admin: anywhere,
            inbound: anywhere,
            outbound: anywhere,
            retry: Duration::from_secs(10),
            report: |_| {},
        }
    }

    /// The file with its service account token; without one it sends a made-up token, which the stand-in takes.
    #[must_use]
    pub fn with_token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = path.into();
        self
    }

    /// Where to answer `/ready` and `/live`; the genuine port is 4191.
    #[must_use]
    pub fn admin_on(mut self, address: SocketAddr) -> Self {
        self.admin = address;
        self
    }

    /// Where traffic goes in; the genuine port is 4143.
    #[must_use]
    pub fn inbound_on(mut self, address: SocketAddr) -> Self {
        self.inbound = address;
        self
    }

    /// Where traffic goes out; the genuine port is 4140.
    #[must_use]
    pub fn outbound_on(mut self, address: SocketAddr) -> Self {
        self.outbound = address;
        self
    }

    /// How long to wait after a refusal.
    #[must_use]
    pub fn retrying_after(mut self, pause: Duration) -> Self {
        self.retry = pause;
        self
    }

    /// Where its log lines go; nowhere by default.
    #[must_use]
    pub fn reporting(mut self, report: fn(&str)) -> Self {
        self.report = report;
        self
    }

    /// Starts it, not yet certified.
    pub async fn start(self) -> Result<RunningProxy> {
        let inbound = TcpListener::bind(self.inbound).await.context("the inbound port")?;
        let outbound = TcpListener::bind(self.outbound).await.context("the outbound port")?;
        let (sender, certified) = watch::channel(false);
        let readiness = certified.clone();
        let admin = admin::serve(move |_| if *readiness.borrow() { admin::READY_PROXY } else { admin::UNREADY_PROXY });
        let admin = Standin::start("a proxy", None, (self.admin, admin), Fault::needs_no_certificate)
            .await
            .context("the admin port")?;
        let inbound_address = inbound.local_addr()?;
        let task = tokio::spawn(async move {
            self.until_certified().await;
            (self.report)(&format!("certified as {}", self.name));
            sender.send_replace(true);
            tokio::join!(forward(inbound), forward(outbound));
        });
        Ok(RunningProxy { admin, inbound: inbound_address, certified, task })
    }

    async fn until_certified(&self) {
        let mut pause = Duration::from_millis(100).min(self.retry);
        loop {
            let why = match timeout(Duration::from_secs(5), self.certify()).await {
                Ok(Ok(Ok(()))) => return,
                Ok(Ok(Err(refused))) => {
                    pause = self.retry;
                    format!("identity refuses: {} ({})", refused.message, refused.code)
                }
                Ok(Err(error)) => format!("no certificate: {error:#}"),
                Err(_) => "no certificate: identity does not answer within 5 s".to_owned(),
            };
            (self.report)(&why);
            sleep(pause).await;
            pause = (pause * 2).min(self.retry);
        }
    }

    async fn certify(&self) -> Result<Result<(), Refused>> {
        let token = if self.token.as_os_str().is_empty() {
            b"made-up".to_vec()
        } else {
            tokio::fs::read(&self.token).await.with_context(|| self.token.display().to_string())?
        };
        let signing_request =
            CertificateParams::new([self.name.clone()])?.serialize_request(&KeyPair::generate()?)?.der().to_vec();
        let request = CertifyRequest { identity: self.name.clone(), token, signing_request };
        let Some(address) = lookup_host(&self.identity).await.with_context(|| self.identity.clone())?.next() else {
            bail!("{} has no address", self.identity);
        };
        match client::certify(address, &request).await? {
            Ok(response) if response.leaf.is_empty() => bail!("a certificate without a certificate in it"),
            Ok(_) => Ok(Ok(())),
            Err(refused) => Ok(Err(refused)),
        }
    }
}

/// Accepts at last. There is nothing behind it: connections end at once.
async fn forward(listener: TcpListener) {
    loop {
        drop(listener.accept().await);
    }
}

// === impl RunningProxy ===

impl RunningProxy {
    /// Where `/ready` and `/live` are.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Where traffic goes in.
    pub fn inbound_address(&self) -> SocketAddr {
        self.inbound
    }

    /// Whether it has a certificate.
    pub fn is_certified(&self) -> bool {
        *self.certified.borrow()
    }

    /// Waits until it has.
    pub async fn until_certified(&self) {
        // The sender lives in the task, which we own.
        let _ = self.certified.clone().wait_for(|certified| *certified).await;
    }
}

impl Drop for RunningProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}
