//! What a pod is to the mesh, by what the downward API says of it.

use std::net::IpAddr;

use strum::{Display, EnumString, VariantArray};

use crate::decide::readiness::evidence::Probe;
use crate::linkerd::names::inject;

/// What `wait` does with a missed pod once Linkerd is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumString, VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum OnMissed {
    /// Hold it until the controller or a person replaces it.
    Hold,
    /// Exit with code 75.
    Exit,
    /// Prove injection, then delete this very pod.
    Replace,
    /// Start it outside the mesh.
    Open,
}

/// What the downward API says of the pod that `wait` runs in. Empty strings are `None` but for the label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPod {
    /// The value of the label `linkerd.io/control-plane-ns`; empty where the pod has none.
    pub injected_by: String,
    /// The value of the annotation `linkerd.io/inject`.
    pub inject: Option<String>,
    /// `status.podIP`
    pub ip: Option<IpAddr>,
    /// `status.hostIP`
    pub host_ip: Option<IpAddr>,
    /// `metadata.name`
    pub name: Option<String>,
    /// `metadata.namespace`
    pub namespace: Option<String>,
    /// `metadata.uid`
    pub uid: Option<String>,
}

/// What this pod is to the mesh, as far as a container without any rights can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodClass {
    /// The injector marked it. (A label can be forged; guard and controller look at containers.)
    Meshed,
    /// Its own annotation says `disabled`: it does not want to be in the mesh, only to start after it.
    Disabled,
    /// It is on the host network, which Linkerd never injects.
    HostNetwork,
    /// The entry of `wait` in it is the ask, and nothing injected it.
    Missed,
}

/// What follows once Linkerd is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Let the pod start.
    Open,
    /// Hold it: starting would be outside the mesh.
    Hold,
    /// Exit with code 75.
    Exit,
    /// Prove injection, then delete the pod.
    Replace,
}

// === impl PodClass ===

impl PodClass {
    /// Reads it off the downward API's variables.
    pub fn of(pod: &OwnPod) -> Self {
        if !pod.injected_by.is_empty() {
            return Self::Meshed;
        }
        if pod.inject.as_deref() == Some(inject::DISABLED) {
            return Self::Disabled;
        }
        if pod.ip.is_some() && pod.ip == pod.host_ip {
            return Self::HostNetwork;
        }
        Self::Missed
    }

    /// What follows once Linkerd is ready.
    ///
    /// A pod whose annotation Linkerd does not take is held also where it was to exit or to replace itself: its successor
    /// would be the same, and nothing would ever end that.
    pub fn then(self, on_missed: OnMissed, pod: &OwnPod) -> Then {
        match (self, on_missed) {
            (Self::Meshed | Self::Disabled | Self::HostNetwork, _) | (Self::Missed, OnMissed::Open) => Then::Open,
            (Self::Missed, _) if refused_annotation(pod).is_some() => Then::Hold,
            (Self::Missed, OnMissed::Hold) => Then::Hold,
            (Self::Missed, OnMissed::Exit) => Then::Exit,
            (Self::Missed, OnMissed::Replace) => Then::Replace,
        }
    }

    /// Whether `probe` has to be ready before `wait` says that Linkerd is; `configured` says which ones the operator requires.
    pub fn requires(self, probe: Probe, on_missed: OnMissed, configured: impl Fn(Probe) -> bool) -> bool {
        match self {
            // Injection is behind a meshed pod: all it still needs is a certificate.
            Self::Meshed => probe == Probe::Identity,
            // "Create this pod again" would be bad advice while no injector could inject the next one.
            Self::Missed if on_missed != OnMissed::Open && probe == Probe::Injector => true,
            Self::Missed | Self::Disabled | Self::HostNetwork => configured(probe),
        }
    }
}

/// A value of `linkerd.io/inject` that makes the injector skip the pod, whatever its namespace says. Values are exact:
/// `Enabled` is none (linkerd2, `pkg/inject/report.go`).
pub fn refused_annotation(pod: &OwnPod) -> Option<&str> {
    let value = pod.inject.as_deref()?;
    (![inject::ENABLED, inject::INGRESS, inject::DISABLED].contains(&value)).then_some(value)
}

#[cfg(test)]
mod tests {
    use strum::VariantArray as _;

    use super::*;

    fn pod(injected_by: &str, inject: Option<&str>, ip: Option<&str>, host_ip: Option<&str>) -> OwnPod {
        OwnPod {
            injected_by: injected_by.to_owned(),
            inject: inject.map(str::to_owned),
            ip: ip.map(|ip| ip.parse().unwrap()),
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            name: None,
            namespace: None,
            uid: None,
        }
    }

    #[test]
    fn a_label_with_a_value_is_meshed_whatever_else_is_said() {
        assert_eq!(
            PodClass::of(&pod("linkerd", Some("disabled"), Some("10.0.0.1"), Some("10.0.0.1"))),
            PodClass::Meshed
        );
    }

    #[test]
    fn disabled_is_exact() {
        assert_eq!(PodClass::of(&pod("", Some("disabled"), None, None)), PodClass::Disabled);
        for near_miss in ["Disabled", "false", " disabled", "enabled", "ingress"] {
            assert_eq!(PodClass::of(&pod("", Some(near_miss), None, None)), PodClass::Missed, "{near_miss}");
        }
    }

    #[test]
    fn a_pod_with_the_hosts_address_is_on_the_host_network() {
        assert_eq!(PodClass::of(&pod("", None, Some("10.0.0.1"), Some("10.0.0.1"))), PodClass::HostNetwork);
        assert_eq!(PodClass::of(&pod("", None, Some("10.244.0.9"), Some("10.0.0.1"))), PodClass::Missed);
        assert_eq!(PodClass::of(&pod("", None, None, None)), PodClass::Missed);
    }

    #[test]
    fn only_a_missed_pod_is_ever_held_back_by_on_missed() {
        for class in [PodClass::Meshed, PodClass::Disabled, PodClass::HostNetwork] {
            for on_missed in OnMissed::VARIANTS {
                assert_eq!(class.then(*on_missed, &pod("", None, None, None)), Then::Open);
            }
        }
        let then = |inject| {
            let pod = pod("", inject, None, None);
            OnMissed::VARIANTS.iter().map(|on_missed| PodClass::Missed.then(*on_missed, &pod)).collect::<Vec<_>>()
        };
        assert_eq!(then(None), [Then::Hold, Then::Exit, Then::Replace, Then::Open]);
        assert_eq!(then(Some("enabled")), [Then::Hold, Then::Exit, Then::Replace, Then::Open]);
        assert_eq!(
            then(Some("Enabled")),
            [Then::Hold, Then::Hold, Then::Hold, Then::Open],
            "its successor is the same"
        );
    }

    #[test]
    fn meshed_pods_need_identity_and_missed_ones_an_injector() {
        let of = |class: PodClass, on_missed| -> Vec<Probe> {
            let configured = |probe| probe == Probe::Policy;
            Probe::ALL.into_iter().filter(|probe| class.requires(*probe, on_missed, configured)).collect()
        };
        assert_eq!(of(PodClass::Meshed, OnMissed::Hold), [Probe::Identity]);
        for on_missed in [OnMissed::Hold, OnMissed::Exit, OnMissed::Replace] {
            assert_eq!(of(PodClass::Missed, on_missed), [Probe::Injector, Probe::Policy]);
        }
        assert_eq!(of(PodClass::Missed, OnMissed::Open), [Probe::Policy]);
        assert_eq!(of(PodClass::Disabled, OnMissed::Hold), [Probe::Policy]);
    }
}
