//! What kubelets do with pods of applications.

use linkerd_gate_core::decide::wait::Then;

use crate::objects::Reported;
use crate::setting::Broken;
use crate::world::{SECOND, World};

/// What happens to a pod on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The kubelet sees it, for the first time or after a boot.
    See,
    /// Its sandbox is there: init containers run.
    Start,
    /// Its app starts.
    Run,
    /// The kubelet says so.
    Report,
    /// A Job's pod has done its work.
    Finish,
    /// It was deleted, and its grace period is over.
    Kill,
}

// === impl World ===

impl World {
    /// One step of the pod of this name and uid, in this boot of its node.
    ///
    /// # Errors
    /// An invariant that does not hold.
    pub fn run_kubelet(&mut self, path: &str, uid: &str, boot: usize, step: Step) -> Result<(), String> {
        let Some(pod) = self.objects.pods.get(path).filter(|pod| pod.uid == uid) else { return Ok(()) };
        let Some(node) = pod.node else { return Ok(()) };
        if !self.machines[node].powered || self.machines[node].boot != boot {
            return Ok(());
        }
        let pod = pod.clone();
        let talks = matches!(step, Step::See | Step::Report | Step::Finish | Step::Kill);
        if talks && !self.api_up {
            let later = self.random.between(500, 2500);
            self.kubelet_in(later, path, step);
            return Ok(());
        }
        if pod.deleting && step != Step::Kill {
            return self.run_kubelet(path, uid, boot, Step::Kill);
        }
        match step {
            Step::See => {
                self.waits.remove(uid);
                let again = pod.ran;
                self.objects.change(path, |pod| {
                    pod.restarts += i32::from(again);
                    pod.reported = if pod.template.waits || !again { Reported::Waiting } else { pod.reported };
                });
                let started = self.random.between(300, 3000);
                self.kubelet_in(started, path, Step::Start);
            }
            Step::Start => {
                if pod.template.waits && pod.reported != Reported::Waits && self.api_up {
                    self.objects.change(path, |pod| pod.reported = Reported::Waits);
                }
                let waits = pod.template.waits && self.setting.broken != Some(Broken::WaitEndsAtOnce);
                match if waits { self.step_wait(&pod, node) } else { Some(Then::Open) } {
                    Some(Then::Open) => {
                        let after = self.random.between(10, 300);
                        self.kubelet_in(after, path, Step::Run);
                    }
                    Some(Then::Exit) => {
                        // The kubelet starts it again where the owner leaves the pod alone.
                        self.waits.remove(uid);
                        let again = self.random.between(10_000, 40_000);
                        self.kubelet_in(again, path, Step::Start);
                    }
                    // None of the drawn pods replaces itself.
                    Some(Then::Hold | Then::Replace) | None => self.kubelet_in(SECOND, path, Step::Start),
                }
            }
            Step::Run => {
                self.waits.remove(uid);
                self.check_start(&pod)?;
                let now = self.now;
                if let Some(pod) = self.objects.pods.get_mut(path) {
                    (pod.runs_since, pod.ran) = (Some(now), true);
                }
                let reported = self.random.between(20, 900);
                self.kubelet_in(reported, path, Step::Report);
            }
            Step::Report => {
                let ready = !pod.meshed || self.identity_up();
                if pod.reported != (Reported::Runs { ready }) {
                    self.objects.change(path, |pod| pod.reported = Reported::Runs { ready });
                }
                if !ready {
                    self.kubelet_in(SECOND, path, Step::Report);
                } else if pod.tracked {
                    let done = self.random.between(2000, 12_000);
                    self.kubelet_in(done, path, Step::Finish);
                }
            }
            Step::Finish => self.objects.change(path, |pod| pod.reported = Reported::Succeeded),
            Step::Kill if !pod.deleting => {}
            Step::Kill if pod.tracked => self.kubelet_in(SECOND, path, Step::Kill),
            Step::Kill => self.objects.remove(path),
        }
        Ok(())
    }
}
