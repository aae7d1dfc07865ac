//! The Lease: one, in one's own name, with the verdict and without a person's word.

use anyhow::{Context as _, Result, ensure};
use linkerd_gate::decide::election::lease_record::{LeaseHolder, PROVER_LEASE, VERDICT};
use linkerd_gate::decide::manual_override::ANNOTATION as OVERRIDE;
use serde_json::{Value, json};

use crate::harness::with_every_right;
use crate::write::{Attack, Change, Form, Write, change, get, send};

const POLICY: &str = "linkerd-gate-agent-lease";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases/linkerd-gate";
const WORD: &str = "open 2026-01-01T06:00:00Z";

fn holder(node: &str) -> String {
    LeaseHolder { name: node.to_owned(), detail: "linkerd-gate-x7k2p".to_owned(), incarnation: "3f2a9c1e".to_owned() }
        .to_string()
}

fn lease(holder: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": PROVER_LEASE, "annotations": {VERDICT: "{}"}},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15},
    })
}

fn give_up(lease: &mut Value) {
    lease["spec"].as_object_mut().expect("a spec").remove("holderIdentity");
}

/// One test, since there is one Lease.
#[tokio::test]
async fn an_agent_writes_the_verdict_in_its_own_name_and_nothing_else() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, agent, other) =
        (harness.admin().await?, harness.agent("node-a").await?, harness.agent("node-b").await?);
    let nowhere = harness.agent_without_a_node().await?;
    let attack = Attack { anybody: &admin, attacker: &agent, policy: POLICY };
    let (one, name, annotation) =
        ("no Lease but linkerd-gate", "in the name of the node", "no annotation on the Lease but");

    let named = |field: &str, value: Value| {
        let mut lease = lease(&holder("node-a"));
        lease["metadata"][field] = value;
        lease
    };
    let mut without_holder = lease("");
    give_up(&mut without_holder);
    let untouched = "labels, owners and finalizers as they are";
    for (what, path, body, words) in [
        ("another name", LEASES, named("name", "another".into()), one),
        ("another namespace", &LEASES.replace("linkerd-gate", "kube-system"), lease(&holder("node-a")), one),
        ("another holder", LEASES, lease(&holder("node-b")), name),
        ("a holder that begins alike", LEASES, lease(&holder("node-ab")), name),
        ("no holder", LEASES, without_holder, name),
        ("a person's word", LEASES, named("annotations", json!({OVERRIDE: WORD})), annotation),
        ("a label", LEASES, named("labels", json!({"a": "b"})), untouched),
    ] {
        attack.write_is_refused(what, &Write::create(path, &body), words).await?;
    }
    let own = lease(&holder("node-a"));
    let without_node = Attack { attacker: &nowhere, ..attack };
    without_node.write_is_refused("a token without a node", &Write::create(LEASES, &own), "by the token").await?;
    attack.write_is_refused("by apply", &Write::apply(LEASE, &lease(&holder("node-b"))), name).await?;
    send(&agent, &Write::create(LEASES, &own)).await?;

    // Held by it, with a person's word on it.
    let overridden = json!({"metadata": {"annotations": {OVERRIDE: WORD}, "labels": {"by": "hand"}}});
    send(&admin, &Write::merge(LEASE, &overridden)).await?;
    let attacks: [(&str, &str, Change); 9] = [
        ("another word", annotation, |lease| lease["metadata"]["annotations"][OVERRIDE] = "closed".into()),
        ("no word", annotation, |lease| {
            lease["metadata"]["annotations"].as_object_mut().expect("annotations").remove(OVERRIDE);
        }),
        ("another annotation", annotation, |lease| lease["metadata"]["annotations"]["a"] = "b".into()),
        ("a long verdict", "at most 32768", |lease| {
            lease["metadata"]["annotations"][VERDICT] = "x".repeat(32_769).into();
        }),
        ("a label", untouched, |lease| lease["metadata"]["labels"]["a"] = "b".into()),
        ("another label", untouched, |lease| lease["metadata"]["labels"]["by"] = "agent".into()),
        ("a finalizer", untouched, |lease| lease["metadata"]["finalizers"] = json!(["example.com/never"])),
        ("an owner", untouched, |lease| {
            lease["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Namespace", "name": "shop", "uid": "gone"}]);
        }),
        ("another holder", name, |lease| lease["spec"]["holderIdentity"] = holder("node-b").into()),
    ];
    for (what, words, wanted) in attacks {
        attack.is_refused(what, LEASE, wanted, words).await?;
    }
    let verdict = |lease: &mut Value| lease["metadata"]["annotations"][VERDICT] = "{\"version\": 2}".into();
    without_node.is_refused("a token without a node", LEASE, verdict, "by the token").await?;
    // Whoever does not hold it neither writes a verdict in the holder's name nor takes the Lease from it for nobody.
    let by_another = Attack { attacker: &other, ..attack };
    by_another.is_refused("a verdict in another's name", LEASE, verdict, name).await?;
    let merge = Form::MergePatch;
    let refused = change(&other, merge, LEASE, false, give_up).await?.context("a merge patch can")?;
    ensure!(refused.as_ref().is_err_and(|refusal| refusal.by(POLICY)), "given up for another: {refused:?}");
    attack.write_is_refused("its end", &Write::delete(LEASE), "does not delete leases").await?;

    // What it does itself, the person's word staying what it is: renew, give up, take over.
    for (number, form) in Form::ALL.into_iter().enumerate() {
        let renew = |lease: &mut Value| {
            lease["metadata"]["annotations"][VERDICT] = format!("{{\"version\": {}}}", number + 1).into();
            lease["spec"]["renewTime"] = format!("2026-01-01T00:00:0{number}.000000Z").into();
        };
        change(&agent, form, LEASE, false, renew).await?.context("every form can")??;
    }
    change(&agent, merge, LEASE, false, give_up).await?.context("a merge patch can")??;
    let take = |lease: &mut Value| lease["spec"]["holderIdentity"] = holder("node-b").into();
    change(&other, merge, LEASE, false, take).await?.context("a merge patch can")??;
    let take_over = |lease: &mut Value| lease["spec"]["holderIdentity"] = holder("node-a").into();
    change(&agent, merge, LEASE, false, take_over).await?.context("a merge patch can")??;
    let written = get(&admin, LEASE).await?;
    ensure!(written["metadata"]["annotations"][OVERRIDE] == WORD, "{written:#}");
    ensure!(written["spec"]["holderIdentity"] == holder("node-a"), "{written:#}");
    Ok(())
}
