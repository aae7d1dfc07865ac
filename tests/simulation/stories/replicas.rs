//! The controller's replicas: how they start, what reaches them, and their steps.

use std::rc::Rc;
use std::time::Duration;

use linkerd_gate_core::decide::election::lease_record::LeaseHolder;

use crate::agent::Process;
use crate::controller::{Around, Ask, Controller, Current, News, Said};
use crate::events::Event;
use crate::objects::Channel;
use crate::world::{World, node_name};

/// One eviction in so much time, as the worlds' policies say: written down again, so that a change of the program's own is seen.
const EVICTION_EACH: Duration = Duration::from_secs(6);

// === impl World ===

impl World {
    /// A replica's process starts, in a pod of this name and uid.
    pub fn start_replica(&mut self, seat: usize, pod: usize) {
        if !self.setting.replicas || self.replicas.iter().any(|one| one.seat == seat && one.process.lives()) {
            return;
        }
        let powered: Vec<usize> = (0..self.machines.len()).filter(|node| self.machines[*node].powered).collect();
        if powered.is_empty() || !self.api_up {
            let later = self.random.between(2000, 6000);
            self.schedule(self.now + later, Event::StartReplica { seat, pod });
            return;
        }
        // A container that starts again does so where its pod is.
        let place = powered[self.random.below(powered.len())];
        let node = *self.seats.entry((seat, pod)).or_insert(place);
        if !self.machines[node].powered {
            let (later, moves) = (self.random.between(3000, 12_000), self.random.chance(20));
            self.schedule(self.now + later, Event::StartReplica { seat, pod: pod + usize::from(moves) });
            return;
        }
        let me = LeaseHolder {
            name: format!("controller-{seat}-{pod}"),
            detail: node_name(node),
            incarnation: format!("uid-{seat}-{pod}"),
        };
        self.log(|_| format!("{me} starts"));
        let replica = Controller::new(seat, pod, node, me, self.now);
        self.replicas.push(replica);
        let after = self.random.between(20, 800);
        self.schedule(self.now + after, Event::ReplicaReconnects(self.replicas.len() - 1));
    }

    pub fn living_replicas(&self) -> Vec<usize> {
        (0..self.replicas.len()).filter(|one| self.replicas[*one].process.lives()).collect()
    }

    /// A replica's process ends. Another begins in the same pod, or in a new one.
    pub fn end_replica(&mut self, one: usize, new_pod: bool, after: Duration) {
        let replica = &mut self.replicas[one];
        if !replica.process.lives() {
            return;
        }
        replica.process = Process::Ended;
        replica.inbox.clear();
        replica.leader = None;
        replica.open.clear();
        let (seat, pod) = (replica.seat, replica.pod + usize::from(new_pod));
        self.log(|world| format!("{} ends", world.replicas[one].me));
        self.schedule(self.now + after, Event::StartReplica { seat, pod });
    }

    pub fn replica_reaches(&self, one: usize) -> bool {
        self.api_up && !self.replicas[one].cut_off
    }

    /// Lists what it cannot see, and watches again.
    pub fn reconnect_replica(&mut self, one: usize) {
        if !self.replicas[one].process.lives() {
            return;
        }
        if !self.replica_reaches(one) {
            let later = self.random.between(500, 4000);
            self.schedule(self.now + later, Event::ReplicaReconnects(one));
            return;
        }
        self.replicas[one].watching = true;
        self.replicas[one].undisturbed = self.now;
        self.send_lease_to(one);
        self.list_all(one);
        // A watch that goes on where it was shows what it has missed.
        for channel in Channel::ALL {
            self.stream_to(one, channel);
        }
    }

    fn list_all(&mut self, one: usize) {
        let generation = self.replicas[one].generation;
        let Some(leader) = &self.replicas[one].leader else { return };
        let unseen = Channel::ALL.into_iter().filter(|channel| leader.end_of(*channel).is_none());
        for channel in unseen.collect::<Vec<_>>() {
            let after = self.random.between(10, 600);
            self.schedule(self.now + after, Event::ReplicaLists { one, generation, channel });
        }
    }

