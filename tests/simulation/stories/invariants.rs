//! What holds after every step: of nodes, the Lease and the agents.

use std::collections::BTreeMap;
use std::time::Duration;

use linkerd_gate_core::decide::election::lease_record::{LEASE_DURATION, LeaseHolder};
use linkerd_gate_core::decide::manual_override::ANNOTATION;
use linkerd_gate_core::decide::node::taint::{Edit, NodeChange, NodeState, NodeView, Opened};
use linkerd_gate_core::decide::{ManualOverride, PublishedVerdict};

use crate::agent::{Agent, Process};
use crate::api_server::{Truth, Word};
use crate::world::{EPOCH, Part, Published, SECOND, World, boot_id, node_name};

// === impl World ===

impl World {
    pub fn note_taint(&mut self, node: usize) {
        let tainted = self.api.is_tainted(node);
        if self.cluster.places.len() == self.machines.len() {
            self.cluster.places[node] = self.place(node);
        }
        if self.daemon_set_lacks {
            self.notify_provers();
        }
        let machine = &mut self.machines[node];
        machine.tainted_since = tainted.then(|| machine.tainted_since.unwrap_or(self.now));
    }

    /// At most one agent proves: the one that holds the Lease.
    pub fn check_dry_run(&self, agent: usize) -> Result<(), String> {
        let holder = self.api.lease.as_ref().and_then(|word| word.record.holder.as_ref());
        let me = &self.agents[agent].me;
        let deleted = self.lease_deleted.is_some_and(|at| self.now < at + Duration::from_secs(20));
        if holder == Some(me) || deleted {
            return Ok(());
        }
        Err(format!("{me} proves, though the Lease is {holder:?}'s"))
    }

    /// No agent takes the Lease from a prover that may still be acting, and none overwrites a successor.
    pub fn check_lease(&self, before: Option<&Word>, holder: &LeaseHolder, transitions: i32) -> Result<(), String> {
        let Some(word) = before else { return Ok(()) };
        let Some(former) = &word.record.holder else { return Ok(()) };
        if former == holder {
            return Ok(());
        }
        let dead = former.name == holder.name && former.incarnation != holder.incarnation;
        let silent = self.now.saturating_sub(word.truth.renewed);
        if !dead && silent < LEASE_DURATION {
            return Err(format!("{holder} took the Lease from {former}, which had renewed it {silent:?} ago"));
        }
        if transitions != word.record.transitions + 1 {
            return Err(format!("{holder} took the Lease from {former} without counting it"));
        }
        Ok(())
    }

    /// No node opens in a boot before something allows it.
    pub fn check_patch(
        &mut self,
        agent: usize,
        before: &NodeView,
        change: &NodeChange,
        state: &NodeState,
        truth: Truth,
    ) -> Result<(), String> {
        let Agent { node, me, .. } = &self.agents[agent];
        let machine = &self.machines[*node];
        let opens = matches!(change.opened_boot, Edit::Set(_)) || change.taint == Edit::Remove;
        if !opens || me.incarnation != boot_id(*node, machine.boot) || !machine.powered {
            return Ok(());
        }
        let allowed = match state {
            NodeState::Open(opened @ (Opened::Proven | Opened::BeforeRepair(_))) => {
                self.counts.proven += 1;
                let waited = match opened {
                    Opened::BeforeRepair(_) => {
                        self.counts.before_repair += 1;
                        self.has_waited(agent)
                    }
                    _ => !self.must_wait(agent),
                };
                waited && truth.evidence.is_some_and(|evidence| evidence >= machine.power_lost)
            }
            NodeState::Open(Opened::TooLongClosed) => {
                self.counts.too_long_closed += 1;
                machine.first_agent.is_some_and(|since| self.now + SECOND >= since + self.setting.max_closed)
            }
            NodeState::Open(Opened::NotInstalled) => {
                // Who was cut off goes by what it saw last: what is unknown closes no gate that is open.
                let agent = &self.agents[agent];
                let blind = !self.is_undisturbed(agent, Duration::from_secs(40));
                self.webhook_absent.is_some_and(|at| blind || self.now < at + Duration::from_secs(40))
            }
            NodeState::Open(Opened::Overridden(word)) => {
                word.open && word.until.duration_since(self.wall()).as_secs() > -20
            }
            NodeState::Open(Opened::ThisBoot) => before.opened_boot.as_ref() == Some(&me.incarnation),
            NodeState::Open(Opened::Adopted) => before.opened_boot.is_none() && before.created <= Some(EPOCH),
            NodeState::TaintSuppressed(_) => {
                machine.cni_lacked.is_some_and(|at| self.now < at + Duration::from_secs(40))
            }
            NodeState::Open(Opened::LeftOpen) | NodeState::Closed { .. } | NodeState::Undecided => false,
        };
        if allowed {
            return Ok(());
        }
        Err(format!(
            "{me} opens its node as {state:?}: evidence from {:?}, power lost at {:?}, first agent at {:?}",
            truth.evidence, machine.power_lost, machine.first_agent
        ))
    }

    /// Whether an agent has to know that the controller still replaces pods.
    pub fn must_wait(&self, agent: usize) -> bool {
        let patience = Duration::from_secs(10);
        let Published { renewed, since: published_since } = self.published;
        self.is_undisturbed(&self.agents[agent], patience)
            && self.now < renewed + Duration::from_secs(8)
            && published_since.is_some_and(|since| self.now >= since + patience)
    }

