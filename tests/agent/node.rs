//! What becomes of the node: at boot, on installation and removal, by a person's word, and what `kubectl describe` says of it.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Event, Node};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use linkerd_gate::decide::manual_override::ANNOTATION as OVERRIDE;
use linkerd_gate::decide::node::taint::{LEFT_OPEN_BOOT, OPENED_BOOT, TAINT_KEY};
use serde_json::json;
use tokio::process::Command;

use super::harness::{Agent, GATE, Harness, PATIENCE, agent_of, is_closed, logs_of, object, opened};

/// What a person sees.
async fn described(harness: &Harness, node: &str) -> Result<String> {
    let output = Command::new(harness.cluster.kubectl()).args(["describe", "node", node]).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The lines of `kubectl describe` that tell of our Events, without their ages.
fn event_lines(described: &str) -> Vec<String> {
    let events = described.split("Events:").nth(1).unwrap_or_default();
    let ours = events.lines().filter(|line| line.contains("linkerd-gate"));
    ours.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test]
async fn an_install_closes_no_present_node_and_every_later_one() -> Result<()> {
    let harness = Harness::before_installation().await?;
    harness.node("node-old", json!({})).await?;
    let installed = harness.install().await?.metadata.creation_timestamp.context("no time")?.0.as_second();
    // The API server's instants are whole seconds: a node that joined in the same one counts as older.
    let nodes = harness.nodes().await?;
    let later: Node = object(json!({"metadata": {"name": "node-new"}}))?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let next_second = async {
        loop {
            let created = nodes.create(&dry_run, &later).await?.metadata.creation_timestamp.context("no time")?;
            if created.0.as_second() > installed {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, next_second).await??;
    nodes.create(&PostParams::default(), &later).await?;

    let mut old = harness.start_apart(agent_of("node-old", "boot-1"), "old").await?;
    let mut new = harness.start_apart(agent_of("node-new", "boot-2"), "new").await?;
    let story = async {
        let node = harness.until_node("node-old", "adopted", |node| opened(node).is_some()).await?;
        ensure!(opened(&node).as_deref() == Some("boot-1") && !is_closed(&node), "{node:?}");
        old.until_says("node open: the node is older than the installation of linkerd-gate").await?;
        let answer = old.answers(503).await?;
        ensure!(answer["node"]["state"] == "open", "{answer}");
        let event = harness.until_event("node-old", "GateAdopted").await?;
        ensure!(event.type_.as_deref() == Some("Normal"), "{event:?}");
        ensure!(patches(&harness, "old").await? == 1, "one annotation");

        let node = harness.until_node("node-new", "closed", is_closed).await?;
        ensure!(opened(&node).is_none(), "{node:?}");
        ensure!(new.answers(503).await?["node"]["state"] == "closed");
        let message = harness.until_event("node-new", "GateClosed").await?.message.unwrap_or_default();
        ensure!(message.starts_with("closed: injection is not proven in this boot: injection unknown: "), "{message}");
        anyhow::Ok(())
    };
    story.await.with_context(|| logs_of([&old, &new]))?;

    // Removed for good: each agent frees its node as it ends, and leaves nothing.
    let daemon_sets: Api<DaemonSet> = Api::namespaced(harness.cluster.client().await?, GATE);
    daemon_sets.delete(GATE, &DeleteParams::default()).await?;
    for (node, agent) in [("node-old", &mut old), ("node-new", &mut new)] {
        ensure!(agent.terminate().await? == 0);
        ensure!(
            agent.times_said("last write of the node: linkerd-gate is being removed: freed") == 1,
            "{}",
            agent.said()
        );
        let node = nodes.get(node).await?;
        ensure!(!is_closed(&node) && opened(&node).is_none(), "{node:?}");
    }
    Ok(())
}

/// How often it changed a node.
async fn patches(harness: &Harness, account: &str) -> Result<usize> {
    let ours = harness.requests_of(account).await?;
    Ok(ours.iter().filter(|request| request.resource == "nodes" && request.verb == "patch").count())
}

/// A word that is in force for as long as it takes to see what it does.
fn word(word: &str, seconds: i64) -> String {
    format!("{word} {:.0}", Timestamp::now() + SignedDuration::from_secs(seconds))
}

#[tokio::test]
async fn a_manual_override_takes_precedence_while_it_is_in_force() -> Result<()> {
    let harness = Harness::set().await?;
    harness.node_of_an_earlier_boot("node-0").await?;
    let agent = harness.start(agent_of("node-0", "boot-1"))?;
    let story = async {
        harness.until_node("node-0", "closed", is_closed).await?;
        // A person, or a program, that takes the taint away by itself.
        let lifted = Patch::Merge(json!({"spec": {"taints": null}}));
        let node = harness.nodes().await?.patch("node-0", &PatchParams::default(), &lifted).await?;
        ensure!(!is_closed(&node), "{node:?}");
        harness.until_node("node-0", "closed again", is_closed).await?;
        Box::pin(unproven(&harness, &agent)).await.context("unproven")?;
        harness.injector.recover().await?;
        agent.until_says("gate: open: proven").await?;
        harness.until_node("node-0", "opened", |node| opened(node).as_deref() == Some("boot-1")).await?;
        Box::pin(proven(&harness, &agent)).await.context("proven")?;
        Box::pin(misspelt(&harness, &agent)).await.context("misspelt")
    };
    story.await.with_context(|| agent.said())
}

/// Opened by hand for a while, and closed again at the end of it.
async fn unproven(harness: &Harness, agent: &Agent) -> Result<()> {
    harness.annotate_node("node-0", OVERRIDE, Some(&word("open", 8))).await?;
    let node = harness.until_node("node-0", "open", |node| !is_closed(node)).await?;
    ensure!(opened(&node).as_deref() == Some("an-earlier-boot"), "it is not noted as opened: {node:?}");
    let answer = agent.answers(200).await?;
    ensure!(answer["reason"].as_str().is_some_and(|text| text.starts_with("open: manual override (open ")), "{answer}");
    harness.until_node("node-0", "closed at the end", is_closed).await?;
    agent.until_says("manual override ended").await?;
    agent.answers(503).await?;

    harness.until_lease("made", |_| true).await?;
    harness.annotate_lease(OVERRIDE, Some(&word("open", 3600))).await?;
    harness.until_node("node-0", "open", |node| !is_closed(node)).await?;
    agent.answers(200).await?;
    // The node's own word comes before everybody's.
    harness.annotate_node("node-0", OVERRIDE, Some(&word("closed", 3600))).await?;
    harness.until_node("node-0", "closed", is_closed).await?;
    agent.answers(503).await?;
    harness.annotate_node("node-0", OVERRIDE, None).await?;
    harness.until_node("node-0", "open", |node| !is_closed(node)).await?;
    harness.annotate_lease(OVERRIDE, None).await?;
    harness.until_node("node-0", "closed", is_closed).await?;
    agent.until_says("manual override ended").await?;
    agent.answers(503).await?;
    Ok(())
}

/// Closed by hand for a while, and open again at the end of it.
async fn proven(harness: &Harness, agent: &Agent) -> Result<()> {
    harness.annotate_node("node-0", OVERRIDE, Some(&word("closed", 8))).await?;
    harness.until_node("node-0", "closed", is_closed).await?;
    let answer = agent.answers(503).await?;
    ensure!(answer["override"].as_str().is_some_and(|text| text.starts_with("closed ")), "{answer}");
    ensure!(answer["reason"].as_str().is_some_and(|text| text.contains("by evidence it is open: proven")), "{answer}");
    harness.until_node("node-0", "open at the end", |node| !is_closed(node)).await?;
    agent.until_says("manual override ended").await?;
    agent.answers(200).await?;

    harness.annotate_lease(OVERRIDE, Some(&word("closed", 3600))).await?;
    harness.until_node("node-0", "closed", is_closed).await?;
    agent.answers(503).await?;
    harness.annotate_lease(OVERRIDE, None).await?;
    harness.until_node("node-0", "open", |node| !is_closed(node)).await?;
    Ok(())
}

/// An override that cannot be read is logged, and not obeyed.
async fn misspelt(harness: &Harness, agent: &Agent) -> Result<()> {
    let version = harness.nodes().await?.get("node-0").await?.metadata.generation;
    harness.annotate_node("node-0", OVERRIDE, Some("closed tomorrow")).await?;
    let line = agent.until_says("manual override ignored").await?;
    ensure!(line.contains("closed 2026-01-01T06:00:00Z") && line.ends_with(" object=the node"), "{line}");
    harness.annotate_node("node-0", OVERRIDE, Some(&word("closed", 8 * 24 * 3600))).await?;
    let line = agent.until_says("manual override ignored").await?;
    ensure!(line.contains("more than 7 days away"), "{line}");
    harness.annotate_node("node-0", OVERRIDE, None).await?;
    harness.annotate_lease(OVERRIDE, Some("closed")).await?;
    let line = agent.until_says("manual override ignored").await?;
    ensure!(line.ends_with(" object=the Lease linkerd-gate"), "{line}");
    agent.answers(200).await?;
    let node = harness.nodes().await?.get("node-0").await?;
    ensure!(!is_closed(&node) && node.metadata.generation == version, "{node:?}");
    Ok(())
}

#[tokio::test]
async fn modes_that_close_no_node_lift_our_taint_and_note_the_boot() -> Result<()> {
    let harness = Harness::set().await?;
    for node in ["node-audit", "node-never"] {
        harness.node_of_an_earlier_boot(node).await?;
    }
    // Closed by enforce, in this boot, when somebody switches to audit.
    let taint = json!({"key": TAINT_KEY, "value": "boot1-1", "effect": "NoSchedule"});
    let closed = Patch::Merge(json!({"spec": {"taints": [taint]}}));
    harness.nodes().await?.patch("node-audit", &PatchParams::default(), &closed).await?;
    let audit = harness.start_apart(agent_of("node-audit", "boot-1").with("MODE", "audit"), "audit").await?;
    let never = harness.start_apart(agent_of("node-never", "boot-1").with("TAINT", "never"), "never").await?;
    let left_open = |node: &Node| {
        node.metadata.annotations.as_ref().and_then(|all| all.get(LEFT_OPEN_BOOT)).is_some_and(|boot| boot == "boot-1")
    };
    let story = async {
        for node in ["node-audit", "node-never"] {
            let node = harness.until_node(node, "noted", left_open).await?;
            ensure!(!is_closed(&node) && opened(&node).as_deref() == Some("an-earlier-boot"), "{node:?}");
        }
        harness.until_event("node-audit", "GateLeftOpen").await?;
        let line = audit.until_says("audit mode: node change not executed: closed: ").await?;
        let event = harness.until_event("node-audit", "GateClosed").await?;
        let message = event.message.unwrap_or_default();
        let change = message.strip_prefix("audit mode, not executed: tainted: ").with_context(|| message.clone())?;
        let (closed, probe) = change.split_once(" in this boot: ").with_context(|| message.clone())?;
        ensure!(line.contains(closed) && line.ends_with(" change=tainted"), "{line}: {message}");
        ensure!(probe.starts_with("injection not ready") || probe.starts_with("injection unknown"), "{message}");
        never.until_says("gate: waiting: injection not ready").await?;
        ensure!(never.answers(503).await?["node"]["state"] == "closed");
        anyhow::Ok(())
    };
    story.await.with_context(|| logs_of([&audit, &never]))?;
    let mut ended = [audit, never];
    for agent in &mut ended {
        ensure!(agent.terminate().await? == 0);
    }
    for account in ["audit", "never"] {
        ensure!(patches(&harness, account).await? == 1, "{account} wrote more to its node than that");
    }

    // Enforced from now on, with nothing proven: what runs since then is not closed, and the next boot is.
    for node in ["node-audit", "node-never"] {
        let account = format!("enforce-{node}");
        let mut agent = harness.start_apart(agent_of(node, "boot-1"), &account).await?;
        let noted = harness.until_node(node, "open", |node| opened(node).as_deref() == Some("boot-1")).await;
        let noted = noted.with_context(|| agent.said())?;
        ensure!(!is_closed(&noted) && !left_open(&noted), "{noted:?}");
        agent.until_said("node open: this boot ran unclosed").await?;
        ensure!(agent.terminate().await? == 0);
        ensure!(
            agent.times_said("closed: injection is not proven in this boot") == 0
                && patches(&harness, &account).await? == 1
        );
        let agent = harness.start_apart(agent_of(node, "boot-2"), &format!("rebooted-{node}")).await?;
        harness.until_node(node, "closed", is_closed).await.with_context(|| agent.said())?;
    }
    Ok(())
}

#[tokio::test]
async fn override_time_does_not_count_and_a_foreign_taint_is_reported() -> Result<()> {
    let harness = Harness::set().await?;
    harness.node_of_an_earlier_boot("node-0").await?;
    harness.annotate_node("node-0", OVERRIDE, Some(&word("closed", 3600))).await?;
    let ending = json!({"key": TAINT_KEY, "effect": "NoExecute"});
    let tainted = Patch::Merge(json!({"spec": {"taints": [ending]}}));
    harness.nodes().await?.patch("node-0", &PatchParams::default(), &tainted).await?;
    let started = Timestamp::now();
    let agent = harness.start(agent_of("node-0", "boot-1").with("NODE_MAX_CLOSED", "4s"))?;
    let story = async {
        let value = |node: &Node| {
            let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
            let mut ours = taints.filter(|taint| taint.key == TAINT_KEY && taint.effect == "NoSchedule");
            ours.next().and_then(|taint| taint.value.clone()).unwrap_or_default()
        };
        harness.until_node("node-0", "closed by hand", |node| value(node) == "boot1-hand").await?;
        let event = harness.until_event("node-0", "GateForeignTaint").await?;
        ensure!(
            event.message.is_some_and(|text| text.contains("kubectl taint node node-0 linkerd-gate/closed:NoExecute-"))
        );
        // Longer by hand than a node may be closed: what an open proof elsewhere would tell by events, only a clock tells here.
        let longer = started + SignedDuration::from_secs(6);
        let lasts = longer.duration_since(Timestamp::now()).unsigned_abs();
        tokio::time::sleep(lasts).await;
        for metric in ["linkerd_gate_override_in_force", "linkerd_gate_node_tainted"] {
            ensure!(agent.metric(metric, "").await? == 1, "{metric}");
        }
        harness.annotate_node("node-0", OVERRIDE, None).await?;
        let node = harness.until_node("node-0", "closed since now", |node| value(node) != "boot1-hand").await?;
        ensure!(value(&node).starts_with("boot1-") && opened(&node).as_deref() == Some("an-earlier-boot"), "{node:?}");
        agent.until_says("node closed: injection is not proven in this boot").await?;
        ensure!(agent.metric("linkerd_gate_override_in_force", "").await? == 0);
        // And then for as long as any.
        harness.until_event("node-0", "GateOpenedUnproven").await?;
        let node = harness.until_node("node-0", "open", |node| !is_closed(node)).await?;
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let ours: Vec<_> = taints.iter().filter(|taint| taint.key == TAINT_KEY).collect();
        ensure!(ours.len() == 1 && ours[0].effect == "NoExecute", "{taints:?}");
        anyhow::Ok(())
    };
    story.await.with_context(|| agent.said())
}

#[tokio::test]
async fn a_node_opens_unproven_in_the_end_and_says_so() -> Result<()> {
    let harness = Harness::set().await?;
    harness.node_of_an_earlier_boot("node-0").await?;
    // Somebody else's taints stay as they are, times and all.
    let others = json!([
        {"key": "example.com/mine", "value": "x", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
        {"key": "linkerd-gate/closed", "effect": "PreferNoSchedule"},
    ]);
    let tainted = Patch::Merge(json!({"spec": {"taints": others}}));
    harness.nodes().await?.patch("node-0", &PatchParams::default(), &tainted).await?;
    let agent = harness.start(agent_of("node-0", "boot-1").with("NODE_MAX_CLOSED", "3s"))?;
    let story = async {
        let keeps = |node: &Node| {
            let taints =
                serde_json::to_value(node.spec.as_ref().and_then(|spec| spec.taints.as_ref())).unwrap_or_default();
            others
                .as_array()
                .into_iter()
                .flatten()
                .all(|other| taints.as_array().is_some_and(|all| all.contains(other)))
        };
        let node = harness.until_node("node-0", "closed", is_closed).await?;
        ensure!(keeps(&node), "{node:?}");
        let node = harness.until_node("node-0", "open", |node| !is_closed(node)).await?;
        ensure!(keeps(&node), "{node:?}");
        ensure!(opened(&node).as_deref() == Some("boot-1"), "{node:?}");
        let event = harness.until_event("node-0", "GateOpenedUnproven").await?;
        ensure!(event.type_.as_deref() == Some("Warning"), "{event:?}");
        agent.until_says("node open, unproven: the node was closed for LINKERD_GATE_NODE_MAX_CLOSED").await?;
        ensure!(agent.metric("linkerd_gate_unproven_openings_total", "").await? == 1);
        // Whoever waits in a pod is held still.
        let answer = agent.answers(503).await?;
        ensure!(answer["node"]["state"] == "open", "{answer}");
        let events = event_lines(&described(&harness, "node-0").await?);
        println!("{}", events.join("\n"));
        ensure!(events.len() == 2, "{events:?}");
        ensure!(
            events[0].starts_with("Normal GateClosed ")
                && events[0].contains("linkerd-gate closed: injection is not proven in this boot: injection "),
            "{events:?}"
        );
        ensure!(
            events[1].starts_with("Warning GateOpenedUnproven ") && events[1].contains("LINKERD_GATE_NODE_MAX_CLOSED"),
            "{events:?}"
        );

        // Proven later: nothing is left to be written.
        harness.injector.recover().await?;
        agent.until_says("gate: open: proven").await?;
        let events: Api<Event> = Api::namespaced(harness.cluster.client().await?, "default");
        let ours = ListParams::default().fields("involvedObject.name=node-0,involvedObject.kind=Node");
        let ours: Vec<_> = events.list(&ours).await?.items.into_iter().filter_map(|event| event.reason).collect();
        ensure!(ours.iter().filter(|reason| reason.starts_with("Gate")).count() == 2, "{ours:?}");
        anyhow::Ok(())
    };
    story.await.with_context(|| agent.said())
}

#[tokio::test]
async fn a_machine_that_shuts_down_comes_back_closed() -> Result<()> {
    let harness = Harness::set().await?;
    harness.injector.recover().await?;
    harness.node_of_an_earlier_boot("node-0").await?;
    let mut agent = harness.start(agent_of("node-0", "boot-1"))?;
    let nodes = harness.nodes().await?;
    let story = async {
        harness.until_node("node-0", "open", |node| opened(node).as_deref() == Some("boot-1")).await?;
        let condition = json!({"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "node is shutting down"});
        let status = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        nodes.patch_status("node-0", &PatchParams::default(), &status).await?;
        // Before anybody ends the agent: kubelet says so first, and ends critical pods last.
        let node = harness.until_node("node-0", "closed again", is_closed).await?;
        ensure!(opened(&node).as_deref() == Some("boot-1"), "{node:?}");
        agent.until_says("node closed: the machine is shutting down").await
    };
    story.await.with_context(|| agent.said())?;
    ensure!(agent.terminate().await? == 0);
    ensure!(is_closed(&nodes.get("node-0").await?), "{}", agent.said());

    // Back, in another boot and with nothing proven: closed from its first moment.
    harness.injector.suffer(linkerd_gate_kit::standin::Fault::Absent).await?;
    let agent = harness.start(agent_of("node-0", "boot-2"))?;
    agent.until_says("gate: waiting: injection not ready").await.with_context(|| agent.said())?;
    let node = nodes.get("node-0").await?;
    ensure!(is_closed(&node), "{node:?}");
    let stamped = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let value = stamped.into_iter().find(|taint| taint.key == TAINT_KEY).and_then(|taint| taint.value);
    ensure!(value.as_deref().is_some_and(|value| value.starts_with("boot2-")), "{value:?}");
    ensure!(node.metadata.annotations.is_some_and(|all| all[OPENED_BOOT] == "boot-1"));
    Ok(())
}
