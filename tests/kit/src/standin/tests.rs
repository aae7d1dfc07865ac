//! The stand-ins as seen by those who call them.

use super::{
    Calls, Certificates, CertifyRequest, Fault, Flaw, Identity, Injector, Namespaces, Proxy, Sidecar, Standin,
    client::{self, Refused, Verdict, WebhookCaller},
};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::{collections::BTreeMap, io::ErrorKind, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// How long nothing has to come where nothing may come. A machine that is slow makes such a silence longer, never shorter.
const SILENCE: Duration = Duration::from_millis(300);

/// Longer than an answer takes on the slowest machine; nothing waits for it but a test that fails.
const PATIENCE: Duration = Duration::from_mins(1);

async fn injector() -> Result<(Standin, WebhookCaller)> {
    let certificates = Certificates::for_injector("linkerd")?;
    let namespaces = Namespaces::none().asking("shop");
    let injector = Injector::new(certificates.clone(), &namespaces, Sidecar::genuine("linkerd")).start().await?;
    let caller = WebhookCaller::new(injector.address(), "linkerd", certificates.ca_bundle())?;
    Ok((injector, caller))
}

fn pod() -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "app", "image": "app:1"}]}})
}

/// How long to wait for a handshake and for an answer.
fn patience(fault: Option<Fault>) -> (Duration, Duration) {
    match fault {
        Some(Fault::Hang) => (SILENCE, SILENCE),
        Some(Fault::HangAfterHandshake) => (PATIENCE, SILENCE),
        _ => (PATIENCE, PATIENCE),
    }
}

/// What a caller sees of an injector, in a few words.
async fn seen(injector: &Standin, caller: &WebhookCaller) -> String {
    let (handshake, answer) = patience(injector.fault());
    let admin = injector.admin_address();
    let webhook = match timeout(answer, caller.review("shop", &pod())).await {
        Err(_) => match timeout(handshake, caller.shake_hands()).await {
            Ok(Ok(())) => "silence after the handshake".to_owned(),
            _ => "silence".to_owned(),
        },
        Ok(Err(error)) => format!("{error:#}"),
        Ok(Ok(Verdict::Denied(why))) => format!("denied: {why}"),
        Ok(Ok(Verdict::Allowed(operations))) => format!("{} operations", operations.len()),
    };
    format!("{webhook}; {}", readiness(admin).await)
}

async fn readiness(admin: SocketAddr) -> String {
    match client::get(admin, "/ready").await {
        Err(error) => format!("admin: {error:#}"),
        Ok(answer) => format!("admin: {}", answer.status.as_u16()),
    }
}

#[tokio::test]
async fn a_pod_that_asks_comes_back_with_a_proxy() -> Result<()> {
    let (_injector, caller) = injector().await?;
    let Verdict::Allowed(operations) = caller.review("shop", &pod()).await? else { panic!("denied") };
    assert!(operations.iter().any(|operation| operation["value"]["name"] == "linkerd-proxy"));
    Ok(())
}

#[tokio::test]
async fn a_namespace_that_the_injector_does_not_know_is_denied() -> Result<()> {
    let (_injector, caller) = injector().await?;
    let verdict = caller.review("new", &pod()).await?;
    assert_eq!(verdict, Verdict::Denied("namespaces \"new\" not found".to_owned()));
    Ok(())
}

#[tokio::test]
async fn an_empty_body_is_answered_with_an_empty_body() -> Result<()> {
    let (_injector, caller) = injector().await?;
    let answer = caller.send(Bytes::new()).await?;
    assert_eq!((answer.status, answer.body), (StatusCode::OK, Bytes::new()));
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_no_review_is_a_bad_request() -> Result<()> {
    let (_injector, caller) = injector().await?;
    for body in ["no", "{}", r#"{"request": {"uid": ""}}"#] {
        assert_eq!(caller.send(body).await?.status, StatusCode::BAD_REQUEST, "{body}");
    }
    Ok(())
}

#[tokio::test]
async fn the_whole_request_is_echoed() -> Result<()> {
    let (_injector, caller) = injector().await?;
    let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "1", "namespace": "shop", "kind": {"kind": "Gadget"}, "object": {"any": "thing"}}});
    let answer: Value = serde_json::from_slice(&caller.send(body.to_string()).await?.body)?;
    assert_eq!(answer["request"], body["request"]);
    assert_eq!(answer["response"], json!({"uid": "1", "allowed": true}));
    Ok(())
}

