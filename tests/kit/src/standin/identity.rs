//! `linkerd-identity`: gRPC over cleartext HTTP/2, one method.

use super::{
    admin,
    fault::Fault,
    grpc::{self, Answer, CertifyRequest, CertifyResponse, Code},
    http,
    port::{Conditions, Serve, Wire},
    process::Standin,
};
use ::http::{HeaderMap, Method, Request, StatusCode, header};
use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Settings of an identity controller. It certifies as the genuine one does except that the leaf carries a key of its own and
/// not the proxy's (nothing among the stand-ins uses it), and that tokens are not reviewed.
#[derive(Clone, Debug)]
pub struct Identity {
    serving: SocketAddr,
    admin: SocketAddr,
    lifetime: Duration,
}

struct Issuer {
    authority: CertifiedIssuer<'static, KeyPair>,
    lifetime: Duration,
}

// === impl Identity ===

impl Default for Identity {
    fn default() -> Self {
        Self::new()
    }
}

impl Identity {
    /// On free ports of 127.0.0.1, with certificates for 24 hours like the chart's.
    pub fn new() -> Self {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { serving: anywhere, admin: anywhere, lifetime: Duration::from_hours(24) }
    }

    /// Where to serve gRPC; the genuine port is 8080.
    #[must_use]
    pub fn serving_on(mut self, address: SocketAddr) -> Self {
        self.serving = address;
        self
    }

    /// Where to answer `/ready`; the genuine port is 9990.
    #[must_use]
    pub fn admin_on(mut self, address: SocketAddr) -> Self {
        self.admin = address;
        self
    }

    /// Starts it, healthy.
    pub async fn start(self) -> Result<Standin> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = Arc::new(Issuer {
            authority: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?,
            lifetime: self.lifetime,
        });
        let serve: Serve =
            Arc::new(move |wire, conditions| Box::pin(connection(wire, conditions, Arc::clone(&issuer))));
        Standin::start(
            "identity",
            Some((self.serving, serve)),
            (self.admin, admin::serve(admin::controller)),
            Fault::needs_no_certificate,
        )
        .await
        .context("the identity stand-in does not start")
    }
}

async fn connection(wire: Wire, conditions: Conditions, issuer: Arc<Issuer>) {
    if conditions.now() == Some(Fault::PlainHttp) {
        return http::plain_http(wire, conditions).await;
    }
    http::http2(wire, conditions, |request, conditions| handle(request, conditions, Arc::clone(&issuer))).await;
}

async fn handle(request: Request<Incoming>, conditions: Conditions, issuer: Arc<Issuer>) -> Answer {
    let fault = conditions.at_request().await;
    if let Some(answer) = fault.and_then(http::fault_answer) {
        return answer.map(http_body_util::BodyExt::boxed_unsync);
    }
    if let Some(refusal) = not_for_us(request.method(), request.uri().path(), request.headers()) {
        return refusal;
    }
    // The genuine server's default limit for a message.
    let body = Limited::new(request.into_body(), 4 << 20).collect().await;
    let message = body.ok().and_then(|body| grpc::unframe(body.to_bytes()));
    let Some(request) = message.and_then(|message| CertifyRequest::decode(&message)) else {
        return refuse(Code::Internal, "grpc: error unmarshalling request");
    };
    match issuer.certify(&request, fault) {
        Ok(response) => grpc::message(&response.encode()),
        Err((code, message)) => refuse(code, &message),
    }
}

/// What grpc-go answers before a handler is looked for, and when none is found.
fn not_for_us(method: &Method, path: &str, headers: &HeaderMap) -> Option<Answer> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    if !content_type.starts_with("application/grpc") {
        let message = format!("invalid gRPC request content-type {content_type:?}");
        return Some(grpc::trailers_only(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, &message));
    }
    if method != Method::POST {
        let message = format!("Received a HEADERS frame with :method {:?} which should be POST", method.as_str());
        return Some(grpc::trailers_only(StatusCode::METHOD_NOT_ALLOWED, Code::Internal, &message));
    }
    if path == grpc::CERTIFY {
        return None;
    }
    let message = match path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
        None => format!("malformed method name: {path:?}"),
        Some((service @ "io.linkerd.proxy.identity.Identity", method)) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
    };
    Some(refuse(Code::Unimplemented, &message))
}

fn refuse(code: Code, message: &str) -> Answer {
    grpc::trailers_only(StatusCode::OK, code, message)
}

// === impl Issuer ===

impl Issuer {
    /// The genuine service's steps in its order (linkerd2 pkg/identity/service.go).
    fn certify(&self, request: &CertifyRequest, fault: Option<Fault>) -> Result<CertifyResponse, (Code, String)> {
        let missing = |what: &str| Err((Code::InvalidArgument, format!("missing {what}")));
        if fault == Some(Fault::NotReady) {
            return Err((Code::Unavailable, "cert issuer not ready yet".to_owned()));
        }
        if request.identity.is_empty() {
            return missing("identity");
        }
        if request.token.is_empty() {
            return missing("token");
        }
        if request.signing_request.is_empty() {
            return missing("certificate signing request");
        }
        // A DER sequence, at least.
        if request.signing_request[0] != 0x30 {
            return Err((Code::FailedPrecondition, "failed to parse the certificate signing request".to_owned()));
        }
        if fault == Some(Fault::Deny) {
            return Err((Code::Unknown, "x509: certificate signed by unknown authority".to_owned()));
        }
        self.issue(&request.identity).map_err(|error| (Code::Internal, error.to_string()))
    }

    fn issue(&self, identity: &str) -> Result<CertifyResponse> {
        let mut params = CertificateParams::new([identity.to_owned()])?;
        let end = SystemTime::now() + self.lifetime;
        params.not_after = end.into();
        let certificate = params.signed_by(&KeyPair::generate()?, &self.authority)?;
        Ok(CertifyResponse {
            leaf: certificate.der().to_vec(),
            intermediates: vec![self.authority.der().to_vec()],
            valid_until: end.duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
        })
    }
}
