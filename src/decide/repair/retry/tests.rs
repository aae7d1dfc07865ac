//! Who is retried, how many at a time, and that everybody is in the end.

use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const GUARD: &str = "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'linkerd-gate-guard' with binding 'linkerd-gate-guard' denied request";
const WEBHOOK: &str = "failed calling webhook \"linkerd-proxy-injector.linkerd.io\": connection refused";
const QUOTA: &str = "pods \"a\" is forbidden: exceeded quota: small";

/// Owners as a controller sees them, and what Events tell of them.
#[derive(Default)]
struct Model {
    replica_sets: BTreeMap<String, OwnerView>,
    stateful_sets: BTreeMap<String, OwnerView>,
    daemon_sets: BTreeMap<String, OwnerView>,
    replication_controllers: BTreeMap<String, OwnerView>,
    jobs: BTreeMap<String, OwnerView>,
    refusals: RefusedCreates,
    retries: OwnerRetries,
    now: Duration,
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "namespace": "shop", "uid": format!("uid of {name}")})
}

fn replica_set(name: &str, has: usize, failure: Option<&str>) -> OwnerView {
    let conditions: Vec<Value> = failure
        .map(|message| json!({"type": "ReplicaFailure", "status": "True", "message": message}))
        .into_iter()
        .collect();
    let status = json!({"replicas": has, "conditions": conditions});
    let set: ReplicaSet =
        serde_json::from_value(json!({"metadata": metadata(name), "spec": {"replicas": 3}, "status": status})).unwrap();
    OwnerView::of_replica_set(&set)
}

fn stateful_set(name: &str, has: usize) -> OwnerView {
    let set: StatefulSet = serde_json::from_value(
        json!({"metadata": metadata(name), "spec": {"replicas": 3}, "status": {"replicas": has}}),
    )
    .unwrap();
    OwnerView::of_stateful_set(&set)
}

fn daemon_set(name: &str, has: usize) -> OwnerView {
    let status = json!({"currentNumberScheduled": has, "desiredNumberScheduled": 3});
    let set: DaemonSet = serde_json::from_value(json!({"metadata": metadata(name), "status": status})).unwrap();
    OwnerView::of_daemon_set(&set)
}

fn job(name: &str, has: usize) -> OwnerView {
    let spec = json!({"parallelism": 3, "completions": 3});
    let job: Job =
        serde_json::from_value(json!({"metadata": metadata(name), "spec": spec, "status": {"active": has}})).unwrap();
    OwnerView::of_job(&job)
}

impl Model {
    fn owner(&mut self, view: OwnerView) -> &mut Self {
        let all = match view.reference.kind {
            Kind::ReplicaSet => &mut self.replica_sets,
            Kind::StatefulSet => &mut self.stateful_sets,
            Kind::DaemonSet => &mut self.daemon_sets,
            Kind::ReplicationController => &mut self.replication_controllers,
            Kind::Job => &mut self.jobs,
            Kind::Other(_) => panic!("no owner that anybody watches"),
        };
        all.insert(format!("shop/{}", view.reference.name), view);
        self
    }

    /// An Event says that this owner was refused.
    fn refused(&mut self, view: &OwnerView, stamp: &str) -> &mut Self {
        self.refused_in("shop", view.reference.clone(), stamp).owner(view.clone())
    }

    /// An Event in this namespace says that this was refused.
    fn refused_in(&mut self, namespace: &str, owner: OwnerReference, stamp: &str) -> &mut Self {
        self.refusals.insert(RefusedCreate { namespace: namespace.to_owned(), owner, stamp: stamp.to_owned() });
        self
    }

    /// Injection is proven by evidence that is newer than anything that was seen, or not at all.
    fn step(&mut self, proven: bool) -> (Vec<OwnerRetry>, Option<Duration>) {
        self.step_proven_at(proven.then_some(self.now + Duration::from_nanos(1)))
    }

    fn step_proven_at(&mut self, proven: Option<Duration>) -> (Vec<OwnerRetry>, Option<Duration>) {
        let owners = Owners {
            replica_sets: &self.replica_sets,
            stateful_sets: &self.stateful_sets,
            daemon_sets: &self.daemon_sets,
            replication_controllers: &self.replication_controllers,
            jobs: &self.jobs,
        };
        let (retries, again) = self.retries.step(&owners, &self.refusals, proven, self.now);
        assert!(again.is_none_or(|again| again > self.now), "a busy loop: {again:?} at {:?}", self.now);
        (retries, again)
    }

