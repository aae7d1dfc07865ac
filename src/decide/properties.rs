//! What holds for every story, not only for those somebody thought of.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::subsequence;

use super::readiness::gate::ClosedReason;
use super::{Basis, Evidence, Gate, LinkerdInstallation, Policy, Probe, ProbeResult, Transition, Verdict};

fn outcome() -> impl Strategy<Value = ProbeResult> {
    // Ready is drawn more often, so that runs of proofs are found at all.
    prop_oneof![
        8 => Just(ProbeResult::Ready),
        1 => "[ab]".prop_map(ProbeResult::not_ready),
        1 => "[ab]".prop_map(ProbeResult::unknown),
    ]
}

fn unready() -> impl Strategy<Value = ProbeResult> {
    prop_oneof!["[ab]".prop_map(ProbeResult::not_ready), "[ab]".prop_map(ProbeResult::unknown)]
}

fn installation() -> impl Strategy<Value = LinkerdInstallation> {
    prop_oneof![
        4 => Just(LinkerdInstallation::Unseen),
        4 => Just(LinkerdInstallation::Present),
        1 => Just(LinkerdInstallation::Absent),
    ]
}

prop_compose! {
    fn policy()(
        required in subsequence(Probe::ALL.to_vec(), 1..=Probe::ALL.len()),
        proofs in 1u32..5,
        settling in 0u64..8,
    ) -> Policy {
        Policy::new(required, NonZeroU32::new(proofs).unwrap(), Duration::from_secs(settling)).unwrap()
    }
}

prop_compose! {
    fn evidence()(
        taken in 0u64..40,
        installation in installation(),
        outcomes in [outcome(), outcome(), outcome(), outcome(), outcome(), outcome()],
    ) -> Evidence {
        Probe::ALL.into_iter().zip(outcomes).fold(
            Evidence::at(Duration::from_secs(taken)).with_linkerd_installation(installation),
            |evidence, (probe, outcome)| evidence.with(probe, outcome),
        )
    }
}

/// Evidence with instants that mostly grow, now and then stand still or go back.
fn story() -> impl Strategy<Value = Vec<Evidence>> {
    vec((evidence(), -1i64..4), 0..40).prop_map(|steps| {
        let mut now = 20i64;
        steps
            .into_iter()
            .map(|(mut evidence, passed)| {
                now = (now + passed).max(0);
                evidence.taken = Duration::from_secs(now.unsigned_abs());
                evidence
            })
            .collect()
    })
}

fn after(policy: &Policy, story: &[Evidence]) -> Gate {
    story.iter().fold(Gate::closed(), |gate, evidence| gate.step(policy, evidence))
}

/// An open gate, whatever its basis, with or without a degraded.
fn open(policy: &Policy, basis: Basis, since: u64) -> Gate {
    let proof = match basis {
        Basis::NotInstalled => Evidence::at(Duration::ZERO).with_linkerd_installation(LinkerdInstallation::Absent),
        Basis::Proven | Basis::Reachable => {
            Probe::ALL.into_iter().fold(Evidence::at(Duration::ZERO), |all, probe| all.with(probe, ProbeResult::Ready))
        }
    };
    let mut gate = Gate::closed();
    for proofs in 0..64 {
        let mut proof = proof.clone();
        proof.taken = Duration::from_secs(since + proofs);
        gate = gate.step(policy, &proof);
    }
    assert!(gate.is_open(), "64 proofs in 64 seconds meet every policy of these tests");
    gate
}

fn basis() -> impl Strategy<Value = Basis> {
    prop_oneof![Just(Basis::Proven), Just(Basis::NotInstalled)]
}

