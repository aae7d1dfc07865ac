//! Owners whose creates were refused: which of them are asked to try again, and how many at a time.
//!
//! A controller whose create was refused tries again after a pause that grows to about 16 minutes; any change of the owner's
//! metadata makes it try at once (*measured* on all four kinds: ReplicaSet, StatefulSet, DaemonSet, Job). A thousand that try at
//! once would be a thousand calls of an injector that has just come back. So a window of them is under way at a time: it
//! grows by one with each that succeeds, and shrinks to half when one is refused again.

use super::repair::{Kind, OwnerReference, OwnerView, Owners};
use std::collections::BTreeMap;
use std::time::Duration;

/// How many are under way at first.
const FIRST_WINDOW: usize = 10;

/// And at most.
const WIDEST_WINDOW: usize = 500;

/// How long one counts as under way that shows nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an owner is left alone after it was refused again; it doubles with each time.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// And is this long at most.
const LONGEST_PAUSE: Duration = Duration::from_mins(2);

/// What a refusal says that the gate is about: the guard's, or the injector's webhook's with `failurePolicy: Fail`.
const OURS: [&str; 2] = ["ValidatingAdmissionPolicy 'linkerd-gate'", "linkerd-proxy-injector"];

/// An Event that says that an owner's create was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The owner.
    pub owner: OwnerReference,
    /// What tells one refusal from the next: the Event's version.
    pub stamp: String,
}

/// What a controller remembers of nudges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nudges {
    window: usize,
    owners: BTreeMap<String, Nudged>,
    /// Refusals that were made up for since, by the owner's uid: what they say is over.
    answered: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Nudged {
    /// Since when it is under way; nothing where it is not.
    since: Option<Duration>,
    /// The refusal that it was nudged for.
    stamp: Option<String>,
    /// How many pods it had then.
    had: i32,
    /// How often it was refused again.
    again: u32,
    /// Not before.
    not_before: Duration,
}

/// One owner to nudge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nudge {
    /// Its namespace.
    pub namespace: String,
    /// Itself.
    pub owner: OwnerReference,
    /// How many pods it has.
    pub has: i32,
}

/// Whether a refusal's message is about injection: nobody is touched whom somebody else refuses.
pub fn is_ours(message: &str) -> bool {
    OURS.iter().any(|ours| message.contains(ours))
}

// === impl Nudges ===

impl Default for Nudges {
    fn default() -> Self {
        Self { window: FIRST_WINDOW, owners: BTreeMap::new(), answered: BTreeMap::new() }
    }
}

impl Nudges {
    /// Who is to be nudged at `now`, and when to ask again at the latest. `refusals` are by the owner's uid.
    ///
    /// Takes in what became of those under way. Nothing is due where injection is not `proven`: they would only be refused again.
    pub fn step(
        &mut self,
        owners: &Owners<'_>,
        refusals: &BTreeMap<String, Refusal>,
        proven: bool,
        now: Duration,
    ) -> (Vec<Nudge>, Option<Duration>) {
        self.note_answered(owners, refusals);
        let refused: Vec<&OwnerView> = owners.iter().filter(|owner| self.is_refused(owner, refusals)).collect();
        self.take_in(&refused, refusals, now);
        if !proven {
            return (Vec::new(), None);
        }
        let room = self.window.saturating_sub(self.under_way());
        let due = |owner: &&&OwnerView| {
            let past = self.owners.get(&owner.reference.uid);
            past.is_none_or(|past| past.since.is_none() && past.not_before <= now)
        };
        let nudge = |owner: &&OwnerView| Nudge {
            namespace: owner.namespace.clone(),
            owner: owner.reference.clone(),
            has: owner.has,
        };
        let nudges = refused.iter().filter(due).take(room).map(nudge).collect();
        let wakes = self.owners.values().map(|past| past.since.map_or(past.not_before, |since| since + PATIENCE));
        (nudges, wakes.filter(|wake| *wake > now).min())
    }