#[tokio::test]
async fn every_injector_fault_is_distinguishable_by_clients() -> Result<()> {
    let (injector, caller) = injector().await?;
    let mut looks = BTreeMap::new();
    looks.insert(seen(&injector, &caller).await, None);
    for fault in [
        Fault::Absent,
        Fault::Refuse,
        Fault::Reset,
        Fault::Hang,
        Fault::HangAfterHandshake,
        Fault::Status(500),
        Fault::Stranger,
        Fault::PlainHttp,
        Fault::Certificate(Flaw::Name),
        Fault::Certificate(Flaw::Authority),
        Fault::Certificate(Flaw::Expired),
        Fault::NotReady,
        Fault::Deny,
    ] {
        injector.suffer(fault).await?;
        let look = seen(&injector, &caller).await;
        if let Some(other) = looks.insert(look.clone(), Some(fault)) {
            panic!("{fault:?} and {other:?} both look like {look:?}");
        }
    }
    injector.recover().await?;
    assert_eq!(looks.get(&seen(&injector, &caller).await), Some(&None));
    Ok(())
}

#[tokio::test]
async fn a_slow_injector_answers_in_the_end() -> Result<()> {
    let (injector, caller) = injector().await?;
    let delay = Duration::from_millis(50);
    injector.suffer(Fault::Slow(delay)).await?;
    let start = std::time::Instant::now();
    caller.review("shop", &pod()).await?;
    assert!(start.elapsed() >= delay);
    Ok(())
}

#[tokio::test]
async fn the_most_concurrent_calls_are_counted() -> Result<()> {
    let (certificates, calls) = (Certificates::for_injector("linkerd")?, Calls::default());
    let namespaces = Namespaces::none().asking("shop");
    let injector = Injector::new(certificates.clone(), &namespaces, Sidecar::genuine("linkerd"));
    let injector = injector.counting(&calls).start().await?;
    let caller = || WebhookCaller::new(injector.address(), "linkerd", certificates.ca_bundle());
    let (one, other, pod) = (caller()?, caller()?, pod());
    one.review("shop", &pod).await?;
    other.review("shop", &pod).await?;
    assert_eq!(calls.most(), 1);
    injector.suffer(Fault::HangAfterHandshake).await?;
    let before = injector.requests();
    let both = async { tokio::try_join!(one.review("shop", &pod), other.review("shop", &pod)) };
    let recovery = async {
        injector.until_requests(before + 2).await;
        injector.recover().await
    };
    let (reviewed, recovered) = tokio::join!(both, recovery);
    reviewed?;
    recovered?;
    assert_eq!(calls.most(), 2);
    Ok(())
}

