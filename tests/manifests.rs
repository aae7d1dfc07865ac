//! What users paste is what is tested: pages, examples and the test kit hold the same init container.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use linkerd_gate::config::{AgentSettings, ControllerSettings, Wait, table};
use linkerd_gate::metrics;
use linkerd_gate_kit::object::gate;
use serde_json::{Value, json};

const IMAGE: &str = concat!("REGISTRY/linkerd-gate:", env!("CARGO_PKG_VERSION"));

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn examples() -> Vec<PathBuf> {
    let mut examples: Vec<PathBuf> = std::fs::read_dir(root().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    examples.sort();
    assert!(examples.len() >= 4, "{examples:?}");
    examples
}

fn documents(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The entries of `wait` in all examples, with the file they stand in.
fn entries() -> Vec<(PathBuf, Value)> {
    let mut entries = Vec::new();
    for path in examples() {
        for document in documents(&path) {
            let containers = &document["spec"]["template"]["spec"]["initContainers"];
            entries.extend(containers.as_array().into_iter().flatten().map(|entry| (path.clone(), entry.clone())));
        }
    }
    entries
}

/// Every document of `deploy/manifests`.
fn manifests() -> Vec<Value> {
    std::fs::read_dir(root().join("deploy/manifests"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .flat_map(|path| documents(&path))
        .collect()
}

/// The entry without the variables that a case adds to it.
fn plain(mut entry: Value) -> Value {
    let common = gate(IMAGE).json();
    let known: Vec<Value> = common["env"].as_array().unwrap().iter().map(|variable| variable["name"].clone()).collect();
    entry["env"].as_array_mut().unwrap().retain(|variable| known.contains(&variable["name"]));
    entry
}

#[test]
fn every_example_has_the_documented_entry() {
    let entries = entries();
    assert_eq!(entries.len(), 4);
    for (path, entry) in entries {
        assert_eq!(plain(entry), gate(IMAGE).json(), "{}", path.display());
    }
}

#[test]
fn the_entry_on_the_page_is_the_tested_one() {
    let page = std::fs::read_to_string(root().join("docs/wait.md")).unwrap();
    let block = page.split("```yaml\n").nth(1).expect("a block of YAML").split("```").next().unwrap();
    let pasted: Value = serde_saphyr::from_str(block).unwrap();
    assert_eq!(pasted["initContainers"][0], gate(IMAGE).json());
}

#[test]
fn every_variable_in_the_examples_is_one_that_wait_takes() {
    for (path, entry) in entries() {
        let variables = entry["env"].as_array().unwrap().iter().map(|variable| {
            let name = variable["name"].as_str().unwrap();
            let example = table::find(name).unwrap_or_else(|| panic!("{name}")).example;
            (name.into(), variable["value"].as_str().unwrap_or(example).into())
        });
        Wait::from_variables(variables).unwrap_or_else(|problems| panic!("{}: {problems}", path.display()));
    }
}

/// Holds the part of a page below its mark, up to the next heading, to what is generated, or writes it anew (`make docs`).
fn assert_page(name: &str, mark: &str, generated: &str) {
    let mark = format!("<!-- {mark} -->\n\n");
    let path = root().join("docs").join(name);
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(&mark).expect("a marked table");
    let (table, after) = match rest.find("\n#") {
        Some(end) => rest.split_at(end),
        None => (rest, ""),
    };
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{mark}{generated}{after}")).unwrap();
        return;
    }
    assert_eq!(table, generated, "docs/{name} is out of date: run `make docs`");
}

// One test for both tables of the page: two would write it at once.
#[test]
fn the_page_of_variables_is_the_table() {
    for role in table::Role::ALL {
        assert_page("configuration.md", role.as_str(), &table::markdown(role.variables()));
    }
}

#[test]
fn the_page_of_metrics_is_the_table() {
    assert_page("metrics.md", "table", &metrics::markdown());
}

#[test]
fn every_variable_in_the_manifests_is_one_of_its_role() {
    for role in [table::Role::Agent, table::Role::Controller] {
        let command = json!([role.as_str()]);
        let all = manifests();
        let container = |document: &Value| document["spec"]["template"]["spec"]["containers"][0].clone();
        let container = all.iter().map(container).find(|container| container["args"] == command).expect("a container");
        let variables: Vec<(OsString, OsString)> = container["env"]
            .as_array()
            .unwrap()
            .iter()
            .map(|variable| {
                let name = variable["name"].as_str().unwrap();
                let example = role.find(name).unwrap_or_else(|| panic!("{name}")).example;
                (name.into(), variable["value"].as_str().unwrap_or(example).into())
            })
            .collect();
        let problems = match role {
            table::Role::Controller => ControllerSettings::read(variables).err(),
            _ => AgentSettings::read(variables).err(),
        };
        assert!(problems.is_none(), "{}: {problems:?}", role.as_str());
    }
}

#[test]
fn the_reference_has_every_exit_code() {
    let page = std::fs::read_to_string(root().join("docs/reference.md")).unwrap();
    for exit in linkerd_gate::exit::Exit::ALL {
        assert!(page.contains(&format!("| {} | {} |", exit.code(), exit.meaning())), "{exit:?}");
    }
}

#[test]
fn the_dockerfile_and_make_image_make_the_same_layout() {
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    let dry_run = std::process::Command::new("make").args(["--dry-run", "image"]).current_dir(root()).output().unwrap();
    let image = String::from_utf8(dry_run.stdout).unwrap();
    let labels: Vec<&str> = dockerfile.split("org.opencontainers.image.").skip(1).collect();
    assert!(labels.len() >= 5);
    for label in labels {
        let name = label.split('=').next().unwrap();
        assert!(image.contains(&format!("org.opencontainers.image.{name}=")), "{name} is in the Dockerfile only");
    }
    for (line, flag) in [
        ("USER 2102:2102", "--user 2102:2102"),
        ("ENTRYPOINT [\"/gate-wait\"]", "--entrypoint /gate-wait"),
        ("COPY --from=build /image/linkerd-gate /linkerd-gate", "--program \"/linkerd-gate=$programs/linkerd-gate\""),
        ("COPY --from=build /image/gate-wait /gate-wait", "--program \"/gate-wait=$programs/gate-wait\""),
    ] {
        assert!(dockerfile.lines().any(|found| found == line), "the Dockerfile has no {line}");
        assert!(image.contains(flag), "make image has no {flag}");
    }
    let version = dockerfile.lines().find_map(|line| line.strip_prefix("ARG VERSION=")).unwrap();
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_agents_daemon_set_runs_everywhere_without_privileges() {
    let all = manifests();
    // A Service of our name would put LINKERD_GATE_PORT and its like into pods.
    assert!(all.iter().all(|document| document["kind"] != "Service"));
    let daemon_set = all.iter().find(|document| document["kind"] == "DaemonSet").expect("a DaemonSet");
    let pod = &daemon_set["spec"]["template"];
    assert_eq!(pod["metadata"]["annotations"]["linkerd.io/inject"], "disabled");
    let spec = &pod["spec"];
    assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(spec["priorityClassName"], "system-node-critical");
    assert_eq!((&spec["hostNetwork"], &spec["dnsPolicy"]), (&json!(true), &json!("Default")));
    assert!(spec.get("volumes").is_none() && spec.get("hostPID").is_none() && spec.get("hostIPC").is_none());
    assert_eq!(
        spec["securityContext"],
        json!({
            "runAsUser": 2102, "runAsGroup": 2102, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    let containers = spec["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    assert_eq!(containers[0]["image"], IMAGE);
    assert_eq!(
        containers[0]["securityContext"],
        json!({
            "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        })
    );
}

#[test]
fn the_controllers_deployment_runs_on_closed_nodes_unprivileged() {
    let all = manifests();
    let named = |kind: &str| {
        let ours =
            |document: &&Value| document["kind"] == kind && document["metadata"]["name"] == "linkerd-gate-controller";
        all.iter().find(ours).unwrap_or_else(|| panic!("no {kind}"))
    };
    let (deployment, account, budget) = (named("Deployment"), named("ServiceAccount"), named("PodDisruptionBudget"));
    let (deployed, pod) = (&deployment["spec"], &deployment["spec"]["template"]);
    let spec = &pod["spec"];
    assert_eq!((&deployed["replicas"], &budget["spec"]["maxUnavailable"]), (&json!(2), &json!(1)));
    // Whoever selects them selects them all, and no agent.
    let labels = json!({"app.kubernetes.io/name": "linkerd-gate", "app.kubernetes.io/component": "controller"});
    let spread = &spec["topologySpreadConstraints"][0]["labelSelector"];
    let apart = &spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
    for selector in
        [&deployed["selector"], &budget["spec"]["selector"], spread, &apart["podAffinityTerm"]["labelSelector"]]
    {
        assert_eq!(selector, &json!({"matchLabels": labels}));
    }
    assert_eq!(pod["metadata"], json!({"labels": labels, "annotations": {"linkerd.io/inject": "disabled"}}));
    assert_eq!(spec["serviceAccountName"], account["metadata"]["name"]);
    let toleration = json!({"key": "linkerd-gate/closed", "operator": "Exists", "effect": "NoSchedule"});
    assert_eq!(spec["tolerations"], json!([toleration]));
    assert_eq!(spec["priorityClassName"], "system-cluster-critical");
    assert_eq!(spec["enableServiceLinks"], false);
    assert!(["volumes", "hostNetwork", "hostPID", "hostIPC"].iter().all(|field| spec.get(field).is_none()));
    let agents = all.iter().find(|document| document["kind"] == "DaemonSet").expect("a DaemonSet");
    let agents = &agents["spec"]["template"]["spec"];
    assert_eq!(spec["securityContext"], agents["securityContext"]);
    let containers = spec["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    assert_eq!((&containers[0]["image"], &containers[0]["args"]), (&json!(IMAGE), &json!(["controller"])));
    for field in ["securityContext", "ports", "readinessProbe", "livenessProbe", "imagePullPolicy"] {
        assert_eq!(containers[0][field], agents["containers"][0][field], "{field}");
    }
}
