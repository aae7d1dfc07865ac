//! An agent's gate, driven by what is published and by what the agent sees of identity itself.

use std::num::NonZeroU32;
use std::time::Duration;

use super::format::Unreadable;
use super::lease_record::{LeaseHolder, LeaseObserver, LeaseRecord};
use super::published_verdict;
use super::published_verdict::{PublishedVerdict, WireVerdict};
use crate::decide::readiness::evidence::{Evidence, Probe};
use crate::decide::readiness::gate::{Gate, PROOF_LIFETIME};
use crate::decide::readiness::policy::{NothingRequired, Policy};
use crate::decide::readiness::probe_result::ProbeResult;

/// Follows the prover's verdict. The prover's own agent follows the published verdict too, like all agents.
///
/// A word counts only while its holder is seen renewing it. Where there is no fresh one the gate stays as it is, and says so.
///
/// A renewed verdict is no new proof: the prover probes an open gate only every 20 s. So an agent that starts ignores the first proof that it
/// sees: that one may be from before a power cut. A proof that was first seen [`PROOF_LIFETIME`] ago no longer counts: the prover renews
/// its Lease, but its probes hang.
#[derive(Clone, Debug)]
pub struct Follower {
    policy: Policy,
    gate: Gate,
    observer: LeaseObserver,
    word: Option<Result<PublishedVerdict, Unreadable>>,
    proofs: ProofHistory,
    /// The proof that is published now, and when it was first seen.
    latest: Option<(ProofId, Duration)>,
    blind: Option<String>,
}

/// Whether anything was proven since an agent looked first.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ProofHistory {
    /// It has seen no verdict yet that it could read.
    Unseen,
    /// Nothing was: still only what the first verdict says is published, which is a proof or none.
    Only(Option<ProofId>),
    /// Another proof was published.
    Newer,
}

/// What tells a proof from every other: who made it, and its number.
type ProofId = (Option<LeaseHolder>, u64);

// === impl Follower ===

impl Follower {
    /// A follower that has seen nothing, for a prover whose policy is `proven`.
    ///
    /// # Errors
    /// Never for a policy that exists; a policy's parts are checked again where one is made.
    pub fn new(proven: &Policy) -> Result<Self, NothingRequired> {
        // The prover has counted and settled: doing so again here would only add to every start.
        let policy = Policy::new(proven.required().iter().copied(), NonZeroU32::MIN, Duration::ZERO)?;
        let (gate, observer) = (Gate::closed(), LeaseObserver::default());
        Ok(Self { policy, gate, observer, word: None, proofs: ProofHistory::Unseen, latest: None, blind: None })
    }

    /// Notes how the Lease looks at `now`; nothing where there is none.
    pub fn note(&mut self, record: Option<&LeaseRecord>, now: Duration) {
        self.observer.note(record, now);
        self.word = record.and_then(|record| record.verdict.as_deref()).map(PublishedVerdict::read);
        let proof = match &self.word {
            Some(Ok(PublishedVerdict { verdict: WireVerdict::Open { proof, .. }, .. })) => {
                Some((self.observer.holder().cloned(), *proof))
            }
            Some(_) | None => None,
        };
        self.latest = match (self.latest.take(), &proof) {
            (Some((seen, at)), Some(proof)) if seen == *proof => Some((seen, at)),
            (_, proof) => proof.clone().map(|proof| (proof, now)),
        };
        // One that cannot be read may have a proof: the next one that can is the first.
        if let Some(Ok(_)) = &self.word {
            self.proofs.note(proof);
        }
    }

    /// Notes that this boot of the node has been open already: an agent that was merely restarted need not wait for
    /// another proof.
    pub fn note_opened_boot(&mut self) {
        self.proofs = ProofHistory::Newer;
    }