#[tokio::test]
async fn a_flapping_injector_comes_and_goes_on_the_same_port() -> Result<()> {
    let (injector, caller) = injector().await?;
    let (up, down) = (Duration::from_millis(100), Duration::from_millis(100));
    injector.suffer(Fault::Flap { up, down }).await?;
    let mut answers = caller.send(Bytes::new()).await.is_ok();
    for change in 1..=4 {
        let changed = async { while caller.send(Bytes::new()).await.is_ok() == answers {} };
        timeout(PATIENCE, changed).await.with_context(|| format!("change {change}, answering before it: {answers}"))?;
        answers = !answers;
    }
    injector.recover().await?;
    assert!(caller.send(Bytes::new()).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn an_injector_that_answers_once_is_gone_after_its_answer() -> Result<()> {
    let (injector, caller) = injector().await?;
    for _ in 0..3 {
        injector.suffer(Fault::Once).await?;
        let (mut session, mut other) = (caller.connect().await?, caller.connect().await?);
        assert_eq!(session.send(Bytes::new()).await?.status, StatusCode::OK);
        let error = TcpStream::connect(injector.address()).await.expect_err("nothing listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        for open in [&mut session, &mut other] {
            assert!(timeout(SILENCE, open.send(Bytes::new())).await.is_err(), "two answers");
        }
    }
    injector.recover().await?;
    assert!(caller.send(Bytes::new()).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn open_connections_survive_a_new_certificate_but_no_restart() -> Result<()> {
    let (injector, caller) = injector().await?;
    let mut session = caller.connect().await?;
    injector.suffer(Fault::Certificate(Flaw::Expired)).await?;
    assert_eq!(session.send(Bytes::new()).await?.status, StatusCode::OK);
    assert!(caller.connect().await.is_err());
    injector.stop().await?;
    injector.start_again().await?;
    assert!(session.send(Bytes::new()).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_reset_cuts_connections_that_were_open() -> Result<()> {
    let (injector, _caller) = injector().await?;
    let mut open = TcpStream::connect(injector.address()).await?;
    injector.until_connections(1).await;
    injector.suffer(Fault::Reset).await?;
    let error = open.read_u8().await.expect_err("nothing was sent");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    Ok(())
}

#[tokio::test]
async fn a_frozen_connection_goes_on_where_it_stood() -> Result<()> {
    let identity = Identity::new().start().await?;
    identity.suffer(Fault::Hang).await?;
    let address = identity.address();
    let asking = tokio::spawn(async move { client::certify(address, &CertifyRequest::default()).await });
    identity.until_connections(1).await;
    assert!(timeout(SILENCE, identity.until_requests(1)).await.is_err(), "frozen, and it reads requests");
    identity.recover().await?;
    assert_eq!(asking.await??, Err(refused(3, "missing identity")));
    Ok(())
}

#[tokio::test]
async fn a_port_is_kept_while_nothing_listens_on_it() -> Result<()> {
    let (injector, caller) = injector().await?;
    injector.stop().await?;
    let error = TcpStream::connect(injector.address()).await.expect_err("nothing listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    for _ in 0..200 {
        let other = std::net::TcpListener::bind("127.0.0.1:0")?;
        assert_ne!(other.local_addr()?, injector.address());
    }
    injector.start_again().await?;
    assert!(caller.send(Bytes::new()).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn certificates_survive_their_json() -> Result<()> {
    let certificates = Certificates::in_the_charts_form("linkerd")?;
    let copy = Certificates::from_json(&certificates.to_json()?)?;
    let injector = Injector::new(copy, &Namespaces::any(), Sidecar::genuine("linkerd")).start().await?;
    let caller = WebhookCaller::new(injector.address(), "linkerd", certificates.ca_bundle())?;
    assert!(caller.send(Bytes::new()).await.is_ok());
    Ok(())
}

fn refused(code: i32, message: &str) -> Refused {
    Refused { code, message: message.to_owned() }
}

fn asked() -> CertifyRequest {
    CertifyRequest {
        identity: "web.shop.serviceaccount.identity.linkerd.cluster.local".to_owned(),
        token: b"token".to_vec(),
        signing_request: vec![0x30, 0],
    }
}

#[tokio::test]
async fn identity_names_what_is_missing_and_certifies_when_nothing_is() -> Result<()> {
    let identity = Identity::new().start().await?;
    let address = identity.address();
    let mut request = CertifyRequest::default();
    assert_eq!(client::certify(address, &request).await?, Err(refused(3, "missing identity")));
    request.identity = asked().identity;
    assert_eq!(client::certify(address, &request).await?, Err(refused(3, "missing token")));
    request.token = asked().token;
    assert_eq!(client::certify(address, &request).await?, Err(refused(3, "missing certificate signing request")));
    let certified = client::certify(address, &asked()).await?.expect("certified");
    assert_eq!((certified.leaf[0], certified.intermediates.len()), (0x30, 1));
    Ok(())
}

#[tokio::test]
async fn a_refusal_is_headers_that_end_the_stream() -> Result<()> {
    let identity = Identity::new().start().await?;
    let (code, message, body) = client::call(
        identity.address(),
        Method::POST,
        "/io.linkerd.proxy.identity.Identity/Certify",
        "application/grpc",
        &CertifyRequest::default(),
    )
    .await?;
    assert_eq!((code, message.as_str(), body.len()), (3, "missing identity", 0));
    Ok(())
}

#[tokio::test]
async fn other_methods_are_unimplemented_as_grpc_go_words_it() -> Result<()> {
    let identity = Identity::new().start().await?;
    for (path, message) in [
        ("/grpc.health.v1.Health/Check", "unknown service grpc.health.v1.Health"),
        (
            "/io.linkerd.proxy.identity.Identity/Other",
            "unknown method Other for service io.linkerd.proxy.identity.Identity",
        ),
        ("/nothing", "malformed method name: \"/nothing\""),
    ] {
        let answer =
            client::call(identity.address(), Method::POST, path, "application/grpc", &CertifyRequest::default())
                .await?;
        assert_eq!((answer.0, answer.1.as_str()), (12, message));
    }
    Ok(())
}

#[tokio::test]
async fn identity_does_not_speak_http_1() -> Result<()> {
    let identity = Identity::new().start().await?;
    let mut stream = TcpStream::connect(identity.address()).await?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: identity\r\n\r\n").await?;
    let mut answer = Vec::new();
    // It may end in a reset, as what we sent was not read to its end.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await?;
    assert!(!answer.starts_with(b"HTTP/1"), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn every_identity_fault_is_distinguishable_by_clients() -> Result<()> {
    async fn look(identity: &Standin) -> String {
        let (handshake, answer) = patience(identity.fault());
        let address = identity.address();
        let mut words = Vec::new();
        for request in [CertifyRequest::default(), asked()] {
            words.push(match timeout(answer, client::certify(address, &request)).await {
                Err(_) => {
                    let mut stream = TcpStream::connect(address).await.expect("it accepts");
                    let mut settings = [0; 9];
                    match timeout(handshake, stream.read_exact(&mut settings)).await {
                        Err(_) => "silence".to_owned(),
                        Ok(_) => "silence after the handshake".to_owned(),
                    }
                }
                Ok(Err(error)) => format!("{error:#}"),
                Ok(Ok(Err(refused))) => format!("{refused:?}"),
                Ok(Ok(Ok(_))) => "certified".to_owned(),
            });
        }
        words.push(readiness(identity.admin_address()).await);
        words.join("; ")
    }
    let identity = Identity::new().start().await?;
    let mut looks = BTreeMap::new();
    looks.insert(look(&identity).await, None);
    for fault in [
        Fault::Absent,
        Fault::Refuse,
        Fault::Reset,
        Fault::Hang,
        Fault::HangAfterHandshake,
        Fault::Status(500),
        Fault::Stranger,
        Fault::PlainHttp,
        Fault::NotReady,
        Fault::Deny,
    ] {
        identity.suffer(fault).await?;
        let look = look(&identity).await;
        if let Some(other) = looks.insert(look.clone(), Some(fault)) {
            panic!("{fault:?} and {other:?} both look like {look:?}");
        }
    }
    assert!(identity.suffer(Fault::Certificate(Flaw::Name)).await.is_err());
    Ok(())
}

#[tokio::test]
async fn an_admin_port_answers_like_linkerds_controllers() -> Result<()> {
    let identity = Identity::new().start().await?;
    let admin = identity.admin_address();
    let ready = client::get(admin, "/ready").await?;
    assert_eq!((ready.status, &ready.body[..]), (StatusCode::OK, &b"ok\n"[..]));
    identity.suffer(Fault::NotReady).await?;
    let ready = client::get(admin, "/ready").await?;
    assert_eq!((ready.status, &ready.body[..]), (StatusCode::INTERNAL_SERVER_ERROR, &b"not ready\n"[..]));
    assert_eq!(&client::get(admin, "/ping").await?.body[..], b"pong\n");
    Ok(())
}

#[tokio::test]
async fn a_proxy_handles_traffic_and_is_ready_only_once_certified() -> Result<()> {
    let identity = Identity::new().start().await?;
    identity.suffer(Fault::NotReady).await?;
    let proxy = Proxy::new(&identity.address().to_string(), "web.shop.serviceaccount.identity.linkerd.cluster.local")
        .retrying_after(Duration::from_millis(10))
        .start()
        .await?;
    identity.until_requests(2).await;
    let ready = client::get(proxy.admin_address(), "/ready").await?;
    assert_eq!((ready.status, &ready.body[..]), (StatusCode::SERVICE_UNAVAILABLE, &b"not ready\n"[..]));
    assert_eq!(client::get(proxy.admin_address(), "/live").await?.status, StatusCode::OK);
    // The kernel takes the connection, and the proxy leaves it where it is.
    let mut traffic = TcpStream::connect(proxy.inbound_address()).await?;
    assert!(timeout(SILENCE, traffic.read_u8()).await.is_err());

    identity.recover().await?;
    proxy.until_certified().await;
    assert_eq!(client::get(proxy.admin_address(), "/ready").await?.status, StatusCode::OK);
    assert!(timeout(PATIENCE, traffic.read_u8()).await.is_ok());

    identity.stop().await?;
    assert_eq!(client::get(proxy.admin_address(), "/ready").await?.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn an_app_answers_every_client() -> Result<()> {
    let app = super::app(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    assert_eq!(&client::get(app.address(), "/any").await?.body[..], b"here\n");
    Ok(())
}

#[tokio::test]
async fn an_admin_port_alone_can_be_not_ready() -> Result<()> {
    let destination = super::readiness(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    assert_eq!(client::get(destination.address(), "/ready").await?.status, StatusCode::OK);
    destination.suffer(Fault::NotReady).await?;
    assert_eq!(client::get(destination.address(), "/ready").await?.status, StatusCode::INTERNAL_SERVER_ERROR);
    Ok(())
}
