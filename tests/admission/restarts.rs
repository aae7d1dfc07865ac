//! An API server that is killed and started again under eight writers, while the injector is down: no pod is stored bare and without
//! a gate, in its first instants neither.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams};
use linkerd_gate_kit::object::{namespace, pod};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::answer::{Answer, GATE, create, gates};
use crate::harness::{Admission, Harness, PATIENCE, Parameters};

/// Of asked pods.
const WRITERS: usize = 8;

/// How often the API server is killed.
const KILLS: usize = 3;

/// How many pods are held or refused, and how many others are admitted, between two kills at least.
const ENOUGH: (usize, usize) = (500, 20);

/// How soon a writer tries again where nobody listens. Anything that does listen is asked without a pause.
const KNOCK: Duration = Duration::from_millis(1);

/// What became of pods, in the order of the answers.
#[derive(Debug, Default)]
struct Tally {
    answers: Vec<(Instant, Answer)>,
    /// No answer: nobody listened, or went away before it came.
    unanswered: usize,
}

/// One death of the API server.
#[derive(Clone, Copy, Debug)]
struct Kill {
    dead: Instant,
    /// When its successor said that it was ready.
    ready: Instant,
}

/// What all writers share.
struct Restarts {
    stop: AtomicBool,
    asked: Mutex<Tally>,
    unasked: Mutex<Tally>,
    /// How many were held or refused, and how many that did not ask were admitted, so far.
    progress: watch::Sender<(usize, usize)>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_api_server_admits_no_bare_pod() -> Result<()> {
    restart_under_load(Admission::Refuse).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_api_server_stores_no_pod_without_the_gate() -> Result<()> {
    restart_under_load(Admission::Hold).await
}

async fn restart_under_load(admission: Admission) -> Result<()> {
    let harness = Harness::set().await?;
    for namespace in [namespace("asked").asking(), namespace("unasked")] {
        harness.cluster.create_namespace(&serde_json::from_value(namespace.json())?).await?;
    }
    harness.await_admission(admission, true, Parameters::Labelled).await?;

    let restarts = Arc::new(Restarts {
        stop: AtomicBool::new(false),
        asked: Mutex::default(),
        unasked: Mutex::default(),
        progress: watch::Sender::new((0, 0)),
    });
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        writers.spawn(write(restarts.clone(), harness.cluster.client().await?, "asked", number));
    }
    writers.spawn(write(restarts.clone(), harness.cluster.client().await?, "unasked", WRITERS));

    let kills = kill_again_and_again(&harness, &restarts).await;
    restarts.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    let kills = kills?;
    restarts.no_asked_pod_was_admitted(&harness, admission, kills.len()).await?;
    restarts.a_server_that_starts_looks_at_asked_pods_first_of_all(&kills)?;
    restarts.no_other_pod_was_refused_but_by_a_server_that_starts(&kills)
}

/// Kills the API server and starts it, each time after enough has been written.
async fn kill_again_and_again(harness: &Harness, restarts: &Restarts) -> Result<Vec<Kill>> {
    let mut kills = Vec::new();
    for _ in 0..KILLS {
        restarts.until_enough().await?;
        harness.cluster.kill_api_server()?;
        let dead = Instant::now();
        harness.cluster.start_api_server().await?;
        kills.push(Kill { dead, ready: Instant::now() });
    }
    restarts.until_enough().await?;
    Ok(kills)
}

/// Creates one pod after the other, each under a name of its own, until it has to stop.
async fn write(restarts: Arc<Restarts>, client: Client, namespace: &'static str, writer: usize) -> Result<()> {
    let mut number = 0;
    while !restarts.stop.load(Ordering::Relaxed) {
        number += 1;
        let name = format!("pod-{writer}-{number}");
        let pod: Pod = serde_json::from_value(pod(&name).in_namespace(namespace).running("app:test").json())?;
        let answer = create(&client, &pod).await?;
        let unanswered = matches!(answer, Answer::Unanswered(_));
        restarts.count(namespace == "asked", answer);
        if unanswered {
            tokio::time::sleep(KNOCK).await;
        }
    }
    Ok(())
}

// === impl Storm ===

impl Restarts {
    fn count(&self, asked: bool, answer: Answer) {
        match &answer {
            Answer::Missed(_) | Answer::Held(..) if asked => self.progress.send_modify(|(missed, _)| *missed += 1),
            Answer::Admitted(..) if !asked => self.progress.send_modify(|(_, admitted)| *admitted += 1),
            _ => {}
        }
        let mut tally = locked(if asked { &self.asked } else { &self.unasked });
        match answer {
            Answer::Unanswered(_) => tally.unanswered += 1,
            answer => tally.answers.push((Instant::now(), answer)),
        }
    }