    /// Notes why the Lease cannot be read at the moment; nothing where it can.
    ///
    /// What is seen after that is like a first look: it may have been written during that time, by a prover that no longer runs.
    pub fn note_watch_error(&mut self, trouble: Option<&str>) {
        self.blind = trouble.map(str::to_owned);
        if self.blind.is_some() {
            self.observer = LeaseObserver::default();
        }
    }

    /// Steps the gate, with what this agent itself found of identity. Returns the gate as it was before.
    pub fn step(&mut self, identity: &ProbeResult, now: Duration) -> Gate {
        let evidence = self.evidence(identity, now);
        let before = std::mem::take(&mut self.gate);
        self.gate = before.clone().step(&self.policy, &evidence);
        before
    }

    /// What is known at `now`.
    pub fn evidence(&self, identity: &ProbeResult, now: Duration) -> Evidence {
        let nothing = Evidence::at(now);
        let unknown =
            |why: String| published_verdict::undecided(&self.policy, Evidence::at(now), ProbeResult::unknown(why));
        if !self.observer.fresh(now) {
            return unknown(match (self.observer.holder(), self.observer.stale_at()) {
                _ if self.blind.is_some() => {
                    format!("the verdict cannot be read: {}", self.blind.as_deref().unwrap_or_default())
                }
                (None, _) => "no agent proves injection: the Lease linkerd-gate has no holder".to_owned(),
                (Some(holder), None) => format!("waiting for the prover on node {} to renew the Lease", holder.name),
                (Some(holder), Some(_)) => format!("the prover on node {} stopped renewing the Lease", holder.name),
            });
        }
        match &self.word {
            None => unknown("the prover has published no verdict".to_owned()),
            Some(Err(error)) => unknown(format!("the published verdict cannot be used: {error}")),
            Some(Ok(PublishedVerdict { verdict: WireVerdict::Open { .. }, .. }))
                if self.proofs != ProofHistory::Newer =>
            {
                unknown("this agent has just started and waits for the prover's next proof".to_owned())
            }
            // What the prover itself could not confirm is named by its verdict.
            Some(Ok(PublishedVerdict { verdict: WireVerdict::Open { degraded, .. }, .. }))
                if degraded.is_empty() && !self.is_fresh(now) =>
            {
                let node = self.observer.holder().map(|holder| holder.name.as_str()).unwrap_or_default();
                unknown(format!(
                    "the prover on node {node} renews the Lease, but has not probed for {PROOF_LIFETIME:?}"
                ))
            }
            Some(Ok(word)) => {
                let published = word.evidence(&self.policy, nothing);
                let worse = worse(published.result(Probe::Identity), identity).clone();
                published.with(Probe::Identity, worse)
            }
        }
    }

    /// Whether what is published counts at `now`: its prover renews it, and has proven it lately.
    pub fn is_fresh(&self, now: Duration) -> bool {
        let hangs = matches!(&self.word, Some(Ok(word)) if matches!(word.verdict, WireVerdict::Open { .. }))
            && self.proof_ends().is_some_and(|end| now >= end);
        self.observer.fresh(now) && !hangs
    }

    fn proof_ends(&self) -> Option<Duration> {
        self.latest.as_ref().map(|(_, at)| at.saturating_add(PROOF_LIFETIME))
    }

    /// When, after `now`, what is published would no longer count, if it does not change: the Lease expires, or the proof.
    pub fn stale_at(&self, now: Duration) -> Option<Duration> {
        self.observer.stale_at().into_iter().chain(self.proof_ends()).filter(|at| *at > now).min()
    }

    /// The gate that this agent begins with when it becomes the prover at `now`.
    ///
    /// What it knows to be open it does not close, but neither does it vouch for it before it has looked: the new prover's word
    /// is renewed, and who has just started must not take it for a proof.
    pub fn prover_gate(&self, now: Duration) -> Gate {
        if !self.gate.is_open() {
            return Gate::closed();
        }
        let not_yet = ProbeResult::unknown("the prover has not probed yet");
        self.gate.clone().step(&self.policy, &published_verdict::undecided(&self.policy, Evidence::at(now), not_yet))
    }

