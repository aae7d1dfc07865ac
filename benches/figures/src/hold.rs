//! What hold costs a pod's creation, by the API server's own metrics, beside policies that do nothing.
//!
//! An API server asks a policy once before it calls webhooks, and once more where something was changed since. Two passes cannot
//! be had for less than two policies that change nothing: those are the measure, for other namespaces of the same API server, in
//! turn with the rest.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use linkerd_gate_kit::object::namespace;
use linkerd_gate_kit::standin::Fault;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::guard::{Harness, Metric, is_injected};
use crate::said;
use crate::sample::Sample;
use crate::table::{GATE, Table, Target};

/// Of two empty passes: the aim, and what no change may exceed.
const RATIO: f64 = 1.45;
const LIMIT: f64 = 2.5;

/// Each sort of pod in its turn, so often, and so many of them each time. What else the machine does meets all of them alike.
const ROUNDS: usize = 30;
const PODS: u32 = 25;

/// A namespace that asks, where two policies that change nothing are asked once each.
const TWICE: &str = "asked-twice";

/// The same with one policy, which is asked again once the injector has changed the pod.
const AGAIN: &str = "asked-again";

/// The plugin that evaluates mutating policies, each time that it is asked.
const PLUGIN: Metric = Metric {
    name: "apiserver_admission_controller_admission_duration_seconds",
    labels: &["name=\"MutatingAdmissionPolicy\"", "operation=\"CREATE\"", "type=\"admit\""],
};

/// What becomes of pods.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expect {
    Injected,
    Held,
    Bare,
}

pub async fn measure(harness: &Harness, table: &mut Table) -> Result<()> {
    said("hold: beside policies that do nothing, the injector absent");
    for name in [TWICE, AGAIN] {
        // Hold and guard leave these alone.
        let exempt = namespace(name).asking().labelled("linkerd-gate/admission", "exempt").json();
        harness.cluster.create_namespace(&serde_json::from_value(exempt)?).await?;
    }
    let empty = [("empty-1", TWICE, "Never"), ("empty-2", TWICE, "Never"), ("empty-again", AGAIN, "IfNeeded")];
    let empty: Vec<_> =
        empty.into_iter().flat_map(|(name, place, again)| policy(name, place, again, NOTHING)).collect();
    harness.kubectl("apply", written(&empty)?.path()).await?;
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/manifests");
    for file in ["60-admission-hold.yaml", "61-admission-guard.yaml"] {
        harness.kubectl("apply", &manifests.join(file)).await?;
    }
    harness.injector.suffer(Fault::Absent).await?;
    harness.until("pods are held", |answer| answer.is_ok_and(|pod| is_held(&pod))).await?;
    harness.until_policies_count().await?;
    let absent = [(TWICE, Expect::Bare), ("shop", Expect::Held), ("quiet", Expect::Bare)];
    let [floor, held, quiet] = harness.in_turn(absent).await?;
    said("hold: the same behind an injector that answers");
    harness.injector.recover().await?;
    let [again, injected] = harness.in_turn([(AGAIN, Expect::Injected), ("shop", Expect::Injected)]).await?;

    let how = "the API server's admission_controller_admission_duration_seconds of MutatingAdmissionPolicy, type admit, all \
               passes of a pod together, of 25 dry-run creates, one after the other: the median of 30 rounds' means, each \
               round all sorts of pods in turn";
    for (name, cost) in [
        ("two empty passes: a pod's creation", floor),
        ("two empty passes: an injected pod's creation", again),
        ("hold: of a pod that is held", held),
        ("hold: of a pod that does not ask", quiet),
        ("hold: an injected pod's creation", injected),
    ] {
        table.figure(name, "µs", how).value(GATE, cost);
    }
    // The second pass sees what the injector made of the pod, which is larger, and shares the machine with the injector.
    let of_the_call = again - floor;
    let how =
        "by the first of these rows; of an injected pod less what the call and the larger pod add to two empty passes";
    for (name, cost) in [
        ("hold: held, by two empty passes", held),
        ("hold: not asking, by two empty passes", quiet),
        ("hold: injected, by two empty passes", injected - of_the_call),
    ] {
        let ratio = cost / floor;
        table.figure(name, "×", how).value(GATE, ratio).target(
            "≤ 1.45, never 2.5",
            if ratio > LIMIT { Target::Kept(false) } else { Target::Missable(ratio <= RATIO) },
        );
    }
    Ok(())
}

