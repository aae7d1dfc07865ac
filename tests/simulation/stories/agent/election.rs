//! An agent's election: the elector's steps, and the writes of the Lease.

use std::time::Duration;

use linkerd_gate_core::decide::election::elector::{Pause, Step};

use super::{Agent, Surroundings};
use crate::api_server::{LeaseWrite, Request};
use crate::random::Random;

/// The longest time that an agent that finds the Lease vacant leaves it to others.
const TAKEN_WITHIN_MILLIS: u64 = 5000;

// === impl Agent ===

impl Agent {
    pub(super) fn elect(&mut self, around: &mut Surroundings<'_>, requests: &mut Vec<Request>) {
        let (now, local) = (around.now, self.local(around.now));
        loop {
            if let Some((_, verdict)) = self.writing.take_if(|(number, _)| *number == self.elector.accepted()) {
                self.written = Some(verdict);
            }
            let verdict = self.verdict().map(|verdict| self.format.apply(verdict));
            let news =
                verdict.as_ref().filter(|verdict| self.written.as_ref() != Some(verdict)).map(|_| Duration::ZERO);
            match self.elector.step(local, news, &mut |pause| length(pause, around.random)) {
                Step::Wait { until } => {
                    if let Some(until) = until {
                        self.wake_at(self.booted + until, now);
                    }
                    return;
                }
                Step::Write(write) => {
                    let evidence = self.prover.as_ref().map_or(self.truth.evidence, |prover| prover.evidence);
                    let verdict = verdict.unwrap_or_else(|| self.format.apply(self.begin(now).verdict()));
                    self.writing = Some((write.number, verdict.clone()));
                    let renewed = now.as_micros().to_string();
                    self.elector.sent(write.number, renewed.clone());
                    let record = write.record.as_ref();
                    let ours = record.is_some_and(|record| record.holder.as_ref() == Some(&self.me));
                    let transitions = record.map_or(0, |record| record.transitions);
                    requests.push(Request::WriteLease(LeaseWrite {
                        number: write.number,
                        resource_version: record.map(|record| record.resource_version.clone()),
                        holder: self.me.clone(),
                        renewed,
                        transitions: if ours { transitions } else { transitions + 1 },
                        verdict,
                        evidence,
                    }));
                }
                Step::Lead(_) => {
                    self.prover = Some(self.begin(now));
                    self.elector.note_probes(local);
                }
                Step::StepDown(_) => self.prover = None,
            }
        }
    }
}

pub(super) fn length(pause: Pause, random: &mut Random) -> Duration {
    match pause {
        Pause::Acquire => random.between(0, TAKEN_WITHIN_MILLIS),
        Pause::Retry => random.between(500, 1500),
    }
}