    /// Who is retried now.
    fn retried(&mut self) -> Vec<String> {
        let (retries, _) = self.step(true);
        for retry in &retries {
            self.retries.sent(retry, &self.refusals, self.now);
        }
        retries.into_iter().map(|retry| retry.owner.name).collect()
    }

    fn after(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self
    }
}

/// So many ReplicaSets whose creates were refused.
fn many(count: usize) -> Model {
    let mut model = Model::default();
    for place in 0..count {
        model.owner(replica_set(&format!("web{place:03}"), 0, Some(GUARD)));
    }
    model
}

#[test]
fn only_refusals_by_the_guard_or_the_injector_webhook_are_ours() {
    assert!(is_ours(GUARD) && is_ours(WEBHOOK) && !is_ours(QUOTA) && !is_ours(""));
    assert!(!is_ours("ValidatingAdmissionPolicy 'linkerd-gate-of-somebody-else' denied request"));
}

#[test]
fn only_refused_owners_of_the_four_kinds_are_retried() {
    let mut model = Model::default();
    model.owner(replica_set("guarded", 0, Some(GUARD))).owner(replica_set("failed", 0, Some(WEBHOOK)));
    model.owner(replica_set("short", 0, Some(QUOTA))).owner(replica_set("slow", 1, None));
    model.refused(&stateful_set("db", 0), "1").refused(&daemon_set("log", 0), "1").refused(&job("report", 0), "1");
    model.owner(stateful_set("calm", 0)).owner(daemon_set("quiet", 0)).owner(job("idle", 0));
    // The condition is a ReplicaSet's state: an Event may be older than its last success.
    model.refused(&replica_set("old", 1, None), "1");
    let controller = OwnerView {
        reference: OwnerReference { kind: Kind::ReplicationController, ..stateful_set("rc", 0).reference },
        ..stateful_set("rc", 0)
    };
    model.refused(&controller, "1");
    let going = OwnerView { deleting: true, ..stateful_set("going", 0) };
    model.refused(&going, "1").refused(&stateful_set("full", 3), "1").owner(replica_set("full", 3, Some(GUARD)));
    assert_eq!(model.retried(), ["failed", "guarded", "db", "log", "report"]);
    assert_eq!(model.retries.under_way(), 5);
    assert!(model.retried().is_empty());
}

#[test]
fn no_owner_is_retried_while_injection_is_not_proven() {
    let mut model = many(3);
    assert_eq!(model.step(false), (Vec::new(), None));
    assert_eq!(model.retried().len(), 3);
}

#[test]
fn retries_are_limited_by_a_window_that_grows_with_successes() {
    let mut model = many(40);
    assert_eq!(model.retried().len(), 10);
    assert!(model.retried().is_empty());
    (0..4).for_each(|place| {
        model.owner(replica_set(&format!("web{place:03}"), 3, None));
    });
    assert_eq!(model.retried().len(), 12);
    assert_eq!((model.retries.window(), model.retries.under_way()), (18, 18));
}

#[test]
fn the_window_is_halved_once_for_owners_retried_together() {
    let mut model = Model::default();
    let sets: Vec<OwnerView> = (0..20).map(|place| daemon_set(&format!("log{place:02}"), 0)).collect();
    for set in &sets {
        model.refused(set, "1");
    }
    assert_eq!(model.retried().len(), 10);
    for (place, set) in sets.iter().take(5).enumerate() {
        model.after(1).refused(set, "2").retried();
        assert_eq!(model.retries.window(), 5, "{place}");
    }
    // One that was retried after that is another matter.
    assert_eq!(model.retries.under_way(), 5);
    model.refused(&sets[5], "2").refused(&sets[6], "2");
    assert_eq!(model.after(1).retried(), ["log10", "log11"]);
    model.after(1).refused(&sets[10], "2").retried();
    assert_eq!(model.retries.window(), 2);
}

#[test]
fn an_event_with_anothers_uid_triggers_no_retry() {
    let mut model = Model::default();
    let (set, other) = (stateful_set("db", 0), daemon_set("log", 0));
    model.owner(set.clone()).owner(other.clone());
    let named = |kind: Kind, name: &str| OwnerReference { kind, name: name.to_owned(), uid: set.reference.uid.clone() };
    // In the attacker's own namespace, or of another kind or name: of all of it nothing is this owner.
    model.refused_in("attackers", set.reference.clone(), "90");
    model.refused_in("shop", named(Kind::Job, "db"), "91").refused_in("shop", named(Kind::StatefulSet, "x"), "92");
    assert_eq!(model.retried(), [""; 0]);
    // Nor do they hide what is.
    assert_eq!(model.refused(&set, "3").retried(), ["db"]);
    // Nor does one tell that it was refused again, which would make all others wait for another proof.
    model.after(1).refused_in("attackers", set.reference.clone(), "99").refused(&other, "4");
    assert_eq!((model.retried(), model.retries.refused_again_at()), (vec!["log".to_owned()], None));
}