proptest! {
    /// An open gate is always backed by the tail of its story: as many ready verdicts in a row as the policy asks for, each
    /// newer than the one before and known in the same way, over at least the settling time; and nothing against it since.
    #[test]
    fn opening_needs_enough_proofs_in_a_row_over_the_settling_time(policy in policy(), story in story()) {
        let mut gate = Gate::closed();
        for (place, evidence) in story.iter().enumerate() {
            let next = gate.clone().step(&policy, evidence);
            if next.is_open() && !gate.is_open() {
                let basis = next.basis().unwrap();
                // The longest run that ends here, newest first.
                let mut newest_first = story[..=place].iter().rev();
                let newest = newest_first.next().unwrap();
                prop_assert_eq!(Verdict::of(&policy, newest), Verdict::Open(basis));
                let (mut oldest, mut proofs) = (newest.taken, 1);
                for earlier in newest_first {
                    if Verdict::of(&policy, earlier) != Verdict::Open(basis) || earlier.taken > oldest {
                        break;
                    }
                    if earlier.taken < oldest {
                        proofs += 1;
                        oldest = earlier.taken;
                    }
                }
                prop_assert!(proofs >= policy.proofs().get(), "opened after {} proofs", proofs);
                let settled = newest.taken.saturating_sub(oldest);
                prop_assert!(settled >= policy.settling(), "opened after {:?}", settled);
            }
            gate = next;
        }
    }

    /// The other way round: enough proofs do open it. Without this, a gate that never opens would pass every other test.
    #[test]
    fn enough_proofs_over_enough_time_open_whatever_came_before(policy in policy(), story in story()) {
        let gate = after(&policy, &story);
        let start = story.iter().map(|evidence| evidence.taken).max().unwrap_or_default();
        let ready = Probe::ALL.into_iter().fold(Evidence::at(Duration::ZERO), |all, probe| all.with(probe, ProbeResult::Ready));
        let mut gate = gate;
        for second in 1..=u64::from(policy.proofs().get()).max(policy.settling().as_secs() + 1) {
            let mut ready = ready.clone();
            ready.taken = start + Duration::from_secs(second);
            gate = gate.step(&policy, &ready);
        }
        prop_assert!(gate.is_open(), "{:?}", gate);
    }

    #[test]
    fn unknown_never_opens(
        policy in policy(),
        before in story(),
        mut evidence in evidence(),
        place in any::<prop::sample::Index>(),
    ) {
        evidence.installation = LinkerdInstallation::Present;
        let probe = policy.required()[place.index(policy.required().len())];
        let evidence = evidence.with(probe, ProbeResult::unknown("could not look"));
        let gate = after(&policy, &before);
        let was_open = gate.is_open();
        let next = gate.step(&policy, &evidence);
        prop_assert!(was_open || !next.is_open());
        prop_assert!(!matches!(next, Gate::Settling { .. }), "an unknown counts as no proof");
    }

    #[test]
    fn unknown_never_closes_what_was_proven_open(policy in policy(), installation in installation(), taken in 0u64..200) {
        let blind = Evidence::at(Duration::from_secs(taken)).with_linkerd_installation(installation);
        let gate = open(&policy, Basis::Proven, 100).step(&policy, &blind);
        prop_assert!(gate.is_open());
        // And where the absence was what was proven, a look that failed does not close either.
        let blind = Evidence::at(Duration::from_secs(taken));
        prop_assert!(open(&policy, Basis::NotInstalled, 100).step(&policy, &blind).is_open());
    }

    #[test]
    fn not_ready_closes_at_once_whatever_the_state_and_the_clock(
        policy in policy(),
        before in story(),
        mut evidence in evidence(),
        place in any::<prop::sample::Index>(),
        basis in basis(),
    ) {
        evidence.installation = LinkerdInstallation::Present;
        let probe = policy.required()[place.index(policy.required().len())];
        let evidence = evidence.with(probe, ProbeResult::not_ready("no"));
        for gate in [after(&policy, &before), open(&policy, basis, 10)] {
            let gate = gate.step(&policy, &evidence);
            let closed = matches!(&gate, Gate::Closed { why: ClosedReason::NotReady(_), .. });
            prop_assert!(closed, "{:?}", gate);
        }
    }

    #[test]
    fn what_the_policy_does_not_require_changes_nothing(policy in policy(), story in story(), noise in story()) {
        let noisy: Vec<_> = story.iter().enumerate().map(|(place, evidence)| {
            noise.get(place).map_or_else(|| evidence.clone(), |noise| {
                noise.results().filter(|(probe, _)| !policy.requires(*probe)).fold(
                    evidence.clone(),
                    |evidence, (probe, outcome)| evidence.with(probe, outcome.clone()),
                )
            })
        }).collect();
        prop_assert_eq!(after(&policy, &story), after(&policy, &noisy));
    }

    #[test]
    fn the_order_of_probes_does_not_matter(
        required in Just(Probe::ALL.to_vec()).prop_shuffle(),
        order in Just(Probe::ALL.to_vec()).prop_shuffle(),
        evidence in evidence(),
    ) {
        let shuffled = order.into_iter().fold(
            Evidence::at(evidence.taken).with_linkerd_installation(evidence.installation),
            |shuffled, probe| shuffled.with(probe, evidence.result(probe).clone()),
        );
        prop_assert_eq!(&shuffled, &evidence);
        let policy = |required: Vec<Probe>| Policy::new(required, NonZeroU32::MIN, Duration::ZERO).unwrap();
        prop_assert_eq!(
            Verdict::of(&policy(required), &shuffled).to_string(),
            Verdict::of(&policy(Probe::ALL.to_vec()), &evidence).to_string()
        );
    }

    #[test]
    fn a_step_is_deterministic_and_idempotent(policy in policy(), story in story()) {
        let mut gate = Gate::closed();
        for evidence in &story {
            let once = gate.clone().step(&policy, evidence);
            prop_assert_eq!(&once, &gate.step(&policy, evidence));
            let twice = once.clone().step(&policy, evidence);
            prop_assert_eq!(&twice, &once);
            prop_assert_eq!(Transition::between(&once, &twice), None);
            gate = once;
        }
    }

    #[test]
    fn no_instant_panics(policy in policy(), instants in vec(prop_oneof![Just(Duration::ZERO), Just(Duration::MAX), any::<Duration>()], 0..12)) {
        let mut gate = Gate::closed();
        for taken in instants {
            let ready = Probe::ALL.into_iter().fold(Evidence::at(taken), |all, probe| all.with(probe, ProbeResult::Ready));
            gate = gate.step(&policy, &ready);
        }
    }

    #[test]
    fn a_closed_verdict_names_every_failed_probe_on_one_line(
        policy in policy(),
        mut evidence in evidence(),
        bad in unready(),
        place in any::<prop::sample::Index>(),
    ) {
        evidence.installation = LinkerdInstallation::Present;
        let probe = policy.required()[place.index(policy.required().len())];
        let evidence = evidence.with(probe, bad);
        let verdict = Verdict::of(&policy, &evidence);
        let text = verdict.to_string();
        prop_assert!(!text.contains('\n'));
        for probe in Probe::ALL {
            let in_the_way = policy.requires(probe) && !evidence.result(probe).is_ready();
            let named = text.contains(&format!("{probe} {}", evidence.result(probe)));
            prop_assert_eq!(in_the_way, named, "{} in {}", probe, text);
        }
    }

    #[test]
    fn a_transition_is_reported_only_if_state_or_reason_changed(policy in policy(), story in story()) {
        // What a person can see of a gate: everything but instants and counters.
        let seen = |gate: &Gate| gate.to_string();
        let mut gate = Gate::closed();
        for evidence in &story {
            let next = gate.clone().step(&policy, evidence);
            prop_assert_eq!(Transition::between(&gate, &next).is_some(), seen(&gate) != seen(&next), "{:?} -> {:?}", gate, next);
            gate = next;
        }
    }
}