/// An empty list alone has no type.
const NOTHING: &str = "false ? [JSONPatch{op: \"remove\", path: \"/spec\"}] : []";

/// One that changes only what asks for it.
fn marking() -> [Value; 2] {
    let expression = "object.metadata.name != 'is-it-so' ? [] : \
                      [JSONPatch{op: \"add\", path: \"/metadata/labels/marked\", value: \"yes\"}]";
    policy("marking", "shop", "Never", expression)
}

/// A policy for every pod that is created in a namespace, and its binding.
fn policy(name: &str, namespace: &str, again: &str, expression: &str) -> [Value; 2] {
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]);
    let there = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
    [
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": again,
                "matchConstraints": {"resourceRules": rules, "namespaceSelector": there},
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
            },
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name},
        }),
    ]
}

fn written(objects: &[Value]) -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new().suffix(".json").tempfile()?;
    write!(file, "{}", json!({"apiVersion": "v1", "kind": "List", "items": objects}))?;
    Ok(file)
}

fn is_held(pod: &Pod) -> bool {
    let gates = pod.spec.iter().flat_map(|spec| spec.scheduling_gates.iter().flatten());
    gates.into_iter().any(|gate| gate.name == "linkerd-gate/injected")
}

// === impl Stage ===

impl Harness {
    async fn kubectl(&self, verb: &str, file: &Path) -> Result<()> {
        let output = Command::new(self.cluster.kubectl()).args([verb, "--filename"]).arg(file).output().await?;
        ensure!(output.status.success(), "kubectl {verb}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Waits until the API server goes by the policies that are there now: it reads them in the order in which they were made,
    /// so one that can be seen at work is made after them, and taken away.
    async fn until_policies_count(&self) -> Result<()> {
        let file = written(&marking())?;
        let marked = |pod: &Pod| pod.metadata.labels.iter().flatten().any(|(key, _)| key == "marked");
        self.kubectl("apply", file.path()).await?;
        self.until("a policy counts", |answer| answer.is_ok_and(|pod| marked(&pod))).await?;
        self.kubectl("delete", file.path()).await?;
        self.until("a policy that was deleted does not", |answer| answer.is_ok_and(|pod| !marked(&pod))).await
    }

    /// Asks for pods of each sort in turn, which are to be answered like that, and returns what all passes of one of each cost, in
    /// microseconds.
    async fn in_turn<const SORTS: usize>(&self, sorts: [(&str, Expect); SORTS]) -> Result<[f64; SORTS]> {
        let mut costs = sorts.map(|_| Vec::new());
        // The first is for caches and code paths.
        for round in 0..=ROUNDS {
            for ((namespace, expect), costs) in sorts.iter().zip(&mut costs) {
                let cost = self.passes(namespace, *expect).await?;
                if round > 0 {
                    costs.push(cost);
                }
            }
        }
        Ok(costs.map(|costs| costs.into_iter().collect::<Sample>().median()))
    }

    async fn passes(&self, namespace: &str, expect: Expect) -> Result<f64> {
        let before = PLUGIN.read(&self.metrics().await?);
        for number in 0..PODS {
            let pod = self.ask(namespace, &format!("pod-{number}")).await.context("a pod was refused")?;
            let is = match (is_injected(&pod), is_held(&pod)) {
                (true, false) => Expect::Injected,
                (false, true) => Expect::Held,
                (false, false) => Expect::Bare,
                (true, true) => bail!("a pod is injected and held"),
            };
            ensure!(is == expect, "a pod in {namespace} is {is:?}, and {expect:?} was expected");
        }
        Ok(PLUGIN.read(&self.metrics().await?).since(before).seconds / f64::from(PODS) * 1e6)
    }
}
