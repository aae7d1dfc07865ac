//! The queue: what happens when, and what is done then.

use std::time::Duration;

use crate::agent::{Answer, Message};
use crate::api_server::Request;
use crate::controller::{Ask, News, Reply};
use crate::kubelet::Step;
use crate::objects::Channel;
use crate::random::Random;
use crate::story::Happening;
use crate::world::{SECOND, World};

/// What happens, and when. The number keeps the order of what happens at one instant.
pub struct Scheduled {
    pub at: Duration,
    pub number: u64,
    pub event: Event,
}

pub enum Event {
    Tick,
    Wake { agent: usize, alarm: u64 },
    Notice(usize),
    Reconnect(usize),
    Deliver(usize, Message),
    Arrive { agent: usize, request: Request, sent: Duration },
    Respond { agent: usize, answer: Answer, sent: Duration },
    StartAgent { node: usize, boot: usize, pod: String },
    Happen(Happening, Option<u64>),
    Kubelet { path: String, uid: String, boot: usize, step: Step },
    StartReplica { seat: usize, pod: usize },
    ReplicaWakes { one: usize, alarm: u64 },
    ReplicaReconnects(usize),
    ReplicaLists { one: usize, generation: u64, channel: Channel },
    ReplicaSees { one: usize, generation: u64, channel: Channel, end: usize },
    ReplicaHears(usize, News),
    ReplicaAsks { one: usize, number: u64, ask: Ask },
    ReplicaReply { one: usize, number: u64, reply: Reply },
}

// === impl Scheduled ===

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

// === impl World ===

impl World {
    pub fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick => {
                self.schedule(self.now + SECOND, Event::Tick);
                self.schedule_pods();
                self.run_daemon_sets();
                self.note_second();
                self.note_override();
                self.run_owners()?;
                self.bind_pods();
                self.notice_linkerd();
                self.check_closed()
            }
            Event::Wake { agent, alarm } => {
                if self.agents[agent].alarm == alarm {
                    self.step(agent)
                } else {
                    Ok(())
                }
            }
            Event::Notice(agent) => {
                let now = self.now;
                self.agents[agent].notice(now);
                self.step(agent)
            }
            Event::Reconnect(agent) => {
                self.reconnect(agent);
                Ok(())
            }
            Event::Deliver(agent, message) => self.deliver(agent, message),
            Event::Arrive { agent, request, sent } => self.arrive(agent, request, sent),
            Event::Respond { agent, answer, sent } => {
                let answer = if self.reaches(agent) { answer } else { crate::requests::lost(answer) };
                self.deliver(agent, Message::Answer(answer, sent))
            }
            Event::StartAgent { node, boot, pod } => {
                self.start_agent(node, boot, pod);
                Ok(())
            }
            Event::Happen(happening, seed) => {
                self.log(|_| format!("-- {happening:?}"));
                let own = seed.map(|seed| std::mem::replace(&mut self.random, Random::new(seed)));
                happening.happen(self);
                self.random = own.unwrap_or_else(|| self.random.clone());
                Ok(())
            }
            Event::Kubelet { path, uid, boot, step } => self.run_kubelet(&path, &uid, boot, step),
            Event::StartReplica { seat, pod } => {
                self.start_replica(seat, pod);
                Ok(())
            }
            Event::ReplicaWakes { one, alarm } if self.replicas[one].alarm == alarm => self.turn(one, None),
            Event::ReplicaReconnects(one) => {
                self.reconnect_replica(one);
                Ok(())
            }
            Event::ReplicaLists { one, generation, channel } => {
                self.list(one, generation, channel);
                Ok(())
            }
            Event::ReplicaSees { one, generation, channel, end } => self.stream(one, generation, channel, end),
            Event::ReplicaHears(one, news) => self.hear(one, news),
            Event::ReplicaAsks { one, number, ask } => self.asked(one, number, ask),
            Event::ReplicaReply { one, number, reply } if self.replica_reaches(one) => {
                self.hear(one, News::Reply(number, reply))
            }
            Event::ReplicaReply { .. } | Event::ReplicaWakes { .. } => Ok(()),
        }
    }
}
