//! Owners whose creates were refused: which of them are asked to try again, and how many at a time.
//!
//! A controller whose create was refused tries again after a pause that grows to about 16 minutes; any change of the owner's
//! metadata makes it try at once (*measured* on all four kinds: ReplicaSet, StatefulSet, DaemonSet, Job). A
//! [window](super::window) of them is under way at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::window::{SLOT_TIMEOUT, Window};
use super::{Kind, OwnerReference, OwnerView, Owners};

/// How long an owner is left alone after it was refused again; it doubles with each time.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// And is this long at most.
const LONGEST_PAUSE: Duration = Duration::from_mins(2);

/// What a refusal by our guard says.
pub const GUARD: &str = "ValidatingAdmissionPolicy 'linkerd-gate-guard'";

/// What a refusal says that the gate is about: the guard's, or the injector's webhook's with `failurePolicy: Fail`.
const OURS: [&str; 2] = [GUARD, "linkerd-proxy-injector"];

/// An Event that says that an owner's create was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedCreate {
    /// The namespace that the Event is in, which is its owner's: an API server takes no other.
    pub namespace: String,
    /// The owner.
    pub owner: OwnerReference,
    /// What tells one refusal from the next: the Event's version.
    pub stamp: String,
}

/// The latest refusal of each owner.
///
/// Who may create Events in one namespace can name any uid in them. So an owner is found by its namespace, kind, name *and* uid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedCreates(BTreeMap<String, Vec<RefusedCreate>>);

/// What a controller remembers of retries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRetries {
    window: Window,
    /// When one was last seen to be refused again.
    refused_again_at: Option<Duration>,
    owners: BTreeMap<String, PendingRetry>,
    /// What Events tell, by the owner's uid.
    reported: BTreeMap<String, Reported>,
}

/// A refusal of which an Event tells, long after it may be over.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reported {
    stamp: String,
    /// How few pods its owner has been seen with since.
    had: i32,
    /// Whether it was made up for.
    answered: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct PendingRetry {
    /// Since when it is under way; nothing where it is not.
    since: Option<Duration>,
    /// The refusal that it was retried for.
    stamp: Option<String>,
    /// How many pods it had then.
    had: i32,
    /// How often it was refused again.
    again: u32,
    /// Not before.
    not_before: Duration,
}

/// One owner to retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRetry {
    /// Its namespace.
    pub namespace: String,
    /// Itself.
    pub owner: OwnerReference,
    /// How many pods it has.
    pub has: i32,
}

/// Whether a refusal's message is about injection: owners that another policy refuses are not retried.
pub fn is_ours(message: &str) -> bool {
    OURS.iter().any(|ours| message.contains(ours))
}

// === impl RefusedCreates ===

impl RefusedCreates {
    /// Takes one in, if no later one of its owner is known.
    pub fn insert(&mut self, refusal: RefusedCreate) {
        // Versions grow with time (Kubernetes 1.35 says so; they always have).
        let version = |refusal: &RefusedCreate| refusal.stamp.parse::<u64>().unwrap_or_default();
        let of_this_uid = self.0.entry(refusal.owner.uid.clone()).or_default();
        match of_this_uid.iter_mut().find(|known| known.is_of(&refusal.namespace, &refusal.owner)) {
            Some(known) if version(known) < version(&refusal) => *known = refusal,
            Some(_) => {}
            None => of_this_uid.push(refusal),
        }
    }

    /// The latest one of this owner.
    pub fn of(&self, namespace: &str, owner: &OwnerReference) -> Option<&RefusedCreate> {
        self.0.get(&owner.uid)?.iter().find(|refusal| refusal.is_of(namespace, owner))
    }
}

impl FromIterator<RefusedCreate> for RefusedCreates {
    fn from_iter<I: IntoIterator<Item = RefusedCreate>>(refusals: I) -> Self {
        let mut all = Self::default();
        refusals.into_iter().for_each(|refusal| all.insert(refusal));
        all
    }
}

// === impl RefusedCreate ===

impl RefusedCreate {
    fn is_of(&self, namespace: &str, owner: &OwnerReference) -> bool {
        self.namespace == namespace && self.owner == *owner
    }
}

// === impl OwnerRetries ===

impl Default for OwnerRetries {
    fn default() -> Self {
        let (owners, reported) = (BTreeMap::new(), BTreeMap::new());
        Self { window: Window::default(), refused_again_at: None, owners, reported }
    }
}

impl OwnerRetries {
    /// Who is to be retried at `now`, and when to ask again at the latest.
    ///
    /// Takes in what became of those under way. `proven` is when the evidence was taken by which injection is proven. Nothing is due
    /// where it is not, or not since one was refused again: the others would only be refused as well.
    pub fn step(
        &mut self,
        owners: &Owners<'_>,
        refusals: &RefusedCreates,
        proven: Option<Duration>,
        now: Duration,
    ) -> (Vec<OwnerRetry>, Option<Duration>) {
        self.note_answered(owners, refusals);
        let refused: Vec<&OwnerView> = owners.iter().filter(|owner| self.is_refused(owner, refusals)).collect();
        self.take_in(&refused, refusals, now);
        let Some(proven) = proven else {
            // Who is under way is waited for; the others owe their pauses to the outage.
            self.owners.retain(|_, past| past.since.is_some());
            self.window.reset();
            return (Vec::new(), None);
        };
        if self.refused_again_at.is_some_and(|refused| proven <= refused) {
            return (Vec::new(), None);
        }
        let room = self.window.size().saturating_sub(self.under_way());
        let past = |owner: &OwnerView| self.owners.get(&owner.reference.uid);
        let mut due = refused;
        due.retain(|owner| past(owner).is_none_or(|past| past.since.is_none() && past.not_before <= now));
        // Those that are refused again and again do not take the others' turn.
        due.sort_by_key(|owner| past(owner).map(|past| (past.again, past.not_before)));
        let retry = |owner: &OwnerView| OwnerRetry {
            namespace: owner.namespace.clone(),
            owner: owner.reference.clone(),
            has: owner.has,
        };
        let retries = due.into_iter().take(room).map(retry).collect();
        let wakes = self.owners.values().map(|past| past.since.map_or(past.not_before, |since| since + SLOT_TIMEOUT));
        (retries, wakes.filter(|wake| *wake > now).min())
    }

