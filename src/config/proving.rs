//! What a proof of injection takes: the same for every role that makes one.

use std::collections::{BTreeMap, BTreeSet};

use super::reader::{Reader, choice, components, namespace};
use super::value::{Address, Component, IdentityBy, is_label_key};
use crate::decide::{Policy, Probe};

/// How injection is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proving {
    /// What has to answer, beside the proof of injection.
    pub require: BTreeSet<Component>,
    /// How identity is known to be up.
    pub identity_by: IdentityBy,
    /// Where dry-run pods are sent to.
    pub probe_namespace: String,
    /// The labels of dry-run pods, for webhooks that select pods by labels.
    pub probe_labels: BTreeMap<String, String>,
    /// The API servers through which injection is proven; empty where the cluster tells.
    pub api_servers: Vec<Address>,
}

// === impl Proving ===

impl Proving {
    pub(super) fn of(reader: &mut Reader) -> Self {
        Self {
            require: reader.defaulted("LINKERD_GATE_REQUIRE", components),
            identity_by: reader.defaulted("LINKERD_GATE_IDENTITY", choice),
            probe_namespace: reader.defaulted("LINKERD_GATE_PROBE_NAMESPACE", namespace).to_string(),
            probe_labels: reader.optional("LINKERD_GATE_PROBE_LABELS", labels).unwrap_or_default(),
            api_servers: reader.optional("LINKERD_GATE_API_SERVERS", addresses).unwrap_or_default(),
        }
    }

    /// What has to be proven before anything opens.
    pub fn policy(&self) -> Policy {
        // The chart's parts beyond those that every proof needs.
        let probe = |component: &Component| match component {
            Component::Injector => Probe::Injector,
            Component::Identity => Probe::Identity,
            Component::Destination => Probe::Destination,
            Component::Policy => Probe::Policy,
        };
        self.require.iter().map(probe).fold(Policy::proven(), Policy::and)
    }
}

fn addresses(text: &str) -> Result<Vec<Address>, String> {
    let one = |address: &str| address.parse().map_err(|why| format!("names {address:?}, which {why}"));
    text.split(',').map(str::trim).map(one).collect()
}

fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let is_value = |value: &str| {
        let edge = |c: char| c.is_ascii_alphanumeric();
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        value.is_empty()
            || value.len() <= 63 && value.starts_with(edge) && value.ends_with(edge) && value.bytes().all(inside)
    };
    let one = |label: &str| match label.split_once('=') {
        Some((key, value)) if is_label_key(key) && is_value(value) => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("names {label:?}, which is no label KEY=VALUE")),
    };
    text.split(',').map(str::trim).map(one).collect()
}
