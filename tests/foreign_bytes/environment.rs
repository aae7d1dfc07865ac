//! The environment of each role.

use std::ffi::OsString;

use linkerd_gate::config::{AgentSettings, ControllerSettings, Wait};
use proptest::prelude::*;

use super::broken::broken;
use super::{hold, is_harmless};

const GENUINE: [&str; 3] = [
    "LINKERD_GATE_INJECTED_BY=\nLINKERD_GATE_POD_NAME=web\nLINKERD_GATE_POD_NAMESPACE=shop\nLINKERD_GATE_TIMEOUT=10m\nLINKERD_GATE_ON_MISSED=exit\n\
     LINKERD_GATE_REQUIRE=injector,identity\nLINKERD_GATE_LOG=debug,kube=info\nLINKERD_GATE_HOST_IP=fd00::1",
    "LINKERD_GATE_NODE_NAME=node-0\nLINKERD_GATE_POD_NAME=a\nLINKERD_GATE_POD_NAMESPACE=linkerd-gate\nLINKERD_GATE_NODE_MAX_CLOSED=10m\n\
     LINKERD_GATE_ESSENTIAL_NAMESPACES=a,b\nLINKERD_GATE_IGNORED_DAEMON_SETS=kube-system/svclb-*\nLINKERD_GATE_TAINT_KEY=a/b",
    "LINKERD_GATE_NODE_NAME=node-0\nLINKERD_GATE_POD_NAME=a\nLINKERD_GATE_POD_NAMESPACE=linkerd-gate\nLINKERD_GATE_POD_UID=u\n\
     LINKERD_GATE_HOLD_MAX=1h\nLINKERD_GATE_MODE=audit\nLINKERD_GATE_PROBE_LABELS=a=b",
];

fn variables(text: &str) -> Vec<(OsString, OsString)> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    // The operating system allows neither in a variable.
    let allowed = pairs.filter(|(name, value)| !name.is_empty() && !name.contains('\0') && !value.contains('\0'));
    allowed.map(|(name, value)| (name.into(), value.into())).collect()
}

/// The first message names what is wrong by the variable, and a terminal obeys none of it.
#[test]
fn whatever_is_in_the_environment_the_error_names_a_variable() {
    hold("environment", broken(GENUINE.map(ToOwned::to_owned).to_vec()), |text| {
        let refused = [
            Wait::read(variables(text), |_| Ok(())).err(),
            AgentSettings::read(variables(text)).err(),
            ControllerSettings::read(variables(text)).err(),
        ];
        for problems in refused.into_iter().flatten() {
            let said = problems.to_string();
            prop_assert!(said.contains("LINKERD_GATE_"), "{}", said);
            is_harmless(&said)?;
        }
        Ok(())
    });
}