    /// Waits until enough pods of both sorts were answered from now on.
    async fn until_enough(&self) -> Result<()> {
        let mut progress = self.progress.subscribe();
        let before = *progress.borrow_and_update();
        let enough = progress.wait_for(|now| now.0 - before.0 >= ENOUGH.0 && now.1 - before.1 >= ENOUGH.1);
        let waited = tokio::time::timeout(PATIENCE, enough).await.is_ok_and(|waited| waited.is_ok());
        ensure!(waited, "not enough is answered: {before:?} before, {:?} now", *self.progress.borrow());
        Ok(())
    }

    async fn no_asked_pod_was_admitted(&self, harness: &Harness, admission: Admission, kills: usize) -> Result<()> {
        let (answers, unanswered) = {
            let tally = locked(&self.asked);
            (tally.answers.clone(), tally.unanswered)
        };
        let count = |which: fn(&Answer) -> bool| answers.iter().filter(|(_, answer)| which(answer)).count();
        let (admitted, held, missed) = (count(Answer::is_admitted), count(Answer::is_held), count(Answer::is_missed));
        let otherwise = count(|answer| matches!(answer, Answer::Otherwise(_)));
        eprintln!(
            "storm: {admission:?}: {kills} kills; asked pods: {held} held, {missed} refused by the guard's rule, {otherwise} otherwise, \
             {unanswered} not answered, {admitted} admitted"
        );
        ensure!(admitted == 0, "{admitted} asked pods were admitted");
        let (as_wanted, not_wanted) = if admission == Admission::Hold { (held, missed) } else { (missed, held) };
        ensure!(as_wanted >= (kills + 1) * ENOUGH.0 && not_wanted == 0, "{held} held, {missed} refused");
        // What was on its way when the server died may have been stored without an answer.
        let pods: Api<Pod> = Api::namespaced(harness.admin.clone(), "asked");
        let stored = pods.list(&ListParams::default()).await?.items;
        let bare = stored.iter().filter(|pod| gates(pod) != [GATE]).count();
        ensure!(bare == 0, "{bare} of {} asked pods were stored without the gate", stored.len());
        ensure!(stored.len() >= held, "{held} were held, and {} are stored", stored.len());
        Ok(())
    }

    /// The writers do not wait until it says that it is ready: they have their answers before.
    fn a_server_that_starts_looks_at_asked_pods_first_of_all(&self, kills: &[Kill]) -> Result<()> {
        let tally = locked(&self.asked);
        for Kill { dead, ready } in kills {
            let next = tally.answers.iter().find(|(answered, _)| answered > dead).context("no answer after a start")?;
            let early = tally.answers.iter().filter(|(answered, _)| answered > dead && answered < ready).count();
            ensure!(early > 0, "nothing was answered before the server said that it is ready");
            eprintln!(
                "storm: ready {} ms after it was killed; {early} asked pods were answered before that, the first {} ms earlier",
                (*ready - *dead).as_millis(),
                ready.saturating_duration_since(next.0).as_millis(),
            );
        }
        Ok(())
    }

    fn no_other_pod_was_refused_but_by_a_server_that_starts(&self, kills: &[Kill]) -> Result<()> {
        let tally = locked(&self.unasked);
        for Kill { dead, .. } in kills {
            let of_this = tally.answers.iter().filter(|(answered, _)| answered > dead);
            let first = of_this.clone().find(|(_, answer)| matches!(answer, Answer::Admitted(..)));
            let first = first.context("no pod was admitted after a start")?.0;
            let before = of_this.take_while(|(answered, _)| *answered < first).count();
            eprintln!(
                "storm: the first pod that does not ask {} ms after the kill; {before} were refused before",
                (first - *dead).as_millis()
            );
        }
        let mut starting = false;
        let mut next = kills.iter().map(|kill| kill.dead).peekable();
        for (answered, answer) in &tally.answers {
            starting |= next.next_if(|dead| answered > dead).is_some();
            match answer {
                Answer::Admitted(..) => starting = false,
                Answer::Otherwise(words) if starting && words.contains("not yet ") => {}
                other => bail!("a pod that does not ask: {other:?}"),
            }
        }
        Ok(())
    }
}

fn locked(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