    /// Notes that `nudge` was sent at `now`; `stamp` is that of the refusal it was sent for, where an Event told of it.
    pub fn sent(&mut self, nudge: &Nudge, refusals: &BTreeMap<String, Refusal>, now: Duration) {
        let nudged = self.owners.entry(nudge.owner.uid.clone()).or_default();
        nudged.since = Some(now);
        nudged.had = nudge.has;
        nudged.stamp = refusals.get(&nudge.owner.uid).map(|refusal| refusal.stamp.clone());
    }

    /// Notes that it could not be sent: the API server is asked again later.
    pub fn failed(&mut self, nudge: &Nudge, now: Duration) {
        self.window = (self.window / 2).max(1);
        let nudged = self.owners.entry(nudge.owner.uid.clone()).or_default();
        nudged.back_off(now);
    }

    /// How many are under way.
    pub fn under_way(&self) -> usize {
        self.owners.values().filter(|past| past.since.is_some()).count()
    }

    /// How many may be.
    pub fn window(&self) -> usize {
        self.window
    }

    /// An owner that has what it wants, or more than when it was nudged, has made up for the refusals until then. A StatefulSet
    /// makes its next pod only when this one is ready, which is none of our concern.
    fn note_answered(&mut self, owners: &Owners<'_>, refusals: &BTreeMap<String, Refusal>) {
        self.answered.retain(|uid, stamp| refusals.get(uid).is_some_and(|refusal| refusal.stamp == *stamp));
        for owner in owners.iter() {
            let uid = &owner.reference.uid;
            let Some(refusal) = refusals.get(uid) else { continue };
            let nudged = self.owners.get(uid).filter(|past| past.since.is_some());
            if !owner.wants
                || nudged.is_some_and(|past| owner.has > past.had && past.stamp.as_ref() == Some(&refusal.stamp))
            {
                self.answered.insert(uid.clone(), refusal.stamp.clone());
            }
        }
    }

    /// Whether an owner lacks pods because their creates were refused for want of injection.
    fn is_refused(&self, owner: &OwnerView, refusals: &BTreeMap<String, Refusal>) -> bool {
        let uid = &owner.reference.uid;
        let told = refusals.get(uid).is_some_and(|refusal| self.answered.get(uid) != Some(&refusal.stamp));
        let refused = match owner.reference.kind {
            // The condition is its state; an Event may be older than its last success.
            Kind::ReplicaSet => owner.failure.as_deref().is_some_and(is_ours),
            Kind::StatefulSet | Kind::DaemonSet | Kind::Job => told,
            Kind::ReplicationController | Kind::Other(_) => false,
        };
        refused && owner.wants && !owner.deleting
    }

    fn take_in(&mut self, refused: &[&OwnerView], refusals: &BTreeMap<String, Refusal>, now: Duration) {
        let still: BTreeMap<&str, &OwnerView> =
            refused.iter().map(|owner| (owner.reference.uid.as_str(), *owner)).collect();
        let mut halve = false;
        let mut succeeded = 0;
        self.owners.retain(|uid, past| {
            let Some(owner) = still.get(uid.as_str()) else {
                succeeded += usize::from(past.since.is_some());
                return false;
            };
            let Some(since) = past.since else { return true };
            let stamp = refusals.get(uid).map(|refusal| &refusal.stamp);
            let refused_again = stamp.is_some() && stamp != past.stamp.as_ref();
            // Many pods take an owner more than one try: it goes on by itself as long as it gets somewhere.
            if owner.has > past.had && !refused_again {
                past.had = owner.has;
                past.since = Some(now);
            } else if refused_again || now.saturating_sub(since) >= PATIENCE {
                halve = true;
                past.back_off(now);
            }
            true
        });
        // Once for all that are seen together: they were refused for the same reason.
        self.window = if halve { (self.window / 2).max(1) } else { (self.window + succeeded).min(WIDEST_WINDOW) };
    }
}

// === impl Nudged ===

impl Nudged {
    fn back_off(&mut self, now: Duration) {
        self.since = None;
        self.not_before = now + FIRST_PAUSE.saturating_mul(1 << self.again.min(8)).min(LONGEST_PAUSE);
        self.again += 1;
    }
}

#[cfg(test)]
mod tests;