#[test]
fn after_a_second_refusal_the_others_wait_for_a_new_proof() {
    let mut model = Model::default();
    let sets: Vec<OwnerView> = (0..20).map(|place| daemon_set(&format!("log{place:02}"), 0)).collect();
    for set in &sets {
        model.refused(set, "1");
    }
    let proven = model.now;
    assert_eq!(model.retried().len(), 10);
    model.after(1).refused(&sets[0], "2");
    for set in &sets[1..10] {
        model.owner(daemon_set(&set.reference.name, 3));
    }
    assert!(model.step_proven_at(Some(proven)).0.is_empty());
    let refused = model.now;
    assert_eq!(model.retries.refused_again_at(), Some(refused));
    assert!(model.after(10).step_proven_at(Some(refused)).0.is_empty());
    // What is learnt is kept, unlike in an outage: the window was halved, and who was refused comes last.
    let (retries, _) = model.step_proven_at(Some(refused + Duration::from_secs(1)));
    let names: Vec<&str> = retries.iter().map(|retry| retry.owner.name.as_str()).collect();
    assert_eq!(names, ["log10", "log11", "log12", "log13", "log14"]);
}

#[test]
fn a_refused_owners_pause_doubles_up_to_two_minutes() {
    let mut model = Model::default();
    let db = stateful_set("db", 0);
    model.refused(&db, "0");
    for (time, pause) in [5, 10, 20, 40, 80, 120, 120].into_iter().enumerate() {
        assert_eq!(model.retried(), ["db"], "{time}");
        assert!(model.after(1).refused(&db, &format!("{}", time + 1)).retried().is_empty());
        let (_, again) = model.step(true);
        assert_eq!(again, Some(model.now + Duration::from_secs(pause)));
        assert!(model.after(pause - 1).retried().is_empty());
        model.after(1);
    }
    assert_eq!(model.retries.window(), 1);
}

#[test]
fn an_owner_without_progress_times_out_and_halves_the_window() {
    let mut model = many(1);
    assert_eq!(model.retried().len(), 1);
    assert_eq!(model.step(true).1, Some(model.now + Duration::from_secs(10)));
    assert!(model.after(9).retried().is_empty() && model.retries.under_way() == 1);
    assert!(model.after(1).retried().is_empty() && model.retries.under_way() == 0);
    assert_eq!(model.retries.window(), 5);
    assert_eq!(model.after(5).retried().len(), 1);
    model.after(10).retried();
    assert_eq!(model.retries.window(), 5);
}

#[test]
fn what_was_made_up_for_is_over_and_the_next_refusal_is_another() {
    let mut model = Model::default();
    model.refused(&stateful_set("db", 0), "1");
    assert_eq!(model.retried(), ["db"]);
    // Its next pod waits for this one to be ready, which is none of our concern.
    model.after(1).owner(stateful_set("db", 1));
    assert!(model.retried().is_empty() && model.retries.under_way() == 0);
    assert!(model.after(600).retried().is_empty());
    model.refused(&stateful_set("db", 1), "2");
    assert_eq!(model.retried(), ["db"]);
}

#[test]
fn an_owner_that_recovers_by_itself_is_not_retried() {
    let mut model = Model::default();
    model.refused(&stateful_set("db", 0), "1").step(false);
    model.owner(stateful_set("db", 1)).step(false);
    assert!(model.retried().is_empty());
    // It had all it wanted, and was scaled up since: the refusal is of before.
    model.refused(&daemon_set("log", 3), "1").step(true);
    assert!(model.owner(daemon_set("log", 2)).retried().is_empty());
}

#[test]
fn an_owner_of_many_pods_stays_in_flight_while_it_progresses() {
    let mut model = Model::default();
    model.owner(replica_set("web", 0, Some(GUARD)));
    assert_eq!(model.retried(), ["web"]);
    assert!(model.after(9).owner(replica_set("web", 1, Some(GUARD))).retried().is_empty(), "it goes on by itself");
    model.after(9).retried();
    assert_eq!((model.retries.under_way(), model.retries.window()), (1, 10));
    model.after(1).retried();
    assert_eq!((model.retries.under_way(), model.retries.window()), (0, 5));
}

