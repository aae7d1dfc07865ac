use super::*;
use crate::decide::election::lease_record::LEASE_DURATION;

const NO_PAUSE: Duration = Duration::ZERO;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn second(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn holder(node: &str) -> LeaseHolder {
    LeaseHolder { name: node.to_owned(), detail: format!("linkerd-gate-{node}"), incarnation: "1".to_owned() }
}

/// No pause at all.
fn at_once(_: Pause) -> Duration {
    NO_PAUSE
}

/// One candidate and the Lease as an API server has it.
struct Model {
    elector: Elector,
    lease: Option<LeaseRecord>,
    version: u64,
}

impl Model {
    fn of(elector: Elector) -> Self {
        Self { elector, lease: None, version: 0 }
    }

    /// A candidate that leads since second 0, by an answer that came at once.
    fn leading() -> Self {
        let mut model = Self::of(Elector::new(holder("a")));
        model.observe(NO_PAUSE);
        let write = model.write(NO_PAUSE);
        model.answer(&write, NO_PAUSE);
        model.observe(NO_PAUSE);
        assert_eq!(model.step(NO_PAUSE), Step::Lead(Acquired::Vacant(VacancyReason::Absent)));
        model
    }

    fn step(&mut self, now: Duration) -> Step {
        self.elector.step(now, None, &mut at_once)
    }

    /// The step must be a write.
    fn write(&mut self, now: Duration) -> LeaseWrite {
        match self.step(now) {
            Step::Write(write) => {
                self.elector.sent(write.number, format!("{now:?}"));
                write
            }
            other => panic!("{other:?} at {now:?}"),
        }
    }

    /// The API server takes the write, of which the candidate does not know yet.
    fn take(&mut self, by: &LeaseHolder, renewed: &str) {
        self.version += 1;
        let resource_version = self.version.to_string();
        let record = LeaseRecord {
            resource_version,
            holder: Some(by.clone()),
            renewed: Some(renewed.to_owned()),
            ..LeaseRecord::default()
        };
        self.lease = Some(record);
    }

    /// The API server takes the write that was sent at `sent`, and its answer arrives at `now`.
    fn answer_late(&mut self, write: &LeaseWrite, sent: Duration, now: Duration) {
        self.take(&holder("a"), &format!("{sent:?}"));
        let record = self.lease.clone().expect("just written");
        self.elector.answered(write.number, Ok(record), now, &mut at_once);
    }

    fn answer(&mut self, write: &LeaseWrite, now: Duration) {
        self.answer_late(write, now, now);
    }

    fn observe(&mut self, now: Duration) {
        self.elector.observe(self.lease.as_ref(), now);
    }
}

#[test]
fn before_the_watch_shows_anything_it_only_waits() {
    let mut elector = Elector::new(holder("a"));
    assert_eq!(elector.step(second(99), None, &mut at_once), Step::Wait { until: None });
    assert_eq!(elector.held(), None);
}

#[test]
fn a_leader_renews_every_five_seconds_and_at_once_for_news() {
    let mut model = Model::leading();
    assert_eq!(model.step(NO_PAUSE), Step::Wait { until: Some(second(5)) });
    let soon = model.elector.step(second(1), Some(millis(1500)), &mut at_once);
    assert_eq!(soon, Step::Wait { until: Some(millis(1500)) });
    assert!(matches!(model.elector.step(second(1), Some(NO_PAUSE), &mut at_once), Step::Write(_)));
}

#[test]
fn leadership_counts_from_when_the_acquisition_was_sent() {
    let mut model = Model::of(Elector::new(holder("a")));
    model.observe(NO_PAUSE);
    let write = model.write(NO_PAUSE);
    model.answer_late(&write, NO_PAUSE, millis(2500));
    assert!(matches!(model.step(millis(2500)), Step::Lead(_)));
    assert_eq!(model.elector.renewed(), Some(NO_PAUSE));
    assert!(model.elector.leads(millis(9999)) && !model.elector.leads(second(10)));
    assert_eq!(model.step(millis(2500)), Step::Wait { until: Some(second(5)) }, "not seven seconds and a half");
}

#[test]
fn an_acquisition_that_is_answered_too_late_does_not_lead() {
    let mut model = Model::of(Elector::new(holder("a")));
    model.observe(NO_PAUSE);
    let write = model.write(NO_PAUSE);
    // The process was stopped: nothing was stepped meanwhile.
    model.answer_late(&write, NO_PAUSE, second(11));
    let again = model.write(second(11));
    assert_eq!(again.record.map(|record| record.resource_version), Some("1".to_owned()), "renewed first");
    assert!(!model.elector.leads(second(11)));
}

#[test]
fn a_write_that_hangs_does_not_cost_the_lease() {
    let mut model = Model::leading();
    let hanging = model.write(second(5));
    assert_eq!(model.step(millis(10_999)), Step::Wait { until: Some(second(11)) });
    assert!(!model.elector.leads(millis(10_999)), "it begins nothing before it is renewed");
    let second_try = model.write(second(11));
    model.answer_late(&second_try, second(11), millis(11_100));
    assert!(model.elector.leads(millis(20_999)));
    model.elector.answered(hanging.number, Err(WriteError::Failed("late".to_owned())), second(12), &mut at_once);
    assert!(model.elector.failure().is_none(), "an answer nobody waits for changes nothing");
}

#[test]
fn answers_that_take_five_seconds_do_not_cost_the_lease() {
    let mut model = Model::leading();
    for round in 1..9 {
        let write = model.write(second(round * 5));
        model.answer_late(&write, second(round * 5), second(round * 5 + 5));
    }
}

#[test]
fn a_leader_with_hung_writes_steps_down_when_the_lease_expires() {
    let mut model = Model::leading();
    model.write(second(5));
    model.write(second(11));
    assert_eq!(model.step(second(11)), Step::Wait { until: Some(second(15)) });
    assert!(matches!(model.step(second(15)), Step::StepDown(LossReason::Unrenewed { .. })));
}

#[test]
fn a_write_whose_answer_is_lost_counts_once_the_watch_shows_it() {
    let mut model = Model::leading();
    let hanging = model.write(second(5));
    model.take(&holder("a"), "5s");
    let second_try = model.write(second(11));
    assert_eq!(second_try.record, hanging.record);
    model.elector.answered(second_try.number, Err(WriteError::Conflict), second(12), &mut at_once);
    assert_eq!(model.step(second(12)), Step::Wait { until: Some(millis(13_500)) }, "until the watch shows why");
    model.observe(second(13));
    assert_eq!((model.elector.accepted(), model.elector.renewed()), (hanging.number, Some(second(5))));
    assert!(model.elector.leads(millis(14_999)));
    assert_eq!(model.write(second(13)).record, model.lease.clone());
}

#[test]
fn a_write_counts_once_the_watch_shows_it() {
    let mut model = Model::leading();
    let write = model.write(second(5));
    model.take(&holder("a"), "5s");
    model.observe(millis(5100));
    assert_eq!((model.elector.accepted(), model.elector.renewed()), (write.number, Some(second(5))));
    assert!(model.elector.is_writing(), "the answer may come yet");
    assert_eq!(model.write(second(11)).record, model.lease.clone(), "no conflict with what it wrote itself");
    assert!(model.elector.leads(millis(14_999)));
}

#[test]
fn a_renewal_answered_after_its_deadline_keeps_no_leader() {
    let mut model = Model::leading();
    let renewal = model.write(second(5));
    // Stopped until second 21, with the answer waiting.
    model.answer_late(&renewal, second(5), second(21));
    assert!(!model.elector.leads(second(21)));
    assert!(matches!(model.step(second(21)), Step::StepDown(LossReason::Unrenewed { .. })));
}

#[test]
fn a_leader_that_was_stopped_steps_down_before_it_writes() {
    let mut model = Model::leading();
    assert!(matches!(model.step(second(10)), Step::StepDown(LossReason::Unrenewed { .. })));
    assert!(!model.elector.leads(second(10)));
    // The Lease still names it: it renews first, and leads after the answer.
    let write = model.write(second(10));
    model.answer(&write, second(10));
    assert_eq!(model.step(second(10)), Step::Lead(Acquired::Again));
}

#[test]
fn a_leader_steps_down_when_another_holds_the_lease() {
    let mut model = Model::leading();
    model.take(&holder("b"), "elsewhere");
    model.observe(second(6));
    assert_eq!(model.step(second(6)), Step::StepDown(LossReason::To(holder("b"))));
    assert_eq!(model.step(second(6)), Step::Wait { until: Some(second(6) + LEASE_DURATION) });
    assert_eq!(model.elector.held(), None);
}

#[test]
fn what_others_write_to_the_lease_does_not_cost_a_conflict() {
    let mut model = Model::leading();
    model.take(&holder("a"), "0ns");
    model.observe(second(1));
    assert_eq!(model.write(second(5)).record, model.lease.clone());
}

#[test]
fn a_lease_that_is_deleted_under_its_leader_is_made_again() {
    let mut model = Model::leading();
    let write = model.write(second(5));
    model.lease = None;
    model.elector.answered(write.number, Err(WriteError::Conflict), second(5), &mut at_once);
    model.observe(second(6));
    assert_eq!(model.write(second(6)).record, None);
}

#[test]
fn a_free_lease_is_left_to_others_for_a_while() {
    let courtesy = |pause| if pause == Pause::Acquire { second(3) } else { NO_PAUSE };
    let mut elector = Elector::new(holder("a"));
    elector.observe(None, NO_PAUSE);
    assert_eq!(elector.step(NO_PAUSE, None, &mut { courtesy }), Step::Wait { until: Some(second(3)) });
    let other = LeaseRecord { holder: Some(holder("b")), renewed: Some("1".to_owned()), ..LeaseRecord::default() };
    elector.observe(Some(&other), second(1));
    assert_eq!(elector.step(second(3), None, &mut { courtesy }), Step::Wait { until: Some(second(16)) });
    assert_eq!(elector.step(second(16), None, &mut { courtesy }), Step::Wait { until: Some(second(19)) }, "anew");
    let earlier = LeaseRecord { holder: Some(LeaseHolder { incarnation: "0".to_owned(), ..holder("a") }), ..other };
    elector.observe(Some(&earlier), second(16));
    let mut new = Elector::new(holder("a"));
    new.observe(Some(&earlier), second(16));
    assert!(matches!(new.step(second(16), None, &mut { courtesy }), Step::Write(_)), "nobody else can know");
}

/// Two candidates, one API server, and everything that may go wrong between them. Time advances in steps of 100 ms.
mod two {
    use proptest::prelude::*;

    use super::*;

    /// What befalls one candidate for a while.
    #[derive(Clone, Copy, Debug)]
    enum Weather {
        Fair,
        /// Answers take so many steps.
        Slow(u8),
        /// Writes are taken, and never answered.
        Silent,
        /// The watch shows nothing.
        Blind,
        /// Neither writes nor watches arrive.
        CutOff,
        /// The process is stopped; what was sent arrives.
        Stopped,
        /// Its probes do not end; everything else goes on.
        ProbesHang,
    }

    struct Candidate {
        elector: Elector,
        /// Writes on their way: when they arrive, when their answer does.
        arriving: Vec<(u64, LeaseWrite, String, Option<u64>)>,
        answers: Vec<(u64, u64, Result<LeaseRecord, WriteError>)>,
        /// The last version that its watch showed; nothing before it showed any.
        shown: Option<u64>,
        /// By what it was told: what a role acts on.
        acts: bool,
    }

    fn weather() -> impl Strategy<Value = Weather> {
        prop_oneof![
            4 => Just(Weather::Fair),
            2 => (1..60u8).prop_map(Weather::Slow),
            1 => Just(Weather::Silent),
            2 => Just(Weather::Blind),
            1 => Just(Weather::CutOff),
            2 => Just(Weather::Stopped),
            1 => Just(Weather::ProbesHang),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

        #[test]
        fn never_lead_at_the_same_time(days in proptest::collection::vec((weather(), weather(), 1..900usize), 4..24)) {
            let mut lease: Option<LeaseRecord> = None;
            let mut version = 0u64;
            let mut candidates = ["a", "b"].map(|name| Candidate {
                elector: Elector::new(holder(name)),
                arriving: Vec::new(),
                answers: Vec::new(),
                shown: None,
                acts: false,
            });
            // In the end the sun shines: somebody leads then.
            let days = days.into_iter().chain([(Weather::Fair, Weather::Fair, 400)]);
            let steps = days.flat_map(|(one, other, steps)| std::iter::repeat_n((one, other), steps));
            for (tick, (one, other)) in steps.enumerate() {
                let (tick, now) = (tick as u64, millis(tick as u64 * 100));
                for (candidate, weather) in candidates.iter_mut().zip([one, other]) {
                    let due: Vec<_> = candidate.arriving.extract_if(.., |write| write.0 <= tick).collect();
                    for (_, write, renewed, answered) in due {
                        let expected = write.record.as_ref().map(|record| &record.resource_version);
                        let answer = if lease.as_ref().map(|record: &LeaseRecord| &record.resource_version) == expected {
                            version += 1;
                            let record = LeaseRecord {
                                resource_version: version.to_string(),
                                holder: Some(candidate.elector.me.clone()),
                                renewed: Some(renewed),
                                ..LeaseRecord::default()
                            };
                            lease = Some(record.clone());
                            Ok(record)
                        } else {
                            Err(WriteError::Conflict)
                        };
                        if let Some(at) = answered {
                            candidate.answers.push((at, write.number, answer));
                        }
                    }
                    if matches!(weather, Weather::Stopped) {
                        continue;
                    }
                    if !matches!(weather, Weather::CutOff) {
                        let due: Vec<_> = candidate.answers.extract_if(.., |answer| answer.0 <= tick).collect();
                        for (_, number, answer) in due {
                            candidate.elector.answered(number, answer, now, &mut |_| millis(500));
                        }
                        if !matches!(weather, Weather::Blind) && candidate.shown != Some(version) {
                            candidate.shown = Some(version);
                            candidate.elector.observe(lease.as_ref(), now);
                        }
                    }
                    if !matches!(weather, Weather::ProbesHang) {
                        candidate.elector.note_probes(now);
                    }
                    loop {
                        match candidate.elector.step(now, None, &mut |_| millis(500)) {
                            Step::Wait { .. } => break,
                            Step::Lead(_) => candidate.acts = true,
                            Step::StepDown(_) => candidate.acts = false,
                            Step::Write(write) => {
                                let renewed = format!("{} {tick}", candidate.elector.me);
                                candidate.elector.sent(write.number, renewed.clone());
                                let (arrives, answered) = match weather {
                                    Weather::Slow(steps) => (tick + u64::from(steps), Some(tick + 2 * u64::from(steps))),
                                    Weather::Silent => (tick + 1, None),
                                    Weather::CutOff => continue,
                                    Weather::Fair | Weather::Blind | Weather::Stopped | Weather::ProbesHang => (tick + 1, Some(tick + 2)),
                                };
                                candidate.arriving.push((arrives, write, renewed, answered));
                            }
                        }
                    }
                    prop_assert!(candidate.acts || !candidate.elector.leads(now), "leads before it was told");
                }
                let leading = candidates.iter().filter(|candidate| candidate.elector.leads(now)).count();
                prop_assert!(leading < 2, "both lead at {now:?}");
            }
            prop_assert!(candidates.iter().any(|candidate| candidate.acts), "nobody leads in the end");
        }
    }
}

/// Renews every five seconds from `from` on, and returns the first other step before `until`.
fn renewing(model: &mut Model, from: u64, until: u64) -> Option<(Duration, Step)> {
    for now in (from..until).map(second) {
        match model.step(now) {
            Step::Write(write) => {
                model.elector.sent(write.number, format!("{now:?}"));
                model.answer(&write, now);
                model.observe(now);
            }
            Step::Wait { .. } => {}
            other => return Some((now, other)),
        }
    }
    None
}

#[test]
fn a_leader_whose_probes_hang_steps_down_though_it_renews() {
    let mut model = Model::leading();
    model.elector.note_probes(second(24));
    let (at, step) = renewing(&mut model, 1, 300).expect("it renews an old verdict for ever");
    let since = PROBE_DEADLINE;
    assert_eq!((at, step), (second(24) + since, Step::StepDown(LossReason::ProbesHang { since })));
    assert!(!model.elector.leads(at));
    assert!(model.elector.held().is_some(), "it is to be given up");
}

#[test]
fn a_leader_that_never_probed_steps_down_too() {
    let mut model = Model::leading();
    assert_eq!(renewing(&mut model, 1, 300).expect("it leads for ever").0, PROBE_DEADLINE);
}

#[test]
fn a_leader_whose_probes_end_keeps_the_lease() {
    let mut model = Model::leading();
    for round in 1..20 {
        let from = (round - 1) * 20 + 1;
        assert_eq!(renewing(&mut model, from, from + 20), None);
        model.elector.note_probes(second(round * 20 + 24));
    }
}

#[test]
fn a_leader_that_stepped_down_lets_others_take_the_lease_first() {
    let mut model = Model::leading();
    let (at, _) = renewing(&mut model, 1, 300).expect("it leads for ever");
    // It was given up; and where that failed, it is still ours.
    let mut failed = Model { elector: model.elector.clone(), lease: model.lease.clone(), version: model.version };
    model.lease = model.lease.map(|lease| LeaseRecord { holder: None, ..lease });
    for model in [&mut model, &mut failed] {
        model.observe(at);
        assert_eq!(model.step(at), Step::Wait { until: Some(at + STAND_BACK) });
        assert!(matches!(model.step(at + STAND_BACK), Step::Write(_)), "nobody else took it");
    }
    const { assert!(STAND_BACK.as_secs() > LEASE_DURATION.as_secs()) };
}
