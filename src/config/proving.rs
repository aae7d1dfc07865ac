//! What a proof of injection takes: the same for every role that makes one.

use std::collections::{BTreeMap, BTreeSet};

use super::value::{Address, Component, IdentityBy, is_label_key};
use super::{Reader, components, namespace, word};
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

/// The variables as they came.
pub(super) struct ProvingRaw {
    pub(super) require: Option<String>,
    pub(super) identity: Option<String>,
    pub(super) probe_namespace: Option<String>,
    pub(super) probe_labels: Option<String>,
    pub(super) api_servers: Option<String>,
}

// === impl Proving ===

impl Proving {
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

// === impl Reader ===

impl Reader {
    pub(super) fn proving(&mut self, raw: ProvingRaw) -> Proving {
        Proving {
            require: self
                .optional("LINKERD_GATE_REQUIRE", raw.require, components)
                .unwrap_or_else(|| BTreeSet::from([Component::Injector, Component::Identity])),
            identity_by: self.optional("LINKERD_GATE_IDENTITY", raw.identity, word).unwrap_or(IdentityBy::Ask),
            probe_namespace: self
                .optional("LINKERD_GATE_PROBE_NAMESPACE", raw.probe_namespace, namespace)
                .map_or_else(|| "linkerd-gate-probe".to_owned(), |name| name.to_string()),
            probe_labels: self.optional("LINKERD_GATE_PROBE_LABELS", raw.probe_labels, labels).unwrap_or_default(),
            api_servers: self.optional("LINKERD_GATE_API_SERVERS", raw.api_servers, addresses).unwrap_or_default(),
        }
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
