//! An API server that goes away in the middle of a check: what was read is reported, what was not is no fact.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use http::{Method, Request, Response};
use hyper::body::Bytes;
use kube::Client;
use kube::client::Body;
use linkerd_gate_kit::standin::{Fault, Flaw};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::front::{Answer, Front};
use crate::harness::{Harness, Ran, is_as_linkerd_reads_it, is_mended_by_commands};

/// How long the API server may take to answer everything but a dry-run pod.
const PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);

/// The requests to a front, and how many of them are answered.
#[derive(Clone, Debug, Default)]
struct Traffic {
    asked: Vec<String>,
    answered: usize,
}

/// An answer that is given in the place of the API server's: a path, and what it says.
type Instead = Option<(&'static str, Value)>;

/// Hands each request on to the genuine API server, as long as no more than `limit` have come.
fn handing_on(genuine: Client, limit: usize, traffic: watch::Sender<Traffic>, instead: Instead) -> Answer {
    let count = Arc::new(AtomicUsize::new(0));
    let traffic = Arc::new(traffic);
    Arc::new(move |request| {
        let (genuine, traffic, place) = (genuine.clone(), Arc::clone(&traffic), count.fetch_add(1, Ordering::SeqCst));
        let method = request.method().clone();
        let line = format!("{method} {}", request.uri().path());
        traffic.send_modify(|traffic| traffic.asked.push(line));
        if let Some((path, answer)) = &instead
            && request.uri().path() == *path
        {
            let answer = Response::new(Bytes::from(answer.to_string()));
            return Box::pin(async { Some(answer) });
        }
        Box::pin(async move {
            if place >= limit {
                return None;
            }
            let answer = hand_on(&genuine, request).await.ok();
            traffic.send_modify(|traffic| traffic.answered += 1);
            answer
        })
    })
}

async fn hand_on(genuine: &Client, request: Request<Bytes>) -> Result<Response<Bytes>> {
    let (mut parts, body) = request.into_parts();
    // They are about the connection to the front.
    for name in [http::header::HOST, http::header::CONNECTION, http::header::CONTENT_LENGTH] {
        parts.headers.remove(name);
    }
    let answer = genuine.send(Request::from_parts(parts, Body::from(body.to_vec()))).await?;
    let (head, body) = answer.into_parts();
    let body = body.collect_bytes().await?;
    let mut answer = Response::builder().status(head.status);
    if let Some(kind) = head.headers.get(http::header::CONTENT_TYPE) {
        answer = answer.header(http::header::CONTENT_TYPE, kind);
    }
    Ok(answer.body(body)?)
}

// === impl Stage ===

impl Harness {
    /// After each number of requests: nothing is wrong with this cluster, and nothing is reported as wrong that was not looked at.
    pub async fn the_api_server_goes_after_each_request(&self) -> Result<()> {
        let home = tempfile::tempdir()?;
        let mut limit = 0;
        loop {
            let (traffic, seen) = watch::channel(Traffic::default());
            let front = Front::start(handing_on(self.admin.clone(), limit, traffic, None)).await?;
            let kubeconfig = home.path().join(format!("after-{limit}"));
            front.write_kubeconfig(&kubeconfig)?;
            let config = kubeconfig.to_str().context("a path that is no text")?;
            let Ran { code, out, err } = self.run(&["check", "-o", "json", "--kubeconfig", config]).await?;
            let asked = seen.borrow().asked.clone();
            let shown = || format!("after {limit} of {} requests: {out}{err}", asked.len());
            let report: Value = serde_json::from_str(&out).with_context(shown)?;
            is_as_linkerd_reads_it(&report).with_context(shown)?;
            is_mended_by_commands(&report).with_context(shown)?;
            ensure!(code == Some(i32::from(report["success"] == false)), "{}", shown());
            let mut wrong = 0;
            for check in
                report["categories"].as_array().into_iter().flatten().filter_map(|it| it["checks"].as_array()).flatten()
            {
                if check["result"] == "success" {
                    continue;
                }
                wrong += 1;
                let error = check["error"].as_str().unwrap_or_default();
                let is_no_fact = error.contains("not looked at") || error.contains("shows nothing");
                ensure!(is_no_fact || (check["code"] == "LG101" && limit == 0), "{check:#}\n{}", shown());
            }
            for request in &asked {
                ensure!(request.starts_with("GET ") || request.contains("POST ") && reads(request), "{request}");
            }
            if limit >= asked.len() {
                ensure!(wrong == 0, "{}", shown());
                ensure!(limit > 10, "only {limit} requests");
                return Ok(());
            }
            ensure!(wrong > 0, "{}", shown());
            limit += 1;
        }
    }

    /// As on a node, or in the CronJob: `check` connects to the injector. EndpointSlices may not have loopback addresses, so the
    /// front answers for those.
    pub async fn a_certificate_is_looked_at(&self) -> Result<()> {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": "linkerd-proxy-injector-x", "namespace": "linkerd",
                "labels": {"kubernetes.io/service-name": "linkerd-proxy-injector"},
            },
            "endpoints": [{"addresses": [self.injector.address().ip()], "conditions": {"ready": true}}],
            "ports": [{"name": "proxy-injector", "port": self.injector.address().port(), "protocol": "TCP"}],
        });
        let path = "/apis/discovery.k8s.io/v1/namespaces/linkerd/endpointslices";
        let list =
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "metadata": {}, "items": [slice]});
        let (traffic, _seen) = watch::channel(Traffic::default());
        let front = Front::start(handing_on(self.admin.clone(), usize::MAX, traffic, Some((path, list)))).await?;
        let home = tempfile::tempdir()?;
        let kubeconfig = home.path().join("kubeconfig");
        front.write_kubeconfig(&kubeconfig)?;
        let config = kubeconfig.to_str().context("a path that is no text")?;
        let words = ["--kubeconfig", config, "--dial"];
        let report = self.finds("a certificate that fits", &words, &[]).await?;
        let fits = "the API server trusts the certificate that the injector serves (SHA-256 ";
        ensure!(report.to_string().contains(fits), "{report:#}");
        for (flaw, why) in [
            (Flaw::Authority, "it does not chain to the caBundle"),
            (Flaw::Expired, "it has expired"),
            (Flaw::Name, "it is for "),
        ] {
            // The API server keeps a connection that it trusts: this ends it.
            self.injector.suffer(Fault::Absent).await?;
            self.injector.suffer(Fault::Certificate(flaw)).await?;
            let report = self.finds("a certificate that does not fit", &words, &["LG301 error", "LG404 error"]).await?;
            let said = format!("{} serves SHA-256 ", self.injector.address());
            ensure!(report.to_string().contains(&said) && report.to_string().contains(why), "{report:#}");
            // From outside only the dry-run pod shows that something is wrong.
            let outside = &words[..2];
            let report = self.finds("the same, from outside", outside, &["LG301 error", "LG404 warning"]).await?;
            ensure!(report.to_string().contains("this machine is not in the cluster"), "{report:#}");
        }
        self.injector.recover().await?;
        // An API server that fails closed says it itself.
        let mut webhook = self.webhook();
        webhook["webhooks"][0]["failurePolicy"] = "Fail".into();
        self.apply(&webhook).await?;
        self.injector.suffer(Fault::Absent).await?;
        self.injector.suffer(Fault::Certificate(Flaw::Authority)).await?;
        let report = self.finds("a stranger's certificate, and Fail", &[], &["LG301 error", "LG404 error"]).await?;
        ensure!(report.to_string().contains("certificate signed by unknown authority"), "{report:#}");
        self.injector.recover().await?;
        self.apply(&self.webhook()).await?;
        self.finds("well again", &[], &[]).await?;
        Ok(())
    }

    /// It is killed while it waits for the injector, and everything else was answered.
    pub async fn the_api_server_is_killed(&self) -> Result<()> {
        let home = tempfile::tempdir()?;
        let (traffic, mut seen) = watch::channel(Traffic::default());
        let front = Front::start(handing_on(self.admin.clone(), usize::MAX, traffic, None)).await?;
        let kubeconfig = home.path().join("kubeconfig");
        front.write_kubeconfig(&kubeconfig)?;
        let config = kubeconfig.to_str().context("a path that is no text")?;
        self.injector.suffer(Fault::Hang).await?;
        let dry_run = format!("{} /api/v1/namespaces/linkerd-gate-probe/pods", Method::POST);
        let words = ["--kubeconfig", config];
        let killed = async {
            // Everything else was asked for, and is answered.
            let last =
                ["GET /api/v1/pods", "GET /apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases", &dry_run];
            let only_it = |traffic: &Traffic| {
                last.iter().all(|line| traffic.asked.iter().any(|asked| asked == line))
                    && traffic.answered + 1 == traffic.asked.len()
            };
            while !only_it(&seen.borrow_and_update()) {
                seen.changed().await?;
            }
            self.cluster.kill_api_server()
        };
        let page = self.page("api-server-goes-midway", &words);
        let (page, killed) = tokio::join!(page, tokio::time::timeout(PATIENCE, killed));
        killed.context("the dry-run pod was never the only request under way")??;
        page
    }
}

/// Of what is sent and not stored: dry-run pods.
fn reads(request: &str) -> bool {
    request.ends_with("/pods") || request.ends_with("/selfsubjectreviews")
}
