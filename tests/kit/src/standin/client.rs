//! The callers' side: an API server that calls the injector, a proxy that asks identity.

use super::grpc::{self, CertifyRequest, CertifyResponse};
use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_rustls::TlsConnector;

/// Calls an injector as an API server does: HTTP/1.1 over TLS, verified for one name against the bundle and nothing else, a
/// new connection each time.
#[derive(Clone)]
pub struct WebhookCaller {
    address: SocketAddr,
    name: ServerName<'static>,
    tls: TlsConnector,
}

/// What an injector made of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// To be admitted with these JSON patch operations, which may be none.
    Allowed(Vec<Value>),
    /// To be refused, for this reason.
    Denied(String),
}

/// An HTTP answer as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its `content-type`, empty if it had none.
    pub content_type: String,
    /// Its whole body.
    pub body: Bytes,
}

/// An open connection to an injector.
pub struct Session {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    host: String,
    _driver: Driver,
}

/// Ends the connection's task with its user.
struct Driver(JoinHandle<()>);

/// Why identity did not certify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The gRPC status.
    pub code: i32,
    /// Its message.
    pub message: String,
}

/// Applies an injector's JSON patch, in which every operation is an `add`, as an API server does.
pub fn apply(mut object: Value, operations: &[Value]) -> Result<Value> {
    for operation in operations {
        let path = operation["path"].as_str().context("an operation without a path")?;
        ensure!(operation["op"] == "add", "{path}: an operation that is no add");
        let (parent, key) = path.rsplit_once('/').with_context(|| format!("{path}: no JSON pointer"))?;
        // RFC 6901: a slash within a key is written ~1, a tilde ~0.
        let key = key.replace("~1", "/").replace("~0", "~");
        let value = operation["value"].clone();
        match object.pointer_mut(parent) {
            Some(Value::Object(fields)) => {
                fields.insert(key, value);
            }
            Some(Value::Array(list)) => {
                let index = if key == "-" { list.len() } else { key.parse()? };
                ensure!(index <= list.len(), "{path}: beyond the end of the list");
                list.insert(index, value);
            }
            _ => bail!("{path}: the parent is not there"),
        }
    }
    Ok(object)
}

// === impl WebhookCaller ===

impl WebhookCaller {
    /// Trusts the certificates in this PEM bundle.
    pub fn new(address: SocketAddr, linkerd_namespace: &str, ca_bundle: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_bundle.as_bytes()) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let configuration = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            address,
            name: ServerName::try_from(format!("linkerd-proxy-injector.{linkerd_namespace}.svc"))?,
            tls: TlsConnector::from(Arc::new(configuration)),
        })
    }

    /// Sends a body, which may be empty, and takes whatever comes back.
    pub async fn send(&self, body: impl Into<Bytes>) -> Result<Answer> {
        self.connect().await?.send(body).await
    }

    /// Opens a connection for several requests, as an API server keeps them.
    pub async fn connect(&self) -> Result<Session> {
        let stream = TcpStream::connect(self.address).await.context("connect")?;
        let stream = self.tls.connect(self.name.clone(), stream).await.context("TLS handshake")?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("HTTP handshake")?;
        Ok(Session {
            sender,
            host: self.name.to_str().into_owned(),
            // An error of the connection is an error of the request too, and is reported there.
            _driver: Driver(tokio::spawn(async { drop(connection.await) })),
        })
    }

    /// Goes as far as the TLS handshake, certificate verified.
    pub async fn shake_hands(&self) -> Result<()> {
        let stream = TcpStream::connect(self.address).await.context("connect")?;
        self.tls.connect(self.name.clone(), stream).await.context("TLS handshake")?;
        Ok(())
    }

    /// Asks for review of a pod's creation. Errors are what makes a webhook with `failurePolicy: Ignore` fail open.
    pub async fn review(&self, namespace: &str, pod: &Value) -> Result<Verdict> {
        let uid = "705ab4f5-6393-11e8-b7cc-42010a800002";
        let review = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": uid,
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "operation": "CREATE",
                "namespace": namespace,
                "name": pod["metadata"]["name"],
                "object": pod,
            },
        });
        let answer = self.send(review.to_string()).await?;
        ensure!(answer.status == StatusCode::OK, "HTTP status {}", answer.status);
        let review: Value = serde_json::from_slice(&answer.body).context("no AdmissionReview")?;
        let response = &review["response"];
        ensure!(response["uid"] == uid, "the answer is not to this request");
        if response["allowed"] != Value::Bool(true) {
            return Ok(Verdict::Denied(response["status"]["message"].as_str().unwrap_or("").to_owned()));
        }
        let operations = match response["patch"].as_str() {
            Some(patch) => serde_json::from_slice(&STANDARD.decode(patch)?)?,
            None => Vec::new(),
        };
        Ok(Verdict::Allowed(operations))
    }
}

