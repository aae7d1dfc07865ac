//! What it costs a controller to know a cluster's pods: the program itself, beside an API server that makes them up.

use std::process::Stdio;
use std::time::Duration;

use linkerd_gate_kit::many::{Many, Size};
use linkerd_gate_kit::standin::client;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// Longer than anything here takes; nothing waits for it but a test that fails.
const PATIENCE: Duration = Duration::from_mins(3);

/// What a meshed pod may cost, in bytes: its share of its ReplicaSet, of its node and of their index included.
const MESHED: u64 = 400;

/// And a missed one, beside an Event for it that waits to be written.
const MISSED: u64 = 6000;

/// What a second list and changes may add to all of it: a page of it is read at a time.
const AGAIN: u64 = 3 << 20;

/// What an essential namespace may cost a prover, in bytes.
const ESSENTIAL: u64 = 3000;

struct Program {
    child: Child,
    port: u16,
    _kubeconfig: tempfile::NamedTempFile,
}

// === impl Program ===

impl Program {
    fn start(role: &str, many: &Many) -> Self {
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(kubeconfig.path(), many.kubeconfig()).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(env!("CARGO_BIN_EXE_linkerd-gate"))
            .arg(role)
            .env_clear()
            .envs([
                ("LINKERD_GATE_KUBECONFIG", kubeconfig.path().to_str().unwrap()),
                ("LINKERD_GATE_TERMINATION_LOG", "/nonexistent"),
                ("LINKERD_GATE_NODE_NAME", "node-0"),
                ("LINKERD_GATE_POD_NAME", "linkerd-gate-controller-x2x9z"),
                ("LINKERD_GATE_POD_NAMESPACE", "linkerd-gate"),
                ("LINKERD_GATE_LISTEN_PORT", &port.to_string()),
                ("LINKERD_GATE_IDENTITY", "endpoints"),
                // glibc keeps what threads free in arenas of their own and moves its thresholds: a megabyte or two of chance.
                ("MALLOC_ARENA_MAX", "1"),
                ("MALLOC_MMAP_THRESHOLD_", "131072"),
                ("MALLOC_TRIM_THRESHOLD_", "131072"),
            ])
            // Each refuses variables that are not its own.
            .envs((role == "controller").then_some(("LINKERD_GATE_POD_UID", "0b6f9e52-9b1f-4e0a-8d5a-0d2f3b3f9c11")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, port, _kubeconfig: kubeconfig }
    }

    /// The most that it ever had, in bytes.
    fn most(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Waits until it reports so many missed pods.
    async fn until_missed(&self, count: usize) {
        self.until_metric("linkerd_gate_missed_pods{", count).await;
    }

    /// Waits until the values of a metric make so many.
    async fn until_metric(&self, name: &str, count: usize) {
        let asking = async {
            loop {
                if let Ok(answer) = client::get(([127, 0, 0, 1], self.port).into(), "/metrics").await {
                    let text = String::from_utf8_lossy(&answer.body).into_owned();
                    let of_it = text.lines().filter(|line| line.starts_with(name));
                    let sum: usize = of_it.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum();
                    if sum == count {
                        return;
                    }
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, asking).await.expect("it does not report them");
    }
}

/// The most that a controller takes that knows so many pods; after it listed them once, and after all else.
async fn most(size: Size) -> (u64, u64) {
    let many = Many::start(size).await.unwrap();
    let controller = Program::start("controller", &many);
    timeout(PATIENCE, many.until_listed(1)).await.expect("it does not list them");
    controller.until_missed(size.missed).await;
    let once = controller.most();
    timeout(PATIENCE, many.list_again()).await.expect("it does not list them again");
    controller.until_missed(size.missed).await;
    timeout(PATIENCE, many.replace(500)).await.expect("it does not watch them");
    controller.until_missed(size.missed).await;
    (once, controller.most())
}

#[tokio::test]
async fn a_meshed_pod_costs_next_to_nothing_and_a_second_list_nothing() {
    const MISSED_ONES: usize = 20;
    let few = most(Size { pods: 1000, missed: MISSED_ONES, essential: 0 }).await;
    let many = most(Size { pods: 13_000, missed: MISSED_ONES, essential: 0 }).await;
    let each = many.0.saturating_sub(few.0) / 12_000;
    eprintln!("1,000 pods: {} KiB, 13,000: {} KiB; a meshed pod: {each} bytes", few.0 >> 10, many.0 >> 10);
    eprintln!("after another list and changes: {} and {} KiB", few.1 >> 10, many.1 >> 10);
    assert!(each <= MESHED, "{each}");
    assert!(many.1 - many.0 <= AGAIN, "{} KiB", (many.1 - many.0) >> 10);
}

#[tokio::test]
async fn a_missed_pod_costs_as_much_as_any_other() {
    let few = most(Size { pods: 3000, missed: 500, essential: 0 }).await;
    let many = most(Size { pods: 3000, missed: 2500, essential: 0 }).await;
    let each = many.1.saturating_sub(few.1) / 2000;
    eprintln!("3,000 pods, 500 missed: {} KiB, 2,500: {} KiB; a missed pod: {each} bytes", few.1 >> 10, many.1 >> 10);
    assert!(each <= MISSED, "{each}");
}

/// The most that a prover takes of so many essential namespaces, and how often it listed pods for them.
async fn prover(essential: usize) -> (u64, usize) {
    let many = Many::start(Size { pods: 30, missed: 0, essential }).await.unwrap();
    let agent = Program::start("agent", &many);
    agent.until_metric("linkerd_gate_prover ", 1).await;
    let lists = timeout(PATIENCE, many.narrow_lists()).await.expect("it looks for no pods");
    // What it watches it has listed. A renewal of its Lease later it has also sent what follows from that.
    let followed = ["/api/v1/namespaces", "/apis/apps/v1/daemonsets", "/api/v1/pods"];
    timeout(PATIENCE, many.until_followed(&followed)).await.expect("it does not watch what is essential");
    timeout(PATIENCE, many.until_written_again()).await.expect("it does not renew its Lease");
    (agent.most(), lists.max(many.narrow_lists().await))
}

#[tokio::test]
async fn essential_namespaces_cost_a_prover_one_watch() {
    let (few, many) = (prover(10).await, prover(1200).await);
    let each = many.0.saturating_sub(few.0) / 1190;
    eprintln!("10 essential namespaces: {} KiB, 1,200: {} KiB; each {each} bytes", few.0 >> 10, many.0 >> 10);
    assert_eq!((few.1, many.1), (1, 1), "lists of pods");
    assert!(each <= ESSENTIAL, "{each}");
}
