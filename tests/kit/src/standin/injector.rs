//! `linkerd-proxy-injector`: a mutating webhook over HTTPS.

use super::{
    admin,
    admission::{self, Reply, Review},
    certificates::{Certificates, Configurations},
    decision::Annotations,
    fault::Fault,
    http::{self, Answer},
    patch::Sidecar,
    port::{Conditions, Serve, Wire},
    process::Standin,
};
use ::http::{HeaderValue, Request, StatusCode, header};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio_rustls::TlsAcceptor;

/// Settings of an injector.
#[derive(Clone)]
pub struct Injector {
    serving: SocketAddr,
    admin: SocketAddr,
    certificates: Certificates,
    namespaces: Namespaces,
    sidecar: Sidecar,
    calls: Calls,
}

/// How many calls an injector answers at once. Clones share their counters.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

/// A call that is being answered.
struct Call<'a>(&'a Calls);

/// The namespaces that the injector knows, with their annotations: the genuine one reads them from its informer's cache. Clones
/// share one map, so a test may change it while the injector runs.
#[derive(Clone, Default)]
pub struct Namespaces {
    known: Arc<RwLock<BTreeMap<String, Annotations>>>,
    others: Option<Annotations>,
}

// === impl Injector ===

impl Injector {
    /// On free ports of 127.0.0.1.
    pub fn new(certificates: Certificates, namespaces: &Namespaces, sidecar: Sidecar) -> Self {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (namespaces, calls) = (namespaces.clone(), Calls::default());
        Self { serving: anywhere, admin: anywhere, certificates, namespaces, sidecar, calls }
    }

    /// Counts what it answers at once there.
    #[must_use]
    pub fn counting(mut self, calls: &Calls) -> Self {
        self.calls = calls.clone();
        self
    }

    /// Where to serve admission; the genuine port is 8443, behind the Service's 443.
    #[must_use]
    pub fn serving_on(mut self, address: SocketAddr) -> Self {
        self.serving = address;
        self
    }

    /// Where to answer `/ready`; the genuine port is 9995.
    #[must_use]
    pub fn admin_on(mut self, address: SocketAddr) -> Self {
        self.admin = address;
        self
    }

    /// Starts it, healthy.
    pub async fn start(self) -> Result<Standin> {
        let configurations = self.certificates.configurations()?;
        let handler = Arc::new((self.namespaces, self.sidecar, self.calls));
        let serve: Serve = Arc::new(move |wire, conditions| {
            Box::pin(connection(wire, conditions, configurations.clone(), Arc::clone(&handler)))
        });
        Standin::start(
            "the injector",
            Some((self.serving, serve)),
            (self.admin, admin::serve(admin::controller)),
            |_| true,
        )
        .await
        .context("the injector stand-in does not start")
    }
}

async fn connection(
    wire: Wire,
    conditions: Conditions,
    configurations: Configurations,
    handler: Arc<(Namespaces, Sidecar, Calls)>,
) {
    let flaw = match conditions.now() {
        Some(Fault::PlainHttp) => return http::plain_http(wire, conditions).await,
        Some(Fault::Certificate(flaw)) => Some(flaw),
        _ => None,
    };
    // A client that does not like the certificate goes away: nothing to tell anybody.
    let Ok(stream) = TlsAcceptor::from(configurations.with(flaw)).accept(wire).await else { return };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let handler = |request, conditions| handle(request, conditions, Arc::clone(&handler));
    if http2 {
        http::http2(stream, conditions, handler).await;
    } else {
        http::http1(stream, conditions, handler).await;
    }
}

/// Any path, any method: the genuine handler looks at neither (controller/webhook/server.go).
async fn handle(
    request: Request<Incoming>,
    conditions: Conditions,
    handler: Arc<(Namespaces, Sidecar, Calls)>,
) -> Answer {
    let (namespaces, sidecar, calls) = &*handler;
    let _until_answered = calls.begin();
    let fault = conditions.at_request().await;
    if let Some(answer) = fault.and_then(http::fault_answer) {
        return answer;
    }
    let Ok(body) = Limited::new(request.into_body(), 10 << 20).collect().await else {
        return http::text(StatusCode::BAD_REQUEST, "the body does not arrive whole\n");
    };
    let body = body.to_bytes();
    if body.is_empty() {
        return Answer::default();
    }
    let review = match Review::decode(&body) {
        Ok(review) => review,
        Err(error) => return http::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let reply = match fault {
        Some(Fault::NotReady) => Reply::namespace_unknown(review.namespace()),
        Some(Fault::Deny) => Reply::Deny("open /var/run/linkerd/config/values: no such file or directory".to_owned()),
        _ => match namespaces.annotations(review.namespace()) {
            None => Reply::namespace_unknown(review.namespace()),
            Some(annotations) => admission::reply(&review, &annotations, sidecar),
        },
    };
    let mut answer = Answer::new(Full::new(Bytes::from(review.answered(&reply).to_string())));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

// === impl Calls ===

impl Calls {
    /// The most that there ever were at once.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    fn begin(&self) -> Call<'_> {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        Call(self)
    }
}

// === impl Call ===

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Namespaces ===

impl Namespaces {
    /// Knows none yet.
    pub fn none() -> Self {
        Self::default()
    }

    /// Knows every namespace, unannotated as long as [`Namespaces::annotate`] does not say otherwise.
    pub fn any() -> Self {
        Self { others: Some(Annotations::new()), ..Self::default() }
    }

    /// From JSON, `{"shop": {"linkerd.io/inject": "enabled"}, "*": {}}`, where `*` stands for every other namespace.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut known: BTreeMap<String, Annotations> = serde_json::from_str(text).context("not a map of namespaces")?;
        let others = known.remove("*");
        Ok(Self { known: Arc::new(RwLock::new(known)), others })
    }

    /// Makes a namespace known with one annotation more, or another value of it.
    pub fn annotate(&self, namespace: &str, key: &str, value: &str) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(namespace.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
    }

    /// Makes a namespace known that asks for every pod of its own.
    #[must_use]
    pub fn asking(self, namespace: &str) -> Self {
        self.annotate(namespace, "linkerd.io/inject", "enabled");
        self
    }

    fn annotations(&self, namespace: &str) -> Option<Annotations> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(namespace).or(self.others.as_ref()).cloned()
    }
}