// === impl Session ===

impl Session {
    /// Sends a body, which may be empty, and takes whatever comes back.
    pub async fn send(&mut self, body: impl Into<Bytes>) -> Result<Answer> {
        let request = Request::post("/?timeout=10s")
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.into()))?;
        Answer::read(self.sender.send_request(request).await.context("request")?).await
    }
}

// === impl Answer ===

impl Answer {
    async fn read(response: http::Response<Incoming>) -> Result<Self> {
        let (head, body) = response.into_parts();
        let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        Ok(Self {
            status: head.status,
            content_type: content_type.unwrap_or("").to_owned(),
            body: body.collect().await.context("body")?.to_bytes(),
        })
    }
}

/// `GET` over plain HTTP/1.1, as kubelet's probes do.
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    let stream = TcpStream::connect(address).await.context("connect")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("HTTP handshake")?;
    let _driver = Driver(tokio::spawn(async { drop(connection.await) }));
    let request = Request::get(path).header(header::HOST, address.to_string()).body(Full::<Bytes>::default())?;
    Answer::read(sender.send_request(request).await.context("request")?).await
}

/// Asks identity for a certificate. The outer error is that of a call that failed, the inner one identity's word.
pub async fn certify(address: SocketAddr, request: &CertifyRequest) -> Result<Result<CertifyResponse, Refused>> {
    let (status, message, body) = call(address, Method::POST, grpc::CERTIFY, "application/grpc", request).await?;
    if status != 0 {
        return Ok(Err(Refused { code: status, message }));
    }
    let message = grpc::unframe(body).context("no whole message")?;
    Ok(Ok(CertifyResponse::decode(&message).context("not a CertifyResponse")?))
}

/// One gRPC call: status, status message, body.
pub(super) async fn call(
    address: SocketAddr,
    method: Method,
    path: &str,
    content_type: &str,
    message: &CertifyRequest,
) -> Result<(i32, String, Bytes)> {
    let stream = TcpStream::connect(address).await.context("connect")?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.context("HTTP/2")?;
    let _driver = Driver(tokio::spawn(async { drop(connection.await) }));
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"))
        .header(header::CONTENT_TYPE, content_type)
        .header(header::TE, "trailers")
        .body(Full::new(grpc::frame(&message.encode())))?;
    let (head, body) = sender.send_request(request).await.context("request")?.into_parts();
    let body = body.collect().await.context("body")?;
    // Trailers-only answers have the status in the headers.
    let mut fields = head.headers;
    fields.extend(body.trailers().cloned().unwrap_or_default());
    let Some(status) = fields.get("grpc-status") else {
        bail!("HTTP status {} without a gRPC status", head.status);
    };
    let text = fields.get("grpc-message").and_then(|value| value.to_str().ok()).unwrap_or("");
    Ok((status.to_str()?.parse()?, text.to_owned(), body.to_bytes()))
}

// === impl Driver ===

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
