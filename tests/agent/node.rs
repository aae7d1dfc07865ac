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

use super::stage::{Agent, GATE, PATIENCE, Stage, agent_of, is_closed, object, opened, told};

/// What a person sees.
async fn described(stage: &Stage, node: &str) -> Result<String> {
    let output = Command::new(stage.cluster.kubectl()).args(["describe", "node", node]).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The lines of `kubectl describe` that tell of our Events, without their ages.
fn told_of(described: &str) -> Vec<String> {
    let events = described.split("Events:").nth(1).unwrap_or_default();
    let ours = events.lines().filter(|line| line.contains("linkerd-gate"));
    ours.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test]
async fn installing_closes_nothing_that_runs_and_what_joins_later_is_closed() -> Result<()> {
    let stage = Stage::before_installation().await?;
    stage.node("node-old", json!({})).await?;
    let installed = stage.install().await?.metadata.creation_timestamp.context("no time")?.0.as_second();
    // The API server's instants are whole seconds: a node that joined in the same one counts as older.
    let nodes = stage.nodes().await?;
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

    let mut old = stage.start_apart(agent_of("node-old", "boot-1"), "old").await?;
    let mut new = stage.start_apart(agent_of("node-new", "boot-2"), "new").await?;
    let story = async {
        let node = stage.until_node("node-old", "adopted", |node| opened(node).is_some()).await?;
        ensure!(opened(&node).as_deref() == Some("boot-1") && !is_closed(&node), "{node:?}");
        old.until_says("node open: the node is older than the installation of linkerd-gate").await?;
        let answer = old.answers(503).await?;
        ensure!(answer["node"]["state"] == "open", "{answer}");
        let event = stage.until_event("node-old", "GateAdopted").await?;
        ensure!(event.type_.as_deref() == Some("Normal"), "{event:?}");
        ensure!(patches(&stage, "old")? == 1, "one annotation");

        let node = stage.until_node("node-new", "closed", is_closed).await?;
        ensure!(opened(&node).is_none(), "{node:?}");
        ensure!(new.answers(503).await?["node"]["state"] == "closed");
        let message = stage.until_event("node-new", "GateClosed").await?.message.unwrap_or_default();
        ensure!(message.starts_with("closed: injection is not proven in this boot: injection unknown: "), "{message}");
        anyhow::Ok(())
    };
    story.await.with_context(|| told([&old, &new]))?;

    // Removed for good: each agent frees its node as it ends, and leaves nothing.
    let daemon_sets: Api<DaemonSet> = Api::namespaced(stage.cluster.client().await?, GATE);
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
fn patches(stage: &Stage, account: &str) -> Result<usize> {
    let ours = stage.requests_of(account)?;
    Ok(ours.iter().filter(|request| request.resource == "nodes" && request.verb == "patch").count())
}

/// A word that is in force for as long as it takes to see what it does.
fn word(word: &str, seconds: i64) -> String {
    format!("{word} {:.0}", Timestamp::now() + SignedDuration::from_secs(seconds))
}

#[tokio::test]
async fn a_person_has_the_last_word_as_long_as_it_holds() -> Result<()> {
    let stage = Stage::set().await?;
    stage.node_of_an_earlier_boot("node-0").await?;
    let agent = stage.start(agent_of("node-0", "boot-1"))?;
    let story = async {
        stage.until_node("node-0", "closed", is_closed).await?;
        // A person, or a program, that takes the taint away by itself.
        let lifted = Patch::Merge(json!({"spec": {"taints": null}}));
        let node = stage.nodes().await?.patch("node-0", &PatchParams::default(), &lifted).await?;
        ensure!(!is_closed(&node), "{node:?}");
        stage.until_node("node-0", "closed again", is_closed).await?;
        Box::pin(unproven(&stage, &agent)).await.context("unproven")?;
        stage.injector.recover().await?;
        agent.until_says("gate: open: proven").await?;
        stage.until_node("node-0", "opened", |node| opened(node).as_deref() == Some("boot-1")).await?;
        Box::pin(proven(&stage, &agent)).await.context("proven")?;
        Box::pin(misspelt(&stage, &agent)).await.context("misspelt")
    };
    story.await.with_context(|| agent.said())
}

/// Opened by hand for a while, and closed again at the end of it.
async fn unproven(stage: &Stage, agent: &Agent) -> Result<()> {
    stage.annotate_node("node-0", OVERRIDE, Some(&word("open", 8))).await?;
    let node = stage.until_node("node-0", "open", |node| !is_closed(node)).await?;
    ensure!(opened(&node).as_deref() == Some("an-earlier-boot"), "it is not noted as opened: {node:?}");
    let answer = agent.answers(200).await?;
    ensure!(answer["reason"].as_str().is_some_and(|told| told.starts_with("open: manual override (open ")), "{answer}");
    stage.until_node("node-0", "closed at the end", is_closed).await?;
    agent.until_says("manual override ended").await?;
    agent.answers(503).await?;

    stage.until_lease("made", |_| true).await?;
    stage.annotate_lease(OVERRIDE, Some(&word("open", 3600))).await?;
    stage.until_node("node-0", "open", |node| !is_closed(node)).await?;
    agent.answers(200).await?;
    // The node's own word comes before everybody's.
    stage.annotate_node("node-0", OVERRIDE, Some(&word("closed", 3600))).await?;
    stage.until_node("node-0", "closed", is_closed).await?;
    agent.answers(503).await?;
    stage.annotate_node("node-0", OVERRIDE, None).await?;
    stage.until_node("node-0", "open", |node| !is_closed(node)).await?;
    stage.annotate_lease(OVERRIDE, None).await?;
    stage.until_node("node-0", "closed", is_closed).await?;
    agent.until_says("manual override ended").await?;
    agent.answers(503).await?;
    Ok(())
}

/// Closed by hand for a while, and open again at the end of it.
async fn proven(stage: &Stage, agent: &Agent) -> Result<()> {
    stage.annotate_node("node-0", OVERRIDE, Some(&word("closed", 8))).await?;
    stage.until_node("node-0", "closed", is_closed).await?;
    let answer = agent.answers(503).await?;
    ensure!(answer["override"].as_str().is_some_and(|told| told.starts_with("closed ")), "{answer}");
    ensure!(answer["reason"].as_str().is_some_and(|told| told.contains("by evidence it is open: proven")), "{answer}");
    stage.until_node("node-0", "open at the end", |node| !is_closed(node)).await?;
    agent.until_says("manual override ended").await?;
    agent.answers(200).await?;

    stage.annotate_lease(OVERRIDE, Some(&word("closed", 3600))).await?;
    stage.until_node("node-0", "closed", is_closed).await?;
    agent.answers(503).await?;
    stage.annotate_lease(OVERRIDE, None).await?;
    stage.until_node("node-0", "open", |node| !is_closed(node)).await?;
    Ok(())
}

/// What nobody can obey is told, and not obeyed.
async fn misspelt(stage: &Stage, agent: &Agent) -> Result<()> {
    let version = stage.nodes().await?.get("node-0").await?.metadata.generation;
    stage.annotate_node("node-0", OVERRIDE, Some("closed tomorrow")).await?;
    let line = agent.until_says("manual override ignored").await?;
    ensure!(line.contains("closed 2026-01-01T06:00:00Z") && line.ends_with(" object=the node"), "{line}");
    stage.annotate_node("node-0", OVERRIDE, Some(&word("closed", 8 * 24 * 3600))).await?;
    let line = agent.until_says("manual override ignored").await?;
    ensure!(line.contains("more than 7 days away"), "{line}");
    stage.annotate_node("node-0", OVERRIDE, None).await?;
    stage.annotate_lease(OVERRIDE, Some("closed")).await?;
    let line = agent.until_says("manual override ignored").await?;
    ensure!(line.ends_with(" object=the Lease linkerd-gate"), "{line}");
    agent.answers(200).await?;
    let node = stage.nodes().await?.get("node-0").await?;
    ensure!(!is_closed(&node) && node.metadata.generation == version, "{node:?}");
    Ok(())
}

#[tokio::test]
async fn modes_that_close_no_node_lift_our_taint_and_note_the_boot() -> Result<()> {
    let stage = Stage::set().await?;
    for node in ["node-audit", "node-never"] {
        stage.node_of_an_earlier_boot(node).await?;
    }
    // Closed by enforce, in this boot, when somebody switches to audit.
    let taint = json!({"key": TAINT_KEY, "value": "boot1-1", "effect": "NoSchedule"});
    let closed = Patch::Merge(json!({"spec": {"taints": [taint]}}));
    stage.nodes().await?.patch("node-audit", &PatchParams::default(), &closed).await?;
    let audit = stage.start_apart(agent_of("node-audit", "boot-1").with("MODE", "audit"), "audit").await?;
    let never = stage.start_apart(agent_of("node-never", "boot-1").with("TAINT", "never"), "never").await?;
    let left_open = |node: &Node| {
        node.metadata.annotations.as_ref().and_then(|all| all.get(LEFT_OPEN_BOOT)).is_some_and(|boot| boot == "boot-1")
    };
    let story = async {
        for node in ["node-audit", "node-never"] {
            let node = stage.until_node(node, "noted", left_open).await?;
            ensure!(!is_closed(&node) && opened(&node).as_deref() == Some("an-earlier-boot"), "{node:?}");
        }
        stage.until_event("node-audit", "GateLeftOpen").await?;
        let line = audit.until_says("audit mode: node change not executed: closed: ").await?;
        let event = stage.until_event("node-audit", "GateClosed").await?;
        let message = event.message.unwrap_or_default();
        let change = message.strip_prefix("audit mode, not executed: tainted: ").with_context(|| message.clone())?;
        let (closed, probe) = change.split_once(" in this boot: ").with_context(|| message.clone())?;
        ensure!(line.contains(closed) && line.ends_with(" change=tainted"), "{line}: {message}");
        ensure!(probe.starts_with("injection not ready") || probe.starts_with("injection unknown"), "{message}");
        never.until_says("gate: waiting: injection not ready").await?;
        ensure!(never.answers(503).await?["node"]["state"] == "closed");
        anyhow::Ok(())
    };
    story.await.with_context(|| told([&audit, &never]))?;
    let mut ended = [audit, never];
    for agent in &mut ended {
        ensure!(agent.terminate().await? == 0);
    }
    for account in ["audit", "never"] {
        ensure!(patches(&stage, account)? == 1, "{account} wrote more to its node than that");
    }

    // Enforced from now on, with nothing proven: what runs since then is not closed, and the next boot is.
    for node in ["node-audit", "node-never"] {
        let account = format!("enforce-{node}");
        let mut agent = stage.start_apart(agent_of(node, "boot-1"), &account).await?;
        let noted = stage.until_node(node, "open", |node| opened(node).as_deref() == Some("boot-1")).await;
        let noted = noted.with_context(|| agent.said())?;
        ensure!(!is_closed(&noted) && !left_open(&noted), "{noted:?}");
        agent.until_said("node open: this boot ran unclosed").await?;
        ensure!(agent.terminate().await? == 0);
        ensure!(
            agent.times_said("closed: injection is not proven in this boot") == 0 && patches(&stage, &account)? == 1
        );
        let agent = stage.start_apart(agent_of(node, "boot-2"), &format!("rebooted-{node}")).await?;
        stage.until_node(node, "closed", is_closed).await.with_context(|| agent.said())?;
    }
    Ok(())
}

#[tokio::test]
async fn time_closed_by_hand_does_not_count_and_a_foreign_taint_is_told() -> Result<()> {
    let stage = Stage::set().await?;
    stage.node_of_an_earlier_boot("node-0").await?;
    stage.annotate_node("node-0", OVERRIDE, Some(&word("closed", 3600))).await?;
    let ending = json!({"key": TAINT_KEY, "effect": "NoExecute"});
    let tainted = Patch::Merge(json!({"spec": {"taints": [ending]}}));
    stage.nodes().await?.patch("node-0", &PatchParams::default(), &tainted).await?;
    let started = Timestamp::now();
    let agent = stage.start(agent_of("node-0", "boot-1").with("NODE_MAX_CLOSED", "4s"))?;
    let story = async {
        let value = |node: &Node| {
            let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
            let mut ours = taints.filter(|taint| taint.key == TAINT_KEY && taint.effect == "NoSchedule");
            ours.next().and_then(|taint| taint.value.clone()).unwrap_or_default()
        };
        stage.until_node("node-0", "closed by hand", |node| value(node) == "boot1-hand").await?;
        let event = stage.until_event("node-0", "GateForeignTaint").await?;
        ensure!(
            event.message.is_some_and(|told| told.contains("kubectl taint node node-0 linkerd-gate/closed:NoExecute-"))
        );
        // Longer by hand than a node may be closed: what an open proof elsewhere would tell by events, only a clock tells here.
        let longer = started + SignedDuration::from_secs(6);
        let lasts = longer.duration_since(Timestamp::now()).unsigned_abs();
        tokio::time::sleep(lasts).await;
        for metric in ["linkerd_gate_override_in_force", "linkerd_gate_node_tainted"] {
            ensure!(agent.metric(metric, "").await? == 1, "{metric}");
        }
        stage.annotate_node("node-0", OVERRIDE, None).await?;
        let node = stage.until_node("node-0", "closed since now", |node| value(node) != "boot1-hand").await?;
        ensure!(value(&node).starts_with("boot1-") && opened(&node).as_deref() == Some("an-earlier-boot"), "{node:?}");
        agent.until_says("node closed: injection is not proven in this boot").await?;
        ensure!(agent.metric("linkerd_gate_override_in_force", "").await? == 0);
        // And then for as long as any.
        stage.until_event("node-0", "GateOpenedUnproven").await?;
        let node = stage.until_node("node-0", "open", |node| !is_closed(node)).await?;
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let ours: Vec<_> = taints.iter().filter(|taint| taint.key == TAINT_KEY).collect();
        ensure!(ours.len() == 1 && ours[0].effect == "NoExecute", "{taints:?}");
        anyhow::Ok(())
    };
    story.await.with_context(|| agent.said())
}

#[tokio::test]
async fn a_node_opens_unproven_in_the_end_and_says_so() -> Result<()> {
    let stage = Stage::set().await?;
    stage.node_of_an_earlier_boot("node-0").await?;
    // Somebody else's taints stay as they are, times and all.
    let others = json!([
        {"key": "example.com/mine", "value": "x", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
        {"key": "linkerd-gate/closed", "effect": "PreferNoSchedule"},
    ]);
    let tainted = Patch::Merge(json!({"spec": {"taints": others}}));
    stage.nodes().await?.patch("node-0", &PatchParams::default(), &tainted).await?;
    let agent = stage.start(agent_of("node-0", "boot-1").with("NODE_MAX_CLOSED", "3s"))?;
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
        let node = stage.until_node("node-0", "closed", is_closed).await?;
        ensure!(keeps(&node), "{node:?}");
        let node = stage.until_node("node-0", "open", |node| !is_closed(node)).await?;
        ensure!(keeps(&node), "{node:?}");
        ensure!(opened(&node).as_deref() == Some("boot-1"), "{node:?}");
        let event = stage.until_event("node-0", "GateOpenedUnproven").await?;
        ensure!(event.type_.as_deref() == Some("Warning"), "{event:?}");
        agent.until_says("node open, unproven: the node was closed for LINKERD_GATE_NODE_MAX_CLOSED").await?;
        ensure!(agent.metric("linkerd_gate_unproven_openings_total", "").await? == 1);
        // Whoever waits in a pod is held still.
        let answer = agent.answers(503).await?;
        ensure!(answer["node"]["state"] == "open", "{answer}");
        let told = told_of(&described(&stage, "node-0").await?);
        println!("{}", told.join("\n"));
        ensure!(told.len() == 2, "{told:?}");
        ensure!(
            told[0].starts_with("Normal GateClosed ")
                && told[0].contains("linkerd-gate closed: injection is not proven in this boot: injection "),
            "{told:?}"
        );
        ensure!(
            told[1].starts_with("Warning GateOpenedUnproven ") && told[1].contains("LINKERD_GATE_NODE_MAX_CLOSED"),
            "{told:?}"
        );

        // Proven later: nothing is left to be written.
        stage.injector.recover().await?;
        agent.until_says("gate: open: proven").await?;
        let events: Api<Event> = Api::namespaced(stage.cluster.client().await?, "default");
        let ours = ListParams::default().fields("involvedObject.name=node-0,involvedObject.kind=Node");
        let ours: Vec<_> = events.list(&ours).await?.items.into_iter().filter_map(|event| event.reason).collect();
        ensure!(ours.iter().filter(|reason| reason.starts_with("Gate")).count() == 2, "{ours:?}");
        anyhow::Ok(())
    };
    story.await.with_context(|| agent.said())
}

#[tokio::test]
async fn a_machine_that_shuts_down_comes_back_closed() -> Result<()> {
    let stage = Stage::set().await?;
    stage.injector.recover().await?;
    stage.node_of_an_earlier_boot("node-0").await?;
    let mut agent = stage.start(agent_of("node-0", "boot-1"))?;
    let nodes = stage.nodes().await?;
    let story = async {
        stage.until_node("node-0", "open", |node| opened(node).as_deref() == Some("boot-1")).await?;
        let condition = json!({"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "node is shutting down"});
        let status = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        nodes.patch_status("node-0", &PatchParams::default(), &status).await?;
        // Before anybody ends the agent: kubelet says so first, and ends critical pods last.
        let node = stage.until_node("node-0", "closed again", is_closed).await?;
        ensure!(opened(&node).as_deref() == Some("boot-1"), "{node:?}");
        agent.until_says("node closed: the machine is shutting down").await
    };
    story.await.with_context(|| agent.said())?;
    ensure!(agent.terminate().await? == 0);
    ensure!(is_closed(&nodes.get("node-0").await?), "{}", agent.said());

    // Back, in another boot and with nothing proven: closed from its first moment.
    stage.injector.suffer(linkerd_gate_kit::standin::Fault::Absent).await?;
    let agent = stage.start(agent_of("node-0", "boot-2"))?;
    agent.until_says("gate: waiting: injection not ready").await.with_context(|| agent.said())?;
    let node = nodes.get("node-0").await?;
    ensure!(is_closed(&node), "{node:?}");
    let stamped = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let value = stamped.into_iter().find(|taint| taint.key == TAINT_KEY).and_then(|taint| taint.value);
    ensure!(value.as_deref().is_some_and(|value| value.starts_with("boot2-")), "{value:?}");
    ensure!(node.metadata.annotations.is_some_and(|all| all[OPENED_BOOT] == "boot-1"));
    Ok(())
}