    /// Notes that `retry` was sent at `now`; `stamp` is that of the refusal it was sent for, if an Event reported that.
    pub fn sent(&mut self, retry: &OwnerRetry, refusals: &RefusedCreates, now: Duration) {
        let retried = self.owners.entry(retry.owner.uid.clone()).or_default();
        retried.since = Some(now);
        retried.had = retry.has;
        retried.stamp = refusals.of(&retry.namespace, &retry.owner).map(|refusal| refusal.stamp.clone());
    }

    /// Notes that it could not be sent: the API server is asked again later.
    pub fn failed(&mut self, retry: &OwnerRetry, now: Duration) {
        let retried = self.owners.entry(retry.owner.uid.clone()).or_default();
        let since = retried.since.unwrap_or(now);
        retried.back_off(now);
        self.window.narrow(since, now);
    }

    /// When one was last seen to be refused again after its retry: the proof by which it was retried may be wrong.
    pub fn refused_again_at(&self) -> Option<Duration> {
        self.refused_again_at
    }

    /// How many are under way.
    pub fn under_way(&self) -> usize {
        self.owners.values().filter(|past| past.since.is_some()).count()
    }

    /// How many may be.
    pub fn window(&self) -> usize {
        self.window.size()
    }

    /// An owner that has what it wants, or more than it had at the latest refusal, has made up for it, retried or not. A
    /// StatefulSet makes its next pod only when this one is ready, which is none of our concern.
    fn note_answered(&mut self, owners: &Owners<'_>, refusals: &RefusedCreates) {
        let mut before = std::mem::take(&mut self.reported);
        for owner in owners.iter() {
            let uid = &owner.reference.uid;
            let Some(RefusedCreate { stamp, .. }) = refusals.of(&owner.namespace, &owner.reference) else { continue };
            let known = before.remove(uid).filter(|reported| reported.stamp == *stamp);
            let new = Reported { stamp: stamp.clone(), had: owner.has, answered: false };
            let reported = self.reported.entry(uid.clone()).or_insert(known.unwrap_or(new));
            reported.answered |= !owner.wants || owner.has > reported.had;
            reported.had = reported.had.min(owner.has);
        }
    }

    /// Whether an owner lacks pods because their creates were refused without injection.
    fn is_refused(&self, owner: &OwnerView, refusals: &RefusedCreates) -> bool {
        let uid = &owner.reference.uid;
        let refusal = refusals.of(&owner.namespace, &owner.reference);
        let reported = refusal.is_some() && !self.reported.get(uid).is_some_and(|reported| reported.answered);
        let refused = match owner.reference.kind {
            // The condition is its state; an Event may be older than its last success.
            Kind::ReplicaSet => owner.failure.as_deref().is_some_and(is_ours),
            Kind::StatefulSet | Kind::DaemonSet | Kind::Job => reported,
            Kind::ReplicationController | Kind::Other(_) => false,
        };
        refused && owner.wants && !owner.deleting
    }

    fn take_in(&mut self, refused: &[&OwnerView], refusals: &RefusedCreates, now: Duration) {
        let still: BTreeMap<&str, &OwnerView> =
            refused.iter().map(|owner| (owner.reference.uid.as_str(), *owner)).collect();
        let (mut refused_again, mut refused_again_at) = (None, self.refused_again_at);
        let mut succeeded = 0;
        self.owners.retain(|uid, past| {
            let Some(owner) = still.get(uid.as_str()) else {
                succeeded += usize::from(past.since.is_some());
                return false;
            };
            let Some(since) = past.since else { return true };
            let stamp = refusals.of(&owner.namespace, &owner.reference).map(|refusal| &refusal.stamp);
            let again = stamp.is_some() && stamp != past.stamp.as_ref();
            // Many pods take an owner more than one try: it goes on by itself as long as it gets somewhere.
            if owner.has > past.had && !again {
                past.had = owner.has;
                past.since = Some(now);
            } else if again || now.saturating_sub(since) >= SLOT_TIMEOUT {
                // One that shows nothing may wait for an injector that is slow, but not each time.
                if again || past.again == 0 {
                    refused_again = refused_again.max(Some(since));
                }
                if again {
                    refused_again_at = Some(now);
                }
                past.back_off(now);
            }
            true
        });
        self.refused_again_at = refused_again_at;
        // Once for all that were retried together: they were refused for the same reason.
        match refused_again {
            Some(since) => self.window.narrow(since, now),
            None => self.window.widen(succeeded),
        }
    }
}

// === impl PendingRetry ===

impl PendingRetry {
    fn back_off(&mut self, now: Duration) {
        self.since = None;
        self.not_before = now + FIRST_PAUSE.saturating_mul(1 << self.again.min(8)).min(LONGEST_PAUSE);
        self.again += 1;
    }
}

#[cfg(test)]
mod tests;