    /// What is published, while it is fresh.
    pub fn published(&self, now: Duration) -> Option<&PublishedVerdict> {
        self.word.as_ref().and_then(|word| word.as_ref().ok()).filter(|_| self.observer.fresh(now))
    }

    /// The gate.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The policy that the gate is held to.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The Lease as this agent saw it.
    pub fn observer(&self) -> &LeaseObserver {
        &self.observer
    }
}

// === impl ProofHistory ===

impl ProofHistory {
    fn note(&mut self, published: Option<ProofId>) {
        match self {
            Self::Unseen => *self = Self::Only(published),
            Self::Only(first) if published.is_some() && *first != published => *self = Self::Newer,
            Self::Only(_) | Self::Newer => {}
        }
    }
}

/// What counts of two results of the same probe: not ready before unknown, and unknown before ready.
fn worse<'a>(one: &'a ProbeResult, other: &'a ProbeResult) -> &'a ProbeResult {
    match (one, other) {
        (ProbeResult::NotReady(_), _)
        | (ProbeResult::Unknown(_), ProbeResult::Unknown(_) | ProbeResult::Ready)
        | (ProbeResult::Ready, ProbeResult::Ready) => one,
        (ProbeResult::Ready | ProbeResult::Unknown(_), ProbeResult::NotReady(_))
        | (ProbeResult::Ready, ProbeResult::Unknown(_)) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Basis;
    use crate::decide::election::lease_record::LeaseHolder;
    use crate::decide::election::published_verdict::{TaintSuppressions, VERSION, WireVerdict};

    fn second(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn record(renewal: u32, verdict: impl Into<Option<String>>) -> LeaseRecord {
        LeaseRecord {
            holder: Some(LeaseHolder::read("node-1/agent/boot")),
            renewed: Some(renewal.to_string()),
            verdict: verdict.into(),
            ..LeaseRecord::default()
        }
    }

    fn word(word: WireVerdict) -> String {
        PublishedVerdict {
            version: VERSION,
            verdict: word,
            taint_suppressed_by: TaintSuppressions::new(),
            identity: Vec::new(),
        }
        .write()
    }

    fn open(proof: u64) -> String {
        word(WireVerdict::Open { basis: Basis::Proven, proof, degraded: Vec::new() })
    }

    fn open_by_another() -> String {
        open(7)
    }

    fn refused() -> String {
        word(WireVerdict::Closed {
            failed_probes: vec![crate::decide::FailedProbe {
                probe: Probe::Injector,
                result: ProbeResult::not_ready("refused"),
            }],
        })
    }

    fn follower() -> Follower {
        Follower::new(&Policy::proven()).unwrap()
    }

    /// A follower that has seen these Leases, one a second, and finds identity ready.
    fn after(leases: &[Option<LeaseRecord>]) -> Follower {
        let mut follower = follower();
        for (at, lease) in (0..).zip(leases) {
            follower.note(lease.as_ref(), second(at));
            follower.step(&ProbeResult::Ready, second(at));
        }
        follower
    }

    #[test]
    fn a_remembered_open_verdict_opens_nothing_until_renewed() {
        let before = after(&[Some(record(1, open(1)))]);
        assert_eq!(
            before.gate().to_string(),
            "closed: injection unknown: waiting for the prover on node node-1 to renew the Lease"
        );
        assert!(after(&[Some(record(1, open(1))), Some(record(2, open(2)))]).gate().is_open());
    }

    #[test]
    fn a_proof_from_before_the_agent_started_opens_nothing() {
        let renewed = [Some(record(1, open(1))), Some(record(2, open(1))), Some(record(3, open(1)))];
        assert_eq!(
            after(&renewed).gate().to_string(),
            "closed: injection unknown: this agent has just started and waits for the prover's next proof"
        );
        assert!(after(&[renewed.as_slice(), &[Some(record(4, open(2)))]].concat()).gate().is_open());
        // The gate was closed in between, and nothing was proven since.
        let again = [Some(record(1, open(1))), Some(record(2, refused())), Some(record(3, open(1)))];
        assert!(!after(&again).gate().is_open());
        // Where the first verdict has no proof, whatever is proven was proven since.
        assert!(after(&[None, Some(record(1, refused())), Some(record(2, open(1)))]).gate().is_open());
        // A prover whose Lease was deleted makes it again, with the proof that it had.
        let deleted = [None, Some(record(1, open(1))), Some(record(2, open(1)))];
        assert!(!after(&deleted).gate().is_open());
        assert!(after(&[deleted.as_slice(), &[Some(record(3, open(2)))]].concat()).gate().is_open());
        // Nor does a verdict in the format of another version say that there was no proof.
        let unreadable = [Some(record(1, r#"{"version":99}"#.to_owned())), Some(record(2, open(1)))];
        assert!(!after(&[unreadable.as_slice(), &[Some(record(3, open(1)))]].concat()).gate().is_open());
    }

    #[test]
    fn a_restarted_agent_does_not_wait_for_another_proof() {
        let mut started = after(&[Some(record(1, open(1))), Some(record(2, open(1)))]);
        assert!(!started.gate().is_open());
        started.note_opened_boot();
        started.step(&ProbeResult::Ready, second(2));
        assert!(started.gate().is_open());
    }

    #[test]
    fn a_new_prover_keeps_an_open_gate_and_opens_nothing_unprobed() {
        let open = after(&[Some(record(1, open(1))), Some(record(2, open(2)))]);
        let begun = open.prover_gate(second(2));
        assert!(begun.is_open(), "what is open stays open");
        let said = PublishedVerdict::new(&begun, TaintSuppressions::new(), Vec::new()).write();
        // Somebody else holds the Lease than when this one looked first.
        let other = LeaseRecord { holder: Some(LeaseHolder::read("node-2/agent/boot")), ..record(3, Some(said)) };
        let started = after(&[Some(record(1, open_by_another())), Some(other)]);
        assert!(!started.gate().is_open(), "{}", started.gate());
        assert_eq!(follower().prover_gate(second(2)), Gate::closed());
    }

    #[test]
    fn a_lease_seen_after_a_watch_error_waits_for_a_renewal() {
        let mut open = after(&[Some(record(1, open(1))), Some(record(2, open(2)))]);
        open.note_watch_error(Some("refused"));
        open.step(&ProbeResult::Ready, second(2));
        assert!(open.gate().is_open(), "{}", open.gate());
        open.note_watch_error(None);
        open.note(Some(&record(3, refused())), second(3));
        open.step(&ProbeResult::Ready, second(3));
        assert!(open.gate().is_open(), "it may be minutes old: {}", open.gate());
        open.note(Some(&record(4, refused())), second(4));
        open.step(&ProbeResult::Ready, second(4));
        assert!(!open.gate().is_open());
    }

    #[test]
    fn without_a_prover_everything_stays_as_it_is_and_says_so() {
        let mut open = after(&[Some(record(1, open(1))), Some(record(2, open(2)))]);
        open.step(&ProbeResult::Ready, second(15));
        assert_eq!(open.gate().to_string(), "open: proven by an injected dry-run pod");
        open.step(&ProbeResult::Ready, second(16));
        assert_eq!(
            open.gate().to_string(),
            "open: proven by an injected dry-run pod; not confirmed since: injection unknown: the prover on node \
             node-1 stopped renewing the Lease"
        );
        let mut closed = follower();
        closed.step(&ProbeResult::Ready, second(0));
        assert_eq!(
            closed.gate().to_string(),
            "closed: injection unknown: no agent proves injection: the Lease linkerd-gate has no holder"
        );
    }

    /// A prover that renews its Lease every five seconds, and never looks again.
    fn renewed_for(follower: &mut Follower, from: u64, until: u64, verdict: &str) {
        for at in (from..=until).step_by(5) {
            let renewal = u32::try_from(100 + at).unwrap();
            follower.note(Some(&record(renewal, verdict.to_owned())), second(at));
            follower.step(&ProbeResult::Ready, second(at));
        }
    }

    #[test]
    fn a_renewed_but_old_proof_opens_nothing_and_closes_nothing() {
        let mut following = after(&[Some(record(1, open(1))), Some(record(2, open(2)))]);
        renewed_for(&mut following, 5, 45, &open(2));
        assert_eq!(following.gate().to_string(), "open: proven by an injected dry-run pod");
        assert_eq!(following.stale_at(second(45)), Some(second(46)), "that is when it is to be stepped again");
        following.step(&ProbeResult::Ready, second(46));
        let why = "the prover on node node-1 renews the Lease, but has not probed for 45s";
        assert!(following.gate().is_open(), "not to know closes nothing");
        assert!(following.gate().to_string().ends_with(why), "{}", following.gate());

        // Closed by this agent's own look, and not opened again by a proof of that age.
        let mut closed = after(&[Some(record(1, open(1))), Some(record(2, open(2)))]);
        closed.step(&ProbeResult::not_ready("refused"), second(2));
        renewed_for(&mut closed, 50, 60, &open(2));
        assert!(!closed.gate().is_open(), "{}", closed.gate());
        assert!(closed.gate().to_string().ends_with(why), "{}", closed.gate());
        renewed_for(&mut closed, 61, 61, &open(3));
        assert!(closed.gate().is_open(), "{}", closed.gate());
    }

    #[test]
    fn evidence_closes_at_once_but_a_new_prover_closes_nothing() {
        let leases = [Some(record(1, open(1))), Some(record(2, open(2)))];
        let restarted =
            [leases.as_slice(), &[Some(record(3, word(WireVerdict::Closed { failed_probes: Vec::new() })))]].concat();
        assert!(after(&restarted).gate().is_open());
        let closed = [leases.as_slice(), &[Some(record(3, refused()))]].concat();
        assert_eq!(after(&closed).gate().to_string(), "closed: injector not ready: refused");
    }

    #[test]
    fn identity_has_to_answer_from_here_too() {
        let mut follower = after(&[Some(record(1, open(1)))]);
        follower.note(Some(&record(2, open(2))), second(1));
        follower.step(&ProbeResult::unknown("no route"), second(1));
        assert_eq!(follower.gate().to_string(), "closed: identity unknown: no route");
        follower.step(&ProbeResult::Ready, second(2));
        assert!(follower.gate().is_open());
        follower.step(&ProbeResult::unknown("no route"), second(3));
        assert!(follower.gate().is_open(), "not to know closes nothing");
        follower.step(&ProbeResult::not_ready("refused"), second(4));
        assert_eq!(follower.gate().to_string(), "closed: identity not ready: refused");
    }

    #[test]
    fn a_verdict_of_another_format_is_unknown() {
        let later = Some(r#"{"version":7}"#.to_owned());
        let gate = after(&[Some(record(1, later.clone())), Some(record(2, later))]);
        assert!(gate.gate().to_string().contains("it is in format 7"), "{}", gate.gate());
    }

    #[test]
    fn linkerds_absence_opens_without_identity() {
        let absent = |proof| word(WireVerdict::Open { basis: Basis::NotInstalled, proof, degraded: Vec::new() });
        let mut follower = follower();
        follower.note(Some(&record(1, absent(1))), second(0));
        follower.note(Some(&record(2, absent(2))), second(1));
        follower.step(&ProbeResult::unknown("nobody to ask"), second(1));
        assert_eq!(follower.gate().basis(), Some(Basis::NotInstalled));
    }
}
