//! What befalls the controllers and the applications, and what people do to them.

use std::time::Duration;

use k8s_openapi::jiff::SignedDuration;
use linkerd_gate_core::decide::repair::Kind;

use crate::agent::Process;
use crate::objects::{AppPod, Channel};
use crate::random::Format;
use crate::story::{Happening, ends};
use crate::world::World;

/// Makes it so, and draws when it ends.
pub fn happen(happening: &Happening, world: &mut World) {
    match happening {
        Happening::ReplicaCrashes
        | Happening::ReplicaDiesWriting(_)
        | Happening::ReplicaHangs
        | Happening::ReplicaCutOff
        | Happening::StreamsBreak
        | Happening::StreamStalls
        | Happening::ReplicaOfOtherVersion { .. }
        | Happening::ClockJumps => {
            if let Some(one) = victim(world) {
                befall(happening, one, world);
            }
        }
        Happening::ReplicaWakesUp(one) => world.wake_replica(*one),
        Happening::ReplicaReconnected(one) => {
            world.replicas[*one].cut_off = false;
            world.replicas[*one].undisturbed = world.now;
        }
        Happening::ClockRight(one) => {
            world.replicas[*one].clock = SignedDuration::ZERO;
            world.replicas[*one].undisturbed = world.now;
        }
        Happening::ControllerLeaseDeleted => {
            world.controller_lease_deleted = Some(world.now);
            world.api.controller = None;
            world.notify_controller_lease();
        }
        Happening::AgentOfOtherVersion { more } => {
            // Mostly the one that proves: only its words are read.
            let living = world.living(None);
            let prover = living.iter().copied().find(|agent| world.agents[*agent].acts(world.now));
            if let Some(agent) = prover.or_else(|| living.first().copied()) {
                world.agents[agent].format = if *more { Format::More } else { Format::Other };
            }
        }
        Happening::BarePodMade if world.setting.apps => world.make_bare_pod(),
        Happening::OwnerMade if world.setting.apps && world.objects.owners.len() < 8 => world.make_owner(),
        Happening::PodDeleted => {
            if let Some(pod) = any_pod(world, |pod| !pod.deleting) {
                world.delete_pod(&pod);
            }
        }
        Happening::PodReleased => {
            if let Some(pod) = any_pod(world, |pod| pod.gated) {
                world.objects.change(&pod, |pod| pod.released = true);
            }
        }
        Happening::OwnerScaled => {
            let scales = |kind: &Kind| matches!(kind, Kind::ReplicaSet | Kind::ReplicationController);
            if let Some(owner) = any_owner(world, scales) {
                world.objects.owners[owner].wanted += 1;
                let now = world.now;
                world.objects.touch(owner, now);
            }
        }
        Happening::JobSuspended => {
            let is_job = |kind: &Kind| *kind == Kind::Job;
            if let Some(owner) = any_owner(world, is_job).filter(|owner| !world.objects.owners[*owner].suspended) {
                suspend(world, owner, true);
                ends(world, (2000, 40_000), Happening::JobResumed(owner));
            }
        }
        Happening::JobResumed(owner) if world.objects.owners[*owner].mark.is_none() => suspend(world, *owner, false),
        _ => {}
    }
}

fn suspend(world: &mut World, owner: usize, suspended: bool) {
    if world.objects.owners[owner].suspended != suspended {
        world.objects.owners[owner].suspended = suspended;
        let now = world.now;
        world.objects.touch(owner, now);
    }
}

fn befall(happening: &Happening, one: usize, world: &mut World) {
    match happening {
        Happening::ReplicaCrashes => {
            let (moves, after) = (world.random.chance(40), world.random.between(500, 10_000));
            world.end_replica(one, moves, after);
        }
        Happening::ReplicaDiesWriting(writes) => world.replicas[one].dies_after = Some(*writes),
        Happening::ReplicaHangs => {
            world.replicas[one].process = Process::Hangs;
            ends(world, (1000, 60_000), Happening::ReplicaWakesUp(one));
        }
        Happening::ReplicaCutOff => {
            world.replicas[one].cut_off = true;
            let noticed = world.random.between(100, 30_000);
            world.break_replica(one, noticed);
            ends(world, (2000, 60_000), Happening::ReplicaReconnected(one));
        }
        Happening::ReplicaOfOtherVersion { more } => {
            world.replicas[one].format = if *more { Format::More } else { Format::Other };
        }
        Happening::StreamsBreak => world.break_replica(one, Duration::ZERO),
        Happening::StreamStalls => {
            let channel = Channel::ALL[world.random.below(Channel::ALL.len())];
            let until = world.now + world.random.between(1000, 40_000);
            world.replicas[one].stalled.insert(channel, until);
            world.replicas[one].undisturbed = until;
        }
        _ => {
            let seconds = i64::try_from(world.random.below(240)).unwrap() - 120;
            world.replicas[one].clock = SignedDuration::from_secs(seconds);
            ends(world, (5000, 60_000), Happening::ClockRight(one));
        }
    }
}

/// A replica, mostly the one that leads.
fn victim(world: &mut World) -> Option<usize> {
    let living = world.living_replicas();
    let leader = living.iter().copied().find(|one| world.replicas[*one].leader.is_some());
    match leader {
        Some(leader) if world.random.chance(75) => Some(leader),
        _ if living.is_empty() => None,
        _ => Some(living[world.random.below(living.len())]),
    }
}

fn any_pod(world: &mut World, of: impl Fn(&AppPod) -> bool) -> Option<String> {
    let all: Vec<String> = world.objects.pods.values().filter(|pod| of(pod)).map(AppPod::path).collect();
    (!all.is_empty() && world.api_up).then(|| all[world.random.below(all.len())].clone())
}

fn any_owner(world: &mut World, of: impl Fn(&Kind) -> bool) -> Option<usize> {
    let owners = world.objects.owners.iter().enumerate();
    let all: Vec<usize> = owners.filter(|(_, owner)| of(&owner.reference.kind)).map(|(number, _)| number).collect();
    (!all.is_empty() && world.api_up).then(|| all[world.random.below(all.len())])
}

/// Mends what is broken of the controllers and the applications.
pub fn heal(world: &mut World) {
    world.managers_up_at = world.now;
    for one in world.living_replicas() {
        world.wake_replica(one);
        let now = world.now;
        let replica = &mut world.replicas[one];
        (replica.cut_off, replica.clock, replica.dies_after) = (false, SignedDuration::ZERO, None);
        replica.format = Format::Ours;
        replica.stalled.clear();
        replica.undisturbed = now;
    }
    for owner in 0..world.objects.owners.len() {
        if world.objects.owners[owner].mark.is_none() {
            suspend(world, owner, false);
        }
    }
}