    /// Whether an agent's node has waited for the controller for as long as it may.
    pub fn has_waited(&self, agent: usize) -> bool {
        let Agent { node, follower, booted, .. } = &self.agents[agent];
        let grace = self.setting.repair_grace;
        let since = self.machines[*node].first_agent.unwrap_or(self.now);
        follower.gate().open_since().is_none_or(|since| self.now >= *booted + since + grace)
            || self.now + SECOND >= since + self.setting.max_closed
    }

    /// Whether nothing has been in an agent's way for so long.
    pub fn is_undisturbed(&self, agent: &Agent, during: Duration) -> bool {
        agent.process == Process::Runs
            && !agent.cut_off
            && agent.watching
            && self.api_up
            && !self.api_slow
            && self.now >= agent.undisturbed + during
            && self.now >= self.api_undisturbed + during
    }

    pub fn is_closed_by_override(&self) -> bool {
        self.closed_by_override_until.is_some_and(|until| self.now < until + Duration::from_secs(15))
    }

    /// No node stays closed for longer than it may, and none is tainted while that keeps an essential DaemonSet away.
    pub fn check_closed(&mut self) -> Result<(), String> {
        if !self.webhook_present {
            self.webhook_absent = Some(self.now);
        }
        let fresh = self.api.lease.as_ref().filter(|word| self.now < word.truth.renewed + Duration::from_secs(8));
        let published = fresh.and_then(|word| PublishedVerdict::read(word.record.verdict.as_deref()?).ok());
        for node in 0..self.machines.len() {
            let named =
                published.as_ref().is_some_and(|published| !published.suppressed_by(&node_name(node)).is_empty());
            let machine = &mut self.machines[node];
            machine.suppressed_since = named.then(|| machine.suppressed_since.unwrap_or(self.now));
        }
        self.check_suppressions()?;
        if self.is_closed_by_override() {
            return Ok(());
        }
        let patience = Duration::from_secs(15);
        for agent in self.agents.iter().filter(|agent| self.is_undisturbed(agent, patience)) {
            let node = &self.api.nodes[agent.node];
            let Some(since) = self.machines[agent.node].tainted_since else { continue };
            // Time that was closed by hand does not count, and an agent counts from when it could see its node.
            let since = self
                .closed_by_override_until
                .map_or(since, |until| since.max(until))
                .max(agent.undisturbed)
                .max(self.api_undisturbed);
            if node.shutting_down {
                continue;
            }
            if self.now >= since + self.setting.max_closed + patience {
                return Err(format!("{} has been closed since {since:?}, as {:?}", node.name, agent.state));
            }
            let suppressed_since = self.machines[agent.node].suppressed_since;
            if suppressed_since.is_some_and(|at| self.now >= at + patience) && self.now >= since + patience {
                return Err(format!(
                    "{} is tainted as {:?} though kube-system/cni must run there",
                    node.name, agent.state
                ));
            }
        }
        Ok(())
    }

    /// A node that has its pod does not yield: no taint ends that.
    pub fn check_suppressions(&self) -> Result<(), String> {
        let patience = Duration::from_secs(40);
        let holder = self.api.lease.as_ref().and_then(|word| word.record.holder.as_ref());
        let Some(prover) = self.agents.iter().find(|agent| Some(&agent.me) == holder) else { return Ok(()) };
        if !self.is_undisturbed(prover, patience) || !self.webhook_present {
            return Ok(());
        }
        for (node, machine) in self.machines.iter().enumerate() {
            let for_long = |since: Option<Duration>| since.is_some_and(|since| self.now >= since + patience);
            if for_long(machine.cni_since) && for_long(machine.suppressed_since) {
                return Err(format!("{} yields to what it has since {:?}", node_name(node), machine.cni_since));
            }
        }
        Ok(())
    }

    /// Once Linkerd is healthy and nothing disturbs, everything is open and everything essential has its node.
    pub fn check_all_open(&self) -> Result<(), String> {
        if !self.injects() {
            let waiting: Vec<&str> =
                self.pods.iter().filter(|pod| pod.node.is_none()).map(|pod| pod.view.name.as_str()).collect();
            return Err(format!("Linkerd does not come up; these pods wait for a node: {waiting:?}"));
        }
        if let Some(pod) = self.pods.iter().find(|pod| pod.node.is_none() && pod.part != Part::Unschedulable) {
            return Err(format!("{} has no node", pod.view.name));
        }
        for agent in self.agents.iter().filter(|agent| agent.process.lives()) {
            let node = &self.api.nodes[agent.node];
            let opened = !self.setting.taints || node.opened_boot.as_ref() == Some(&agent.me.incarnation);
            if self.api.is_tainted(agent.node) || !opened || !agent.follower.gate().is_open() {
                let gate = agent.follower.gate();
                return Err(format!("{} is not open: {:?}; its gate is {gate}; {node:?}", agent.me, agent.state));
            }
        }
        Ok(())
    }

    /// The node's annotation of that name, given by a person.
    pub fn annotate_node(&mut self, node: usize, word: Option<ManualOverride>) {
        self.log(|_| format!("-- {ANNOTATION} of node-{node}: {word:?}"));
        self.api.change_node(node, |view| view.manual_override = word.map(|word| word.to_string()));
        self.notify_node(node);
    }

    /// How many agents live on each node.
    pub fn agents_by_node(&self) -> BTreeMap<usize, usize> {
        self.agents.iter().filter(|agent| agent.process.lives()).fold(BTreeMap::new(), |mut all, agent| {
            *all.entry(agent.node).or_default() += 1;
            all
        })
    }
}
