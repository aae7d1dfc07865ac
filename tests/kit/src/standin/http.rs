//! HTTP for the stand-ins: a server per connection, answers, and the faults that are ordinary HTTP answers.

use super::{
    fault::Fault,
    port::{Conditions, Serve, Wire},
};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{convert::Infallible, future::Future, sync::Arc};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

/// An answer whose body is known in full.
pub(super) type Answer = Response<Full<Bytes>>;

/// Plain HTTP/1.1 for every connection, whatever the fault.
pub(super) fn serve_plain<H, F>(handler: H) -> Serve
where
    H: Fn(Request<Incoming>, Conditions) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    Arc::new(move |wire: Wire, conditions: Conditions| {
        let handler = handler.clone();
        Box::pin(async move { http1(wire, conditions, handler).await })
    })
}

/// Speaks HTTP/1.1 on the stream until it ends.
pub(super) async fn http1<S, H, F>(stream: S, conditions: Conditions, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>, Conditions) -> F,
    F: Future<Output = Answer>,
{
    let service = service_fn(|request| {
        let answer = handler(request, conditions.clone());
        async { Ok::<_, Infallible>(answer.await) }
    });
    // An error is the client's doing or the fault's; there is nobody to tell but the client, who sees it.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Speaks HTTP/2 with prior knowledge on the stream until it ends.
pub(super) async fn http2<S, H, F, B>(stream: S, conditions: Conditions, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>, Conditions) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = service_fn(|request| {
        let answer = handler(request, conditions.clone());
        async { Ok::<_, Infallible>(answer.await) }
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The faults that any HTTP server can show as an answer.
pub(super) fn fault_answer(fault: Fault) -> Option<Answer> {
    match fault {
        Fault::Status(code) => {
            // Parsed to be within 200 to 599, or given by a test that ought to know.
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Some(text(status, "the stand-in was asked to answer like this\n"))
        }
        Fault::Stranger => Some(page()),
        _ => None,
    }
}

/// A web server in the clear, which is not what the caller looks for. Whoever begins with something else than an HTTP/1
/// request, be it TLS or HTTP/2, is answered so in HTTP/1, as Go's server does.
pub(super) async fn plain_http(mut wire: Wire, conditions: Conditions) {
    if wire.begins_with_http1().await {
        http1(wire, conditions, |_, conditions: Conditions| async move {
            conditions.at_request().await;
            page()
        })
        .await;
        return;
    }
    let answer = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request";
    if wire.write_all(answer.as_bytes()).await.is_ok() && wire.shutdown().await.is_ok() {
        // What the client still sends has to be read, else closing would turn the answer into a reset.
        let _ = tokio::io::copy(&mut wire, &mut tokio::io::sink()).await;
    }
}

fn page() -> Answer {
    let mut answer = text(StatusCode::OK, "<!doctype html><title>It works</title><p>Some other program.\n");
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/html; charset=utf-8"));
    answer
}

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
