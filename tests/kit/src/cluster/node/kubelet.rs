//! A node's kubelet and kube-proxy: their configuration.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::Result;
use k8s_openapi::api::core::v1::Taint;
use serde_json::json;

use super::containerd;
use crate::cluster::{
    credentials::Credentials,
    dns::{DNS_SERVICE, DOMAIN},
};

/// Writes kubelet's configuration into the node's directory and returns kubelet's arguments.
pub(super) fn arguments(
    name: &str,
    directory: &Path,
    address: Ipv4Addr,
    cgroup: &Path,
    credentials: &Credentials,
    taints: &[Taint],
) -> Result<Vec<String>> {
    let path = directory.join("kubelet.json");
    std::fs::write(&path, configuration(directory, cgroup, credentials, taints).to_string())?;
    Ok(vec![
        format!("--config={}", path.display()),
        format!("--kubeconfig={}", kubeconfig(credentials, name).display()),
        format!("--root-dir={}", directory.join("kubelet").display()),
        format!("--hostname-override={name}"),
        format!("--node-ip={address}"),
    ])
}

/// kube-proxy's arguments.
pub(super) fn proxy_arguments(name: &str, pods: &str, credentials: &Credentials) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", credentials.file("kube-proxy.kubeconfig").display()),
        format!("--hostname-override={name}"),
        "--proxy-mode=nftables".to_owned(),
        format!("--cluster-cidr={pods}"),
        // These are the kernel's, not the network namespace's: nothing here may change them.
        "--conntrack-max-per-core=0".to_owned(),
        "--conntrack-min=0".to_owned(),
        "--conntrack-tcp-timeout-established=0".to_owned(),
        "--conntrack-tcp-timeout-close-wait=0".to_owned(),
    ]
}

/// The name of a kubelet's kubeconfig among the [`Credentials`] is its node's.
fn kubeconfig(credentials: &Credentials, name: &str) -> PathBuf {
    credentials.file(&format!("{name}.kubeconfig"))
}

fn configuration(directory: &Path, cgroup: &Path, credentials: &Credentials, taints: &[Taint]) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": credentials.file("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "registerWithTaints": taints,
        "containerRuntimeEndpoint": format!("unix://{}", containerd::socket(directory).display()),
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": DOMAIN,
        // Names outside the cluster resolve nowhere: there is no outside.
        "resolvConf": "/dev/null",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": Path::new("/").join(cgroup),
        // No part of the machine is set aside for the system: the system is not ours to limit.
        "enforceNodeAllocatable": [],
        // As many as their network has addresses for: many tests share a node.
        "maxPods": 250,
        "failCgroupV1": false,
        "failSwapOn": false,
        "volumePluginDir": directory.join("volume-plugins"),
        "evictionHard": {"memory.available": "32Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        // Images come from archives; what is collected would not come back.
        "imageGCHighThresholdPercent": 100,
        // Tests wait for what these report; the defaults (10 s, 5 min) are for clusters of thousands.
        "nodeStatusUpdateFrequency": "2s",
        "nodeStatusReportFrequency": "2s",
        "eventRecordQPS": 0,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        // A container that keeps failing is started again after a second, not after up to five minutes.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        "logging": {"verbosity": 1},
    })
}
