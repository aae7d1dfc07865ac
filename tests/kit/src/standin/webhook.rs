//! A mutating webhook of another program's, which changes pods as the pods themselves say.

use super::{
    Certificates,
    admission::{Reply, Review},
    certificates::Configurations,
    fault::Fault,
    http::{self, Answer},
    port::{Conditions, Serve, Wire},
    process::Standin,
};
use ::http::{HeaderValue, Request, StatusCode, header};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use std::{net::SocketAddr, sync::Arc};
use tokio_rustls::TlsAcceptor;

/// The annotation by which a pod says what the webhook at `path` does to it: `webhook.kit.test` and the path, and as its value a
/// JSON patch.
pub fn patch_annotation(path: &str) -> String {
    format!("webhook.kit.test{path}")
}

/// Serves a webhook of another program's at this address, for any number of paths. Each pod says what each of them does to it:
/// [`patch_annotation`]. A pod that says nothing is allowed as it is.
pub async fn other_webhook(address: SocketAddr, certificates: &Certificates) -> Result<Standin> {
    let configurations = certificates.configurations()?;
    let serve: Serve = Arc::new(move |wire, conditions| Box::pin(connection(wire, conditions, configurations.clone())));
    Standin::start("a webhook", None, (address, serve), Fault::needs_no_certificate)
        .await
        .context("the webhook does not start")
}

async fn connection(wire: Wire, conditions: Conditions, configurations: Configurations) {
    // A client that does not like the certificate goes away.
    let Ok(stream) = TlsAcceptor::from(configurations.with(None)).accept(wire).await else { return };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http::http2(stream, conditions, handle).await;
    } else {
        http::http1(stream, conditions, handle).await;
    }
}

async fn handle(request: Request<Incoming>, conditions: Conditions) -> Answer {
    if let Some(answer) = conditions.at_request().await.and_then(http::fault_answer) {
        return answer;
    }
    let annotation = patch_annotation(request.uri().path());
    let Ok(body) = Limited::new(request.into_body(), 10 << 20).collect().await else {
        return http::text(StatusCode::BAD_REQUEST, "the body does not arrive whole\n");
    };
    let review = match Review::decode(&body.to_bytes()) {
        Ok(review) => review,
        Err(error) => return http::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let reply = match review.object()["metadata"]["annotations"][&annotation].as_str().map(serde_json::from_str) {
        None => Reply::Allow,
        Some(Ok(Value::Array(operations))) => Reply::Patch(operations),
        Some(other) => Reply::Deny(format!("{annotation} is no JSON patch: {other:?}")),
    };
    let mut answer = Answer::new(Full::new(Bytes::from(review.answered(&reply).to_string())));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