    /// One list of a stream.
    pub fn list(&mut self, one: usize, generation: u64, channel: Channel) {
        let replica = &self.replicas[one];
        if !replica.process.lives() || replica.generation != generation || replica.leader.is_none() {
            return;
        }
        if !self.replica_reaches(one) {
            let later = self.random.between(300, 3000);
            self.schedule(self.now + later, Event::ReplicaLists { one, generation, channel });
            return;
        }
        let (changes, end) = (self.objects.list(channel), self.objects.end_of(channel));
        let news = News::Stream { generation, channel, listed: true, end, changes, current: self.current(channel) };
        let after = self.latency();
        self.schedule(self.now + after, Event::ReplicaHears(one, news));
    }

    /// What is read when it is delivered.
    fn current(&self, channel: Channel) -> Current {
        let mut current = Current::default();
        match channel {
            Channel::Webhooks => current.webhooks = Some(Rc::clone(&self.webhooks)),
            Channel::Nodes => current.nodes = Some(self.api.nodes.clone()),
            Channel::Namespaces => current.namespaces = true,
            Channel::Override => {
                let said = self.api.lease.as_ref().and_then(|word| word.record.manual_override.clone());
                current.manual_override = Some(Said(said));
            }
            _ => {}
        }
        current
    }

    /// Tells those who watch what has changed since.
    pub fn spread_news(&mut self) {
        if self.objects.news.is_empty() {
            return;
        }
        let mut news = std::mem::take(&mut self.objects.news);
        news.sort_unstable();
        news.dedup();
        for one in self.living_replicas() {
            if self.replicas[one].leader.is_none() || !self.replicas[one].watching {
                continue;
            }
            for channel in &news {
                self.stream_to(one, *channel);
            }
        }
    }

    fn stream_to(&mut self, one: usize, channel: Channel) {
        let replica = &self.replicas[one];
        let generation = replica.generation;
        let end = self.objects.end_of(channel);
        let lag = self.random.between(1, if self.api_slow { 3000 } else { 120 });
        let at = (self.now + lag).max(replica.stalled.get(&channel).copied().unwrap_or_default());
        self.schedule(at, Event::ReplicaSees { one, generation, channel, end });
    }

    /// Changes of a stream arrive.
    pub fn stream(&mut self, one: usize, generation: u64, channel: Channel, end: usize) -> Result<(), String> {
        let replica = &self.replicas[one];
        if replica.generation != generation || !replica.watching || !self.replica_reaches(one) {
            return Ok(());
        }
        let Some(from) = replica.leader.as_ref().and_then(|leader| leader.end_of(channel)) else { return Ok(()) };
        if from >= end {
            return Ok(());
        }
        let changes = self.objects.log(channel, from, end).to_vec();
        let news = News::Stream { generation, channel, listed: false, end, changes, current: self.current(channel) };
        self.hear(one, news)
    }

    /// A replica's watches end: it lists again after a while, and knows meanwhile that it does not see.
    pub fn break_replica(&mut self, one: usize, noticed: Duration) {
        let replica = &mut self.replicas[one];
        replica.watching = false;
        replica.undisturbed = self.now;
        let generation = replica.generation;
        for channel in Channel::ALL {
            self.schedule(self.now + noticed, Event::ReplicaHears(one, News::Trouble { generation, channel }));
        }
        let again = noticed + self.random.between(100, 8000);
        self.schedule(self.now + again, Event::ReplicaReconnects(one));
    }

    pub fn notify_controller_lease(&mut self) {
        for agent in 0..self.agents.len() {
            if self.agents[agent].wants_controller {
                self.notify(agent, crate::agent::Message::Controller(None));
            }
        }
        for one in self.living_replicas() {
            if self.replicas[one].watching {
                self.send_lease_to(one);
            }
        }
    }

    fn send_lease_to(&mut self, one: usize) {
        let lag = self.random.between(1, if self.api_slow { 3000 } else { 120 });
        self.schedule(self.now + lag, Event::ReplicaHears(one, News::Lease(None)));
    }