#[test]
fn what_an_outage_explains_costs_no_pause_and_no_window() {
    let mut model = Model::default();
    let sets: Vec<OwnerView> = (0..20).map(|place| daemon_set(&format!("log{place:02}"), 0)).collect();
    for set in &sets {
        model.refused(set, "1");
    }
    for round in 0..6 {
        assert_eq!(model.retried().len(), 10, "{round}");
        for set in &sets {
            model.refused(set, &format!("{}", round + 2));
        }
        model.after(1).step(true);
        assert_eq!((model.retries.window(), model.retries.under_way()), (5, 0));
        // The pauses would be longer.
        model.after(1).step(false);
    }
}

#[test]
fn a_retry_that_failed_to_send_is_repeated_later() {
    let mut model = many(20);
    let (retries, _) = model.step(true);
    model.retries.failed(&retries[0], model.now);
    assert_eq!((model.retries.window(), model.retries.under_way()), (5, 0));
    assert!(!model.retried().contains(&retries[0].owner.name));
    (0..20).filter(|place| *place != 0).for_each(|place| {
        model.owner(replica_set(&format!("web{place:03}"), 3, None));
    });
    assert!(model.retried().is_empty());
    assert_eq!(model.after(5).retried(), ["web000"]);
}

#[test]
fn those_that_are_refused_for_ever_do_not_take_the_others_turn() {
    let mut model = Model::default();
    let hopeless: Vec<OwnerView> = (0..50).map(|place| daemon_set(&format!("a{place:02}"), 0)).collect();
    for set in &hopeless {
        model.refused(set, "0");
    }
    let last = job("z", 0);
    model.refused(&last, "0");
    for round in 1..100 {
        let retried = model.retried();
        if retried.contains(&"z".to_owned()) {
            assert!(round <= 51, "everybody once, even one at a time: {round}");
            return;
        }
        hopeless.iter().filter(|set| retried.contains(&set.reference.name)).for_each(|set| {
            model.refused(set, &format!("{round}"));
        });
        model.after(1);
    }
    panic!("never");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// An injector that bears so many creates at a time and refuses all beyond; owners of several pods, which retry by
    /// themselves as good as never.
    #[test]
    fn all_owners_recover_and_the_window_fits_the_injectors_limit(
        count in 1_usize..60,
        bears in 1_usize..40,
        takes in 1_u64..4,
        seed in any::<u64>(),
    ) {
        let mut model = Model::default();
        let mut left = Vec::new();
        for place in 0..count {
            let name = format!("o{place:03}");
            let set = match place % 3 {
                0 => daemon_set(&name, 0),
                1 => job(&name, 0),
                _ => stateful_set(&name, 0),
            };
            model.refused(&set, "0");
            left.push((name, set.reference.uid));
        }
        // Creates that run: whose, and when they end.
        let mut running: Vec<(usize, Duration, bool)> = Vec::new();
        let mut refusals = 0_usize;
        let mut made_up: Vec<String> = Vec::new();
        for second in 0..2_000 {
            let (ended, still): (Vec<_>, Vec<_>) = running.into_iter().partition(|(_, ends, _)| *ends <= model.now);
            running = still;
            for (place, _, admitted) in ended {
                let name = &left[place].0;
                let done = |has| match place % 3 {
                    0 => daemon_set(name, has),
                    1 => job(name, has),
                    _ => stateful_set(name, has.min(1)),
                };
                if admitted {
                    model.owner(done(3));
                    made_up.push(name.clone());
                } else {
                    refusals += 1;
                    model.refused(&done(0), &format!("{refusals}"));
                }
            }
            let before = model.retries.under_way();
            let retried = model.retried();
            if !retried.is_empty() {
                prop_assert!(model.retries.under_way() <= model.retries.window().max(before), "more than the window");
            }
            for name in retried {
                prop_assert!(!made_up.contains(&name), "{} has made up for it", name);
                let place: usize = name[1..].parse().unwrap();
                let admitted = running.len() < bears;
                // Refusals come at once, successes take their time; which differs a little.
                let pause = if admitted { takes + (seed >> (place % 60)) % 2 } else { 1 };
                running.push((place, model.now + Duration::from_secs(pause), admitted));
            }
            model.after(1);
            if made_up.len() == count {
                prop_assert!(refusals <= 4 * count + 20, "{} refusals of {} owners", refusals, count);
                prop_assert!(second <= 60 + 6 * u64::try_from(count * 2 / bears).unwrap() * takes, "{} s", second);
                return Ok(());
            }
        }
        prop_assert!(false, "{} of {} recovered", made_up.len(), count);
    }
}
