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
struct Scene {
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

impl Scene {
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
fn many(count: usize) -> Scene {
    let mut scene = Scene::default();
    for place in 0..count {
        scene.owner(replica_set(&format!("web{place:03}"), 0, Some(GUARD)));
    }
    scene
}

#[test]
fn a_refusal_is_ours_where_the_guard_or_the_injectors_webhook_refused() {
    assert!(is_ours(GUARD) && is_ours(WEBHOOK) && !is_ours(QUOTA) && !is_ours(""));
    assert!(!is_ours("ValidatingAdmissionPolicy 'linkerd-gate-of-somebody-else' denied request"));
}

#[test]
fn all_four_kinds_are_nudged_where_they_were_refused_and_nothing_else_is() {
    let mut scene = Scene::default();
    scene.owner(replica_set("guarded", 0, Some(GUARD))).owner(replica_set("failed", 0, Some(WEBHOOK)));
    scene.owner(replica_set("short", 0, Some(QUOTA))).owner(replica_set("slow", 1, None));
    scene.refused(&stateful_set("db", 0), "1").refused(&daemon_set("log", 0), "1").refused(&job("report", 0), "1");
    scene.owner(stateful_set("calm", 0)).owner(daemon_set("quiet", 0)).owner(job("idle", 0));
    // The condition is a ReplicaSet's state: an Event may be older than its last success.
    scene.refused(&replica_set("old", 1, None), "1");
    let controller = OwnerView {
        reference: OwnerReference { kind: Kind::ReplicationController, ..stateful_set("rc", 0).reference },
        ..stateful_set("rc", 0)
    };
    scene.refused(&controller, "1");
    let going = OwnerView { deleting: true, ..stateful_set("going", 0) };
    scene.refused(&going, "1").refused(&stateful_set("full", 3), "1").owner(replica_set("full", 3, Some(GUARD)));
    assert_eq!(scene.retried(), ["failed", "guarded", "db", "log", "report"]);
    assert_eq!(scene.retries.under_way(), 5);
    assert!(scene.retried().is_empty());
}

#[test]
fn nobody_is_nudged_while_injection_is_not_proven() {
    let mut scene = many(3);
    assert_eq!(scene.step(false), (Vec::new(), None));
    assert_eq!(scene.retried().len(), 3);
}

#[test]
fn a_window_of_them_is_under_way_at_a_time_and_grows_with_each_that_succeeds() {
    let mut scene = many(40);
    assert_eq!(scene.retried().len(), 10);
    assert!(scene.retried().is_empty());
    (0..4).for_each(|place| {
        scene.owner(replica_set(&format!("web{place:03}"), 3, None));
    });
    assert_eq!(scene.retried().len(), 12);
    assert_eq!((scene.retries.window(), scene.retries.under_way()), (18, 18));
}

#[test]
fn the_window_is_halved_once_for_all_that_were_nudged_together() {
    let mut scene = Scene::default();
    let sets: Vec<OwnerView> = (0..20).map(|place| daemon_set(&format!("log{place:02}"), 0)).collect();
    for set in &sets {
        scene.refused(set, "1");
    }
    assert_eq!(scene.retried().len(), 10);
    for (place, set) in sets.iter().take(5).enumerate() {
        scene.after(1).refused(set, "2").retried();
        assert_eq!(scene.retries.window(), 5, "{place}");
    }
    // One that was retried after that is another matter.
    assert_eq!(scene.retries.under_way(), 5);
    scene.refused(&sets[5], "2").refused(&sets[6], "2");
    assert_eq!(scene.after(1).retried(), ["log10", "log11"]);
    scene.after(1).refused(&sets[10], "2").retried();
    assert_eq!(scene.retries.window(), 2);
}

#[test]
fn an_event_that_names_anothers_uid_makes_nobody_try_again() {
    let mut scene = Scene::default();
    let (set, other) = (stateful_set("db", 0), daemon_set("log", 0));
    scene.owner(set.clone()).owner(other.clone());
    let named = |kind: Kind, name: &str| OwnerReference { kind, name: name.to_owned(), uid: set.reference.uid.clone() };
    // In the attacker's own namespace, or of another kind or name: of all of it nothing is this owner.
    scene.refused_in("attackers", set.reference.clone(), "90");
    scene.refused_in("shop", named(Kind::Job, "db"), "91").refused_in("shop", named(Kind::StatefulSet, "x"), "92");
    assert_eq!(scene.retried(), [""; 0]);
    // Nor do they hide what is.
    assert_eq!(scene.refused(&set, "3").retried(), ["db"]);
    // Nor does one tell that it was refused again, which would make all others wait for another proof.
    scene.after(1).refused_in("attackers", set.reference.clone(), "99").refused(&other, "4");
    assert_eq!((scene.retried(), scene.retries.refused_again_at()), (vec!["log".to_owned()], None));
}

#[test]
fn once_one_is_refused_again_the_others_wait_for_a_proof_from_then() {
    let mut scene = Scene::default();
    let sets: Vec<OwnerView> = (0..20).map(|place| daemon_set(&format!("log{place:02}"), 0)).collect();
    for set in &sets {
        scene.refused(set, "1");
    }
    let proven = scene.now;
    assert_eq!(scene.retried().len(), 10);
    scene.after(1).refused(&sets[0], "2");
    for set in &sets[1..10] {
        scene.owner(daemon_set(&set.reference.name, 3));
    }
    assert!(scene.step_proven_at(Some(proven)).0.is_empty());
    let refused = scene.now;
    assert_eq!(scene.retries.refused_again_at(), Some(refused));
    assert!(scene.after(10).step_proven_at(Some(refused)).0.is_empty());
    // What is learnt is kept, unlike in an outage: the window was halved, and who was refused comes last.
    let (retries, _) = scene.step_proven_at(Some(refused + Duration::from_secs(1)));
    let names: Vec<&str> = retries.iter().map(|retry| retry.owner.name.as_str()).collect();
    assert_eq!(names, ["log10", "log11", "log12", "log13", "log14"]);
}

#[test]
fn who_is_refused_again_pauses_twice_as_long_each_time_up_to_two_minutes() {
    let mut scene = Scene::default();
    let db = stateful_set("db", 0);
    scene.refused(&db, "0");
    for (time, pause) in [5, 10, 20, 40, 80, 120, 120].into_iter().enumerate() {
        assert_eq!(scene.retried(), ["db"], "{time}");
        assert!(scene.after(1).refused(&db, &format!("{}", time + 1)).retried().is_empty());
        let (_, again) = scene.step(true);
        assert_eq!(again, Some(scene.now + Duration::from_secs(pause)));
        assert!(scene.after(pause - 1).retried().is_empty());
        scene.after(1);
    }
    assert_eq!(scene.retries.window(), 1);
}

#[test]
fn who_shows_nothing_is_under_way_for_ten_seconds_and_narrows_the_window_once() {
    let mut scene = many(1);
    assert_eq!(scene.retried().len(), 1);
    assert_eq!(scene.step(true).1, Some(scene.now + Duration::from_secs(10)));
    assert!(scene.after(9).retried().is_empty() && scene.retries.under_way() == 1);
    assert!(scene.after(1).retried().is_empty() && scene.retries.under_way() == 0);
    assert_eq!(scene.retries.window(), 5);
    assert_eq!(scene.after(5).retried().len(), 1);
    scene.after(10).retried();
    assert_eq!(scene.retries.window(), 5);
}

#[test]
fn what_was_made_up_for_is_over_and_the_next_refusal_is_another() {
    let mut scene = Scene::default();
    scene.refused(&stateful_set("db", 0), "1");
    assert_eq!(scene.retried(), ["db"]);
    // Its next pod waits for this one to be ready, which is none of our concern.
    scene.after(1).owner(stateful_set("db", 1));
    assert!(scene.retried().is_empty() && scene.retries.under_way() == 0);
    assert!(scene.after(600).retried().is_empty());
    scene.refused(&stateful_set("db", 1), "2");
    assert_eq!(scene.retried(), ["db"]);
}

#[test]
fn an_owner_that_goes_on_by_itself_is_not_nudged() {
    let mut scene = Scene::default();
    scene.refused(&stateful_set("db", 0), "1").step(false);
    scene.owner(stateful_set("db", 1)).step(false);
    assert!(scene.retried().is_empty());
    // It had all it wanted, and was scaled up since: the refusal is of before.
    scene.refused(&daemon_set("log", 3), "1").step(true);
    assert!(scene.owner(daemon_set("log", 2)).retried().is_empty());
}

#[test]
fn an_owner_of_many_pods_is_under_way_as_long_as_it_gets_somewhere() {
    let mut scene = Scene::default();
    scene.owner(replica_set("web", 0, Some(GUARD)));
    assert_eq!(scene.retried(), ["web"]);
    scene.after(9).owner(replica_set("web", 1, Some(GUARD))).retried();
    scene.after(9).retried();
    assert_eq!((scene.retries.under_way(), scene.retries.window()), (1, 10));
    scene.after(1).retried();
    assert_eq!((scene.retries.under_way(), scene.retries.window()), (0, 5));
}

#[test]
fn what_an_outage_explains_costs_no_pause_and_no_window() {
    let mut scene = Scene::default();
    let sets: Vec<OwnerView> = (0..20).map(|place| daemon_set(&format!("log{place:02}"), 0)).collect();
    for set in &sets {
        scene.refused(set, "1");
    }
    for round in 0..6 {
        assert_eq!(scene.retried().len(), 10, "{round}");
        for set in &sets {
            scene.refused(set, &format!("{}", round + 2));
        }
        scene.after(1).step(true);
        assert_eq!((scene.retries.window(), scene.retries.under_way()), (5, 0));
        // The pauses would be longer.
        scene.after(1).step(false);
    }
}

#[test]
fn a_nudge_that_could_not_be_sent_is_tried_again_later() {
    let mut scene = many(20);
    let (retries, _) = scene.step(true);
    scene.retries.failed(&retries[0], scene.now);
    assert_eq!((scene.retries.window(), scene.retries.under_way()), (5, 0));
    assert!(!scene.retried().contains(&retries[0].owner.name));
    (0..20).filter(|place| *place != 0).for_each(|place| {
        scene.owner(replica_set(&format!("web{place:03}"), 3, None));
    });
    assert!(scene.retried().is_empty());
    assert_eq!(scene.after(5).retried(), ["web000"]);
}

#[test]
fn those_that_are_refused_for_ever_do_not_take_the_others_turn() {
    let mut scene = Scene::default();
    let hopeless: Vec<OwnerView> = (0..50).map(|place| daemon_set(&format!("a{place:02}"), 0)).collect();
    for set in &hopeless {
        scene.refused(set, "0");
    }
    let last = job("z", 0);
    scene.refused(&last, "0");
    for round in 1..100 {
        let retried = scene.retried();
        if retried.contains(&"z".to_owned()) {
            assert!(round <= 51, "everybody once, even one at a time: {round}");
            return;
        }
        hopeless.iter().filter(|set| retried.contains(&set.reference.name)).for_each(|set| {
            scene.refused(set, &format!("{round}"));
        });
        scene.after(1);
    }
    panic!("never");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// An injector that bears so many creates at a time and refuses all beyond; owners of several pods, which retry by
    /// themselves as good as never.
    #[test]
    fn everybody_recovers_and_the_window_settles_at_what_the_injector_bears(
        count in 1_usize..60,
        bears in 1_usize..40,
        takes in 1_u64..4,
        seed in any::<u64>(),
    ) {
        let mut scene = Scene::default();
        let mut left = Vec::new();
        for place in 0..count {
            let name = format!("o{place:03}");
            let set = match place % 3 {
                0 => daemon_set(&name, 0),
                1 => job(&name, 0),
                _ => stateful_set(&name, 0),
            };
            scene.refused(&set, "0");
            left.push((name, set.reference.uid));
        }
        // Creates that run: whose, and when they end.
        let mut running: Vec<(usize, Duration, bool)> = Vec::new();
        let mut refusals = 0_usize;
        let mut made_up: Vec<String> = Vec::new();
        for second in 0..2_000 {
            let (ended, still): (Vec<_>, Vec<_>) = running.into_iter().partition(|(_, ends, _)| *ends <= scene.now);
            running = still;
            for (place, _, admitted) in ended {
                let name = &left[place].0;
                let done = |has| match place % 3 {
                    0 => daemon_set(name, has),
                    1 => job(name, has),
                    _ => stateful_set(name, has.min(1)),
                };
                if admitted {
                    scene.owner(done(3));
                    made_up.push(name.clone());
                } else {
                    refusals += 1;
                    scene.refused(&done(0), &format!("{refusals}"));
                }
            }
            let before = scene.retries.under_way();
            let retried = scene.retried();
            if !retried.is_empty() {
                prop_assert!(scene.retries.under_way() <= scene.retries.window().max(before), "more than the window");
            }
            for name in retried {
                prop_assert!(!made_up.contains(&name), "{} has made up for it", name);
                let place: usize = name[1..].parse().unwrap();
                let admitted = running.len() < bears;
                // Refusals come at once, successes take their time; which differs a little.
                let pause = if admitted { takes + (seed >> (place % 60)) % 2 } else { 1 };
                running.push((place, scene.now + Duration::from_secs(pause), admitted));
            }
            scene.after(1);
            if made_up.len() == count {
                prop_assert!(refusals <= 4 * count + 20, "{} refusals of {} owners", refusals, count);
                prop_assert!(second <= 60 + 6 * u64::try_from(count * 2 / bears).unwrap() * takes, "{} s", second);
                return Ok(());
            }
        }
        prop_assert!(false, "{} of {} recovered", made_up.len(), count);
    }
}