    /// Something reaches a replica.
    pub fn hear(&mut self, one: usize, news: News) -> Result<(), String> {
        let news = match news {
            News::Lease(_) if !self.replicas[one].watching => return Ok(()),
            News::Lease(_) => News::Lease(self.api.controller.clone()),
            news => news,
        };
        match self.replicas[one].process {
            Process::Ended => return Ok(()),
            Process::Hangs => {
                self.replicas[one].inbox.push(news);
                return Ok(());
            }
            Process::Runs => {}
        }
        let listed = match &news {
            News::Stream { listed: true, channel, .. } => Some(*channel),
            _ => None,
        };
        self.turn(one, Some(news))?;
        // What has changed since that list was read.
        if let Some(channel) = listed.filter(|_| self.replicas[one].leader.is_some()) {
            self.stream_to(one, channel);
        }
        Ok(())
    }

    /// One turn of a replica that runs.
    pub fn turn(&mut self, one: usize, news: Option<News>) -> Result<(), String> {
        if self.replicas[one].process != Process::Runs {
            return Ok(());
        }
        let wall = self.wall() + self.replicas[one].clock;
        let replica = &mut self.replicas[one];
        let policy = self.setting.repair.clone();
        let mut around = Around {
            now: self.now,
            wall,
            policy: &policy,
            orphan_after: self.setting.orphan_after,
            random: &mut self.random,
        };
        let (led, generation) = (replica.leader.is_some(), replica.generation);
        let mut asks = news.map(|news| replica.receive(news, &mut around)).unwrap_or_default();
        asks.extend(replica.step(&mut around));
        replica.alarm += 1;
        let (alarm, wake) = (replica.alarm, replica.wake.max(self.now + Duration::from_millis(1)));
        self.schedule(wake, Event::ReplicaWakes { one, alarm });
        if self.replicas[one].generation != generation {
            self.log(|world| format!("{} leads", world.replicas[one].me));
            self.leaderships_in_lie += usize::from(self.injector_lies);
            self.list_all(one);
        } else if led && self.replicas[one].leader.is_none() {
            self.log(|world| format!("{} no longer leads", world.replicas[one].me));
        }
        for ask in asks {
            if !self.replicas[one].process.lives() {
                break;
            }
            self.send_ask(one, ask)?;
        }
        Ok(())
    }

    fn send_ask(&mut self, one: usize, ask: Ask) -> Result<(), String> {
        let writes = ask.writes();
        if writes {
            self.log(|world| format!("{} sends {ask:?}", world.replicas[one].me));
            self.counts.repairs += 1;
            self.check_sent(one, &ask)?;
        }
        if ask.is_eviction() {
            let before = self.replicas[one].evicted_at.replace(self.now);
            if before.is_some_and(|before| self.now < before + EVICTION_EACH) {
                return Err(format!("{} evicts at {before:?} and again", self.replicas[one].me));
            }
        }
        let number = self.replicas[one].number(self.now, ask.clone());
        let after = self.latency();
        self.schedule(self.now + after, Event::ReplicaAsks { one, number, ask });
        if writes && let Some(left) = &mut self.replicas[one].dies_after {
            *left -= 1;
            if *left == 0 {
                let (new_pod, pause) = (self.random.chance(30), self.random.between(500, 10_000));
                self.end_replica(one, new_pod, pause);
            }
        }
        Ok(())
    }

    /// A request arrives at the API server, or does not.
    pub fn asked(&mut self, one: usize, number: u64, ask: Ask) -> Result<(), String> {
        if self.replicas[one].cut_off {
            return Ok(());
        }
        let reply = if self.api_up { self.apply(one, ask)? } else { crate::writes::refused(ask) };
        self.note_conflict(one, &reply);
        if !self.calm && self.random.chance(2) {
            // Done, and the answer lost.
            return Ok(());
        }
        let after = self.latency();
        self.schedule(self.now + after, Event::ReplicaReply { one, number, reply });
        Ok(())
    }

    /// A process goes on.
    pub fn wake_replica(&mut self, one: usize) {
        let replica = &mut self.replicas[one];
        if replica.process != Process::Hangs {
            return;
        }
        replica.process = Process::Runs;
        replica.undisturbed = self.now;
        let alarm = replica.alarm;
        let inbox = std::mem::take(&mut replica.inbox);
        let late = if self.random.chance(50) { Duration::from_millis(5) } else { Duration::ZERO };
        self.schedule(self.now + Duration::from_millis(2), Event::ReplicaWakes { one, alarm });
        for news in inbox {
            self.schedule(self.now + late, Event::ReplicaHears(one, news));
        }
    }
}
