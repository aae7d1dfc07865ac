//! DaemonSets: one pod on each node.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::list;

/// Where [`with_boot_id`] puts the boot id in the container.
const INSIDE: &str = "/run/linkerd-gate/boot_id";

/// Gives container `agent` of this DaemonSet the boot id in the file `path` of its node: a container's own `/proc` shows
/// that of the machine, where nodes are not machines.
///
/// The file is mounted, and the variable `LINKERD_GATE_BOOT_ID_FILE` names it.
pub fn with_boot_id(mut daemon_set: Value, path: &str) -> Result<Value> {
    let pod = &mut daemon_set["spec"]["template"]["spec"];
    let containers = pod["containers"].as_array_mut().context("a DaemonSet without containers")?;
    let agent = containers.iter_mut().find(|container| container["name"] == "agent");
    let agent = agent.context("no container is called agent")?;
    let (name, variable) = ("boot-id", "LINKERD_GATE_BOOT_ID_FILE");
    let variables = list(&mut agent["env"]);
    variables.retain(|entry| entry["name"] != variable);
    variables.push(json!({"name": variable, "value": INSIDE}));
    list(&mut agent["volumeMounts"]).push(json!({"name": name, "mountPath": INSIDE, "readOnly": true}));
    list(&mut pod["volumes"]).push(json!({"name": name, "hostPath": {"path": path, "type": "File"}}));
    Ok(daemon_set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agent_is_given_the_boot_id_and_once() -> Result<()> {
        let variable = json!({"name": "LINKERD_GATE_BOOT_ID_FILE", "value": "/elsewhere"});
        let agent = json!({"name": "agent", "env": [variable]});
        let daemon_set = json!({"spec": {"template": {"spec": {"containers": [{"name": "other"}, agent]}}}});
        let pod = &with_boot_id(daemon_set, "/proc/boot")?["spec"]["template"]["spec"];
        assert_eq!(pod["containers"][0], json!({"name": "other"}));
        assert_eq!(pod["containers"][1]["env"], json!([{"name": "LINKERD_GATE_BOOT_ID_FILE", "value": INSIDE}]));
        assert_eq!(pod["containers"][1]["volumeMounts"][0]["name"], pod["volumes"][0]["name"]);
        assert_eq!(pod["volumes"][0]["hostPath"]["path"], "/proc/boot");
        Ok(())
    }

    #[test]
    fn a_daemon_set_without_an_agent_is_refused() {
        let daemon_set = json!({"spec": {"template": {"spec": {"containers": [{"name": "other"}]}}}});
        assert!(with_boot_id(daemon_set, "/proc/boot").is_err());
    }
}
