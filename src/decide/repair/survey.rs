//! One pass over all pods: who is missed, and what else their owners have.

use super::facts::Facts;
use super::memory::Memory;
use super::standing::{Standing, State, standing};
use super::view::PodView;
use std::collections::{BTreeMap, BTreeSet};

/// What one pass over all pods found.
#[derive(Debug)]
pub struct Survey<'a> {
    /// Every pod that is missed.
    pub missed: Vec<(&'a PodView, State)>,
    /// Of every owner that has missed pods, had some, or is a Job that we suspended, by uid: all its pods and how they stand.
    pub siblings: BTreeMap<&'a str, Vec<(&'a PodView, Standing)>>,
    /// Every pod with our scheduling gate that is neither over nor going away, and how it stands.
    pub gated: Vec<(&'a PodView, Standing)>,
    /// Every pod that has no proxy and should have none.
    pub(super) skipped: Vec<&'a PodView>,
}

// === impl Survey ===

impl<'a> Survey<'a> {
    /// Looks at every pod once.
    pub fn of(facts: &Facts<'a>, memory: &Memory) -> Self {
        let standings: Vec<_> = facts.pods.values().map(|pod| (pod, standing(pod, facts))).collect();
        let mut survey = Self { missed: Vec::new(), siblings: BTreeMap::new(), gated: Vec::new(), skipped: Vec::new() };
        let mut owners: BTreeSet<&str> =
            facts.owners.jobs.values().filter(|job| is_marked(job)).map(|job| job.reference.uid.as_str()).collect();
        for (pod, standing) in &standings {
            if pod.gate.is_some() && *standing != Standing::Over {
                survey.gated.push((pod, *standing));
            }
            match standing {
                Standing::Missed(state) => {
                    survey.missed.push((pod, *state));
                    owners.extend(pod.owner.as_ref().map(|owner| owner.uid.as_str()));
                }
                // What has our gate runs nowhere: there is nothing to remember of it.
                Standing::Skipped if pod.gate.is_some() => {}
                Standing::Skipped => survey.skipped.push(pod),
                Standing::Meshed | Standing::Over | Standing::Unknown => {}
            }
        }
        for (pod, standing) in standings {
            let Some(owner) = &pod.owner else { continue };
            if owners.contains(owner.uid.as_str()) || memory.remembers(&owner.uid) {
                survey.siblings.entry(&owner.uid).or_default().push((pod, standing));
            }
        }
        survey
    }

    /// What an owner has.
    pub fn siblings_of(&self, owner: &str) -> &[(&'a PodView, Standing)] {
        self.siblings.get(owner).map_or(&[], Vec::as_slice)
    }
}

fn is_marked(job: &super::view::OwnerView) -> bool {
    job.job().is_some_and(|job| job.suspended_by_us.is_some())
}
