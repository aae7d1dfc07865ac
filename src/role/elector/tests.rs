//! A leader at a scripted API server, whose Lease its watch shows.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use k8s_openapi::api::coordination::v1::Lease;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower_test::mock::{self, Handle};

use super::*;
use crate::decide::election::elector::{PROBE_DEADLINE, STAND_BACK};
use crate::decide::election::lease_record::{CONTROLLER_LEASE, RENEW_INTERVAL};

/// A write of the Lease, and how long after the start it came.
#[derive(Clone, Debug)]
struct LeaseRequest {
    at: Duration,
    method: Method,
    body: Value,
}

/// One candidate and its API server.
struct Script {
    elector: Elector,
    epoch: Instant,
    requests: Arc<Mutex<Vec<LeaseRequest>>>,
    server: JoinHandle<()>,
}

// === impl Script ===

impl Script {
    fn begin() -> Self {
        let (service, handle) = mock::pair::<Request<Body>, Response<Body>>();
        let (sink, lease) = watch::channel(Seen { objects: Some(Arc::default()), ..Seen::default() });
        let (epoch, requests) = (Instant::now(), Arc::default());
        let server = tokio::spawn(serve(handle, epoch, Arc::clone(&requests), sink));
        let me = LeaseHolder { name: "one".to_owned(), detail: "node-0".to_owned(), incarnation: "u-1".to_owned() };
        let candidate = Candidate {
            client: Client::new(service, "default"),
            namespace: "linkerd-gate".to_owned(),
            name: CONTROLLER_LEASE,
            me,
            epoch,
            metrics: Arc::new(Metrics::controller()),
            courtesy: None,
        };
        Self { elector: Elector::new(candidate, lease), epoch, requests, server }
    }

    async fn acquire(&mut self) {
        self.elector.acquire(|_, _| PendingRepair::new(0), |_| {}).await;
    }

    /// Leads while `probes` says when the next round begins, until the Lease is lost.
    async fn lead(&mut self, probes: &watch::Receiver<Instant>) -> LossReason {
        let (_pending, mut content) = watch::channel(PendingRepair::new(0));
        let (renewed, _) = watch::channel(self.elector.renewed());
        self.elector.lead(PendingRepair::new(0), &mut content, &renewed, probes).await
    }

    fn requests(&self) -> Vec<LeaseRequest> {
        assert!(!self.server.is_finished(), "the API server panicked");
        self.requests.lock().unwrap().clone()
    }
}

/// Takes every write that has the Lease's latest version, and shows the Lease as it is then.
async fn serve(
    mut handle: Handle<Request<Body>, Response<Body>>,
    epoch: Instant,
    requests: Arc<Mutex<Vec<LeaseRequest>>>,
    sink: watch::Sender<Seen<LeaseRecord>>,
) {
    let mut lease = Value::Null;
    while let Some((request, respond)) = handle.next_request().await {
        let (method, at) = (request.method().clone(), epoch.elapsed());
        let body: Value = serde_json::from_slice(&request.into_body().collect_bytes().await.unwrap()).unwrap();
        if method == Method::POST {
            lease = body.clone();
        } else {
            assert_eq!(method, Method::PATCH);
            assert_eq!(body["metadata"]["resourceVersion"], lease["metadata"]["resourceVersion"]);
            json_patch::merge(&mut lease, &body);
        }
        let version = requests.lock().unwrap().len() + 1;
        lease["metadata"]["resourceVersion"] = json!(version.to_string());
        requests.lock().unwrap().push(LeaseRequest { at, method, body });
        let record = LeaseRecord::of(&serde_json::from_value::<Lease>(lease.clone()).unwrap());
        sink.send_replace(Seen {
            objects: Some(Arc::new([(CONTROLLER_LEASE.to_owned(), record)].into())),
            ..Seen::default()
        });
        respond.send_response(Response::new(Body::from(serde_json::to_vec(&lease).unwrap())));
    }
}

fn gives_up(request: &LeaseRequest) -> bool {
    request.body["spec"].as_object().unwrap().get("holderIdentity") == Some(&Value::Null)
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_probes_hang_gives_its_lease_up() {
    let mut script = Script::begin();
    script.acquire().await;
    let (probes, probing) = watch::channel(script.epoch);
    let LossReason::ProbesHang { since } = script.lead(&probing).await else { panic!("lost for another reason") };
    assert_eq!(since, PROBE_DEADLINE);

    let requests = script.requests();
    let (last, before) = requests.split_last().unwrap();
    assert!(gives_up(last) && last.at >= PROBE_DEADLINE && last.at < PROBE_DEADLINE + RENEW_INTERVAL, "{last:?}");
    assert_eq!(before[0].method, Method::POST);
    assert!(!before.iter().any(gives_up));
    assert!(
        before.windows(2).all(|pair| pair[1].at <= pair[0].at + RENEW_INTERVAL),
        "it renewed meanwhile: {before:?}"
    );

    // It leaves the free Lease to others for a time; here is no other.
    script.acquire().await;
    let taken = script.requests().last().unwrap().clone();
    assert!(!gives_up(&taken) && taken.at >= last.at + STAND_BACK, "{taken:?}");
    drop(probes);
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_probes_go_on_keeps_its_lease() {
    let mut script = Script::begin();
    script.acquire().await;
    let (probes, probing) = watch::channel(script.epoch);
    let last_round = script.epoch + 3 * PROBE_DEADLINE;
    let rounds = async {
        while Instant::now() < last_round {
            tokio::time::sleep(PROBE_DEADLINE / 2).await;
            probes.send_replace(Instant::now());
        }
        pending::<()>().await;
    };
    let lost = tokio::select! {
        lost = script.lead(&probing) => lost,
        () = rounds => unreachable!("they never end"),
    };
    assert!(matches!(lost, LossReason::ProbesHang { .. }), "{lost:?}");
    let requests = script.requests();
    let given_up: Vec<_> = requests.iter().filter(|request| gives_up(request)).collect();
    assert!(given_up.len() == 1 && given_up[0].at >= 4 * PROBE_DEADLINE, "{given_up:?}");
    assert!(gives_up(&requests[requests.len() - 1]));
}
