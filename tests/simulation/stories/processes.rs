//! Agents: how they start, what reaches them, and their steps.

use std::rc::Rc;
use std::time::Duration;

use linkerd_gate_core::decide::election::lease_record::LeaseHolder;

use crate::agent::{Agent, Message, Process, Surroundings};
use crate::events::Event;
use crate::world::{EPOCH, World, boot_id, node_name};

// === impl World ===

impl World {
    /// Whether an agent's packets get through to the API server.
    pub fn reaches(&self, agent: usize) -> bool {
        self.api_up && !self.agents[agent].cut_off
    }

    pub fn start_agent(&mut self, node: usize, boot: usize, pod: String) {
        let machine = &mut self.machines[node];
        if !machine.powered || machine.boot != boot || machine.agent_gone {
            return;
        }
        if machine.first_agent.is_none() {
            // A taint that an earlier boot left is this one's from now on.
            machine.first_agent = Some(self.now);
            machine.tainted_since = machine.tainted_since.map(|_| self.now);
        }
        let me = LeaseHolder { name: node_name(node), detail: pod, incarnation: boot_id(node, boot) };
        let twin = self.agents.iter().any(|agent| agent.me == me && agent.process.lives());
        if twin {
            return;
        }
        self.log(|_| format!("{me} starts"));
        self.agents.push(Agent::new(node, me, self.machines[node].booted, self.now, &self.policies));
        let after = self.random.between(20, 800);
        self.schedule(self.now + after, Event::Reconnect(self.agents.len() - 1));
    }

    /// Lists and watches again; tries again later where the API server is out of reach.
    pub fn reconnect(&mut self, agent: usize) {
        if !self.agents[agent].process.lives() || self.agents[agent].watching {
            return;
        }
        if !self.reaches(agent) {
            let after = self.random.between(500, 5000);
            self.schedule(self.now + after, Event::Reconnect(agent));
            return;
        }
        self.agents[agent].watching = true;
        self.agents[agent].undisturbed = self.now;
        let node = Message::Node(Rc::clone(&self.api.nodes[self.agents[agent].node]));
        let lease = Message::Lease(self.api.lease.clone());
        for message in [node, lease, Message::Controller(self.api.controller.clone())] {
            self.schedule(self.now, Event::Deliver(agent, message));
        }
    }

    /// Breaks an agent's watches: what changes now it learns when it lists again. That it does not see it knows once a list fails: soon
    /// where the API server is down, and only after a long silence where packets are lost.
    pub fn break_watches(&mut self, agent: usize) {
        if self.agents[agent].watching {
            self.agents[agent].watching = false;
            let longest = if self.agents[agent].cut_off { 30_000 } else { 4000 };
            let noticed = self.random.between(10, longest);
            self.schedule(self.now + noticed, Event::Deliver(agent, Message::Trouble));
            let after = self.random.between(100, 8000);
            self.schedule(self.now + after, Event::Reconnect(agent));
        }
    }

    pub fn break_all_watches(&mut self) {
        self.api_undisturbed = self.now;
        for one in self.living_replicas() {
            self.break_replica(one, Duration::ZERO);
        }
        for agent in 0..self.agents.len() {
            self.break_watches(agent);
        }
    }

    pub fn api_settled(&mut self) {
        self.api_undisturbed = self.now;
    }

    pub fn notify_lease(&mut self) {
        self.note_said();
        for agent in 0..self.agents.len() {
            self.notify(agent, Message::Lease(self.api.lease.clone()));
        }
    }

    pub fn notify_node(&mut self, node: usize) {
        self.note_nodes();
        for agent in 0..self.agents.len() {
            if self.agents[agent].node == node {
                self.notify(agent, Message::Node(Rc::clone(&self.api.nodes[node])));
            }
        }
    }

    /// Sends what changed to one who watches. Whatever else changes before it arrives is in it: a watch may skip, and it never
    /// goes back.
    pub fn notify(&mut self, agent: usize, message: Message) {
        if self.agents[agent].watching && self.agents[agent].process.lives() {
            let after = self.random.between(1, if self.api_slow { 3000 } else { 150 });
            self.schedule(self.now + after, Event::Deliver(agent, message));
        }
    }

    pub fn deliver(&mut self, agent: usize, message: Message) -> Result<(), String> {
        // A watch tells what is there when it tells it.
        let message = match message {
            Message::Lease(_) | Message::Node(_) | Message::Controller(_) if !self.agents[agent].watching => {
                return Ok(());
            }
            Message::Trouble if self.agents[agent].watching => return Ok(()),
            Message::Trouble => Message::Trouble,
            Message::Controller(_) => Message::Controller(self.api.controller.clone()),
            Message::Lease(_) => Message::Lease(self.api.lease.clone()),
            Message::Node(_) => Message::Node(Rc::clone(&self.api.nodes[self.agents[agent].node])),
            answer @ Message::Answer(..) => answer,
        };
        match self.agents[agent].process {
            Process::Ended => Ok(()),
            Process::Hangs => {
                self.agents[agent].inbox.push(message);
                Ok(())
            }
            Process::Runs => {
                self.agents[agent].receive(message, self.now, &mut self.random);
                self.step(agent)
            }
        }
    }

    /// A process goes on. Which of what waits for it comes first is not promised.
    pub fn wake_up(&mut self, agent: usize) {
        if self.agents[agent].process != Process::Hangs {
            return;
        }
        self.agents[agent].process = Process::Runs;
        self.agents[agent].undisturbed = self.now;
        let inbox = std::mem::take(&mut self.agents[agent].inbox);
        let late = if self.random.chance(50) { Duration::from_millis(5) } else { Duration::ZERO };
        let alarm = self.agents[agent].alarm;
        self.schedule(self.now + Duration::from_millis(2), Event::Wake { agent, alarm });
        for message in inbox {
            self.schedule(self.now + late, Event::Deliver(agent, message));
        }
    }

    pub fn end(&mut self, agent: usize) {
        self.agents[agent].process = Process::Ended;
        self.agents[agent].inbox.clear();
    }

    /// Those that live, on a node or anywhere.
    pub fn living(&self, node: Option<usize>) -> Vec<usize> {
        let all = self.agents.iter().enumerate();
        all.filter(|(_, agent)| agent.process.lives() && node.is_none_or(|node| node == agent.node))
            .map(|(number, _)| number)
            .collect()
    }

    pub fn step(&mut self, agent: usize) -> Result<(), String> {
        if self.agents[agent].process != Process::Runs {
            return Ok(());
        }
        let identity = self.identity_seen_from(self.agents[agent].node);
        let wall = self.wall();
        let mut around = Surroundings {
            now: self.now,
            wall,
            policies: &self.policies,
            random: &mut self.random,
            identity,
            installed: EPOCH,
            cluster: &self.cluster,
        };
        let process = &mut self.agents[agent];
        let open = process.follower.gate().is_open();
        let wanted = process.wants_controller;
        let requests = process.step(&mut around)?;
        let begins = process.wants_controller && !wanted;
        process.alarm += 1;
        let (alarm, wake) = (process.alarm, process.wake().max(self.now + Duration::from_micros(1)));
        self.schedule(wake, Event::Wake { agent, alarm });
        if open != self.agents[agent].follower.gate().is_open() {
            self.log(|world| format!("{}: gate {}", world.agents[agent].me, world.agents[agent].follower.gate()));
        }
        if begins {
            self.notify(agent, Message::Controller(None));
        }
        for request in requests {
            self.send(agent, request)?;
        }
        Ok(())
    }
}
