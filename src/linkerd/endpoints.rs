//! EndpointSlices of Linkerd's Services, and of the API servers, reduced to what decisions need.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

/// One EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointsView {
    /// The namespace of its Service.
    pub namespace: String,
    /// The name of its Service.
    pub service: String,
    /// The addresses of endpoints that are ready. Ones that say nothing of it count as ready, as the API defines.
    pub ready: BTreeSet<IpAddr>,
    /// The addresses of all endpoints: after a power loss readiness is what etcd remembers, and may be wrong either way.
    pub all: BTreeSet<IpAddr>,
    /// The ports, in the order written: name and number.
    pub ports: Vec<(String, u16)>,
}

// === impl EndpointsView ===

impl EndpointsView {
    /// What decisions need of a slice.
    pub fn of(slice: &EndpointSlice) -> Self {
        let label = |key| slice.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
        let addresses = |only_ready: bool| {
            slice
                .endpoints
                .iter()
                .filter(|endpoint| {
                    !only_ready || endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
                })
                .flat_map(|endpoint| endpoint.addresses.iter().filter_map(|address| address.parse().ok()))
                .collect()
        };
        let port = |port: &k8s_openapi::api::discovery::v1::EndpointPort| {
            let number = port.port.and_then(|number| u16::try_from(number).ok())?;
            Some((port.name.clone().unwrap_or_default(), number))
        };
        Self {
            namespace: slice.metadata.namespace.clone().unwrap_or_default(),
            service: label("kubernetes.io/service-name").unwrap_or_default(),
            ready: addresses(true),
            all: addresses(false),
            ports: slice.ports.iter().flatten().filter_map(port).collect(),
        }
    }
}

/// How many endpoints of a Service are ready.
pub fn ready<'a>(slices: impl IntoIterator<Item = &'a EndpointsView>, namespace: &str, service: &str) -> usize {
    let of_it = slices.into_iter().filter(|slice| slice.namespace == namespace && slice.service == service);
    of_it.flat_map(|slice| &slice.ready).collect::<BTreeSet<_>>().len()
}

/// Where a Service's endpoints listen, on the port of that name, or else on the only one; `port` instead, where it is given.
/// Those that are ready come first: they are asked first.
pub fn addresses<'a>(
    slices: impl IntoIterator<Item = &'a EndpointsView>,
    namespace: &str,
    service: &str,
    port: Option<u16>,
) -> Vec<SocketAddr> {
    let mut found = BTreeSet::new();
    for slice in slices.into_iter().filter(|slice| slice.namespace == namespace && slice.service == service) {
        let Some(port) = port.or_else(|| slice.ports.first().map(|(_, number)| *number)) else { continue };
        let ranked = slice.all.iter().map(|ip| (!slice.ready.contains(ip), SocketAddr::new(*ip, port)));
        found.extend(ranked);
    }
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for (_, address) in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Whether a pod that is not on the host network can have that address: no loopback, link-local, multicast, broadcast or unspecified one,
/// whichever way it is written. The API server refuses such addresses in an EndpointSlice (k8s.io/kubernetes,
/// `ValidateEndpointIP`), so whoever names one has not read it there.
pub fn is_of_a_pod(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            // All of 0.0.0.0/8 means "this network", and a connection to it reaches the host itself.
            let this_network = ip.octets()[0] == 0;
            !(this_network || ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast())
        }
        IpAddr::V6(ip) => {
            // `::a.b.c.d`, which is deprecated (RFC 4291), `::` and `::1` with it.
            let compatible = ip.segments()[..6] == [0; 6];
            !(compatible || ip.is_unicast_link_local() || ip.is_multicast())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slice(service: &str, endpoints: &serde_json::Value, ports: &serde_json::Value) -> EndpointsView {
        EndpointsView::of(
            &serde_json::from_value(json!({
                "metadata": {"namespace": "linkerd", "labels": {"kubernetes.io/service-name": service}},
                "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
            }))
            .unwrap(),
        )
    }

    #[test]
    fn an_endpoint_without_conditions_is_ready_unless_it_says_no() {
        let slice = slice(
            "linkerd-identity",
            &json!([
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.9"]},
            ]),
            &json!([{"name": "grpc", "port": 8080}]),
        );
        assert_eq!(ready([&slice], "linkerd", "linkerd-identity"), 2);
        assert_eq!(ready([&slice], "linkerd", "linkerd-dst"), 0);
        let texts = |port| {
            let all = addresses([&slice], "linkerd", "linkerd-identity", port);
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(texts(None), ["10.0.0.2:8080", "10.0.0.9:8080", "10.0.0.3:8080"], "what is ready is asked first");
        assert_eq!(texts(Some(9990))[0], "10.0.0.2:9990");
    }

    #[test]
    fn a_slice_without_endpoints_is_nothing_ready() {
        let slice = slice("linkerd-identity", &json!([]), &json!([]));
        assert_eq!(ready([&slice], "linkerd", "linkerd-identity"), 0);
        assert!(addresses([&slice], "linkerd", "linkerd-identity", None).is_empty());
    }

    #[test]
    fn addresses_that_no_pod_can_have_are_detected_in_any_notation() {
        for no in [
            "127.0.0.1",
            "127.8.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "fe80::1",
            "febf::1",
            "ff02::1",
        ] {
            assert!(!is_of_a_pod(no.parse().unwrap()), "{no}");
        }
        for yes in [
            "10.244.0.7",
            "192.168.1.2",
            "172.16.0.1",
            "100.64.0.9",
            "::ffff:10.244.0.7",
            "fd00:10:244::7",
            "2001:db8::7",
        ] {
            assert!(is_of_a_pod(yes.parse().unwrap()), "{yes}");
        }
    }
}
