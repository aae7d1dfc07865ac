//! Cluster DNS: a service's name becomes addresses, or one line that says why not.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::Name;

use super::RESOLVE_LIMIT;
use crate::config::Address;
use crate::decide::ProbeResult;

/// Resolves names as a pod does, by `/etc/resolv.conf`, and remembers nothing: a negative answer kept for its 30 s would
/// hold a pod for that long after Linkerd is back.
///
/// The resolver is asynchronous all the way: dropping a look ends it, where a `getaddrinfo` in a thread would not.
#[derive(Debug, Default)]
pub(super) struct Dns {
    system: OnceLock<System>,
}

#[derive(Debug)]
struct System {
    resolver: TokioResolver,
    /// What follows `svc.` in the search list: `cluster.local`, mostly.
    cluster_domain: Option<String>,
    /// The name servers, for people.
    servers: String,
}

// === impl Dns ===

impl Dns {
    /// The socket addresses of `address`; at least one.
    ///
    /// # Errors
    /// What to report of a probe that could not even find out where to ask.
    pub(super) async fn resolve(&self, address: &Address) -> Result<Vec<SocketAddr>, ProbeResult> {
        if let Ok(ip) = address.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, address.port)]);
        }
        let system = self.system()?;
        let host = &address.host;
        let lookup = system.resolver.lookup_ip(system.absolute(host));
        match tokio::time::timeout(RESOLVE_LIMIT, lookup).await {
            Ok(Ok(found)) => {
                let mut addresses: Vec<_> = found.iter().map(|ip| SocketAddr::new(ip, address.port)).collect();
                // DNS shuffles its answers; reasons should not.
                addresses.sort_unstable();
                if addresses.is_empty() { Err(without_address(host)) } else { Ok(addresses) }
            }
            Ok(Err(error)) => Err(system.failure(host, &error)),
            Err(_elapsed) => Err(system.silent(host)),
        }
    }

    fn system(&self) -> Result<&System, ProbeResult> {
        if let Some(system) = self.system.get() {
            return Ok(system);
        }
        let system = System::read().map_err(|error| {
            ProbeResult::unknown(format!("cannot look up names: /etc/resolv.conf could not be used: {error}"))
        })?;
        Ok(self.system.get_or_init(|| system))
    }
}

// === impl System ===

impl System {
    fn read() -> Result<Self, NetError> {
        let mut builder = TokioResolver::builder_tokio()?;
        let options = builder.options_mut();
        options.cache_size = 0;
        options.attempts = 1;
        options.timeout = Duration::from_millis(1100);
        // One question where the cluster has IPv4, also beside IPv6: whoever serves one family here serves the other. Asking
        // for both at once would double what a thousand waiting pods send to the cluster's DNS.
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        let resolver = builder.build()?;
        let (config, _options) = hickory_resolver::system_conf::read_system_conf()?;
        let search: Vec<String> = config.search.iter().map(Name::to_ascii).collect();
        let cluster_domain = cluster_domain(&search);
        let servers: Vec<_> = config.name_servers.iter().map(|server| server.ip.to_string()).collect();
        Ok(Self { resolver, cluster_domain, servers: servers.join(", ") })
    }

    /// A service's name with the cluster's domain, so that one query does where the search list (`ndots:5`) would send
    /// six: a thousand waiting pods are kinder to a cluster's DNS that way.
    fn absolute(&self, host: &str) -> String {
        match &self.cluster_domain {
            Some(domain) if host.rsplit('.').next() == Some("svc") => format!("{host}.{domain}."),
            _ => host.to_owned(),
        }
    }

    fn failure(&self, host: &str, error: &NetError) -> ProbeResult {
        match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NXDomain => {
                // CoreDNS also answers so for a headless service none of whose pods is ready (measured, 1.15.0).
                let why = match self.cluster_domain {
                    Some(_) => "Linkerd is not installed there, or none of its pods is ready",
                    None => {
                        "this pod's DNS is not the cluster's (/etc/resolv.conf has no cluster domain); on the host network \
                         it needs dnsPolicy: ClusterFirstWithHostNet"
                    }
                };
                ProbeResult::not_ready(format!("DNS knows no name {host}: {why}"))
            }
            NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NoError => {
                without_address(host)
            }
            NetError::Dns(DnsError::NoRecordsFound(none)) => self.refused(host, none.response_code),
            NetError::Dns(DnsError::ResponseCode(code)) => self.refused(host, *code),
            NetError::Timeout => self.silent(host),
            other => ProbeResult::unknown(format!("cannot look up {host}: DNS at {}: {other}", self.servers)),
        }
    }

    fn refused(&self, host: &str, code: ResponseCode) -> ProbeResult {
        ProbeResult::unknown(format!("cannot look up {host}: DNS at {} answered {code}", self.servers))
    }

    fn silent(&self, host: &str) -> ProbeResult {
        ProbeResult::unknown(format!("cannot look up {host}: DNS at {} does not answer", self.servers))
    }
}

/// The name has records, but no address: of another kind, or by a DNS server that does not deny the name as CoreDNS does.
fn without_address(host: &str) -> ProbeResult {
    ProbeResult::not_ready(format!("DNS knows {host}, but it has no address: none of its pods is ready"))
}

/// The cluster's domain, off a pod's search list.
///
/// Kubelet writes `NAMESPACE.svc.DOMAIN svc.DOMAIN DOMAIN` first, and the node's own search domains after them (k8s.io/kubernetes,
/// `pkg/kubelet/network/dns`, `generateSearchesForDNSClusterFirst`). So the first entry counts that has a namespace's form and is
/// followed by the same without the namespace. A node may search `svc.corp.io` itself, and a namespace may be called `svc`.
///
/// Without a domain nothing is lost but queries: the name goes through the whole search list then.
fn cluster_domain(search: &[String]) -> Option<String> {
    let bare = |domain: &str| domain.trim_end_matches('.').to_ascii_lowercase();
    search.windows(2).find_map(|pair| {
        let (with_namespace, of_services) = (bare(&pair[0]), bare(&pair[1]));
        let (namespace, services) = with_namespace.split_once('.')?;
        let domain = services.strip_prefix("svc.").filter(|domain| !domain.is_empty())?;
        (!namespace.is_empty() && services == of_services).then(|| domain.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(search: &[&str]) -> Option<String> {
        cluster_domain(&search.iter().map(|domain| (*domain).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_clusters_domain_is_read_off_a_pods_search_list() {
        assert_eq!(domain(&["shop.svc.k8s.test.", "svc.k8s.test.", "k8s.test."]).as_deref(), Some("k8s.test"));
        assert_eq!(
            domain(&["svc.svc.cluster.local", "svc.cluster.local", "cluster.local"]).as_deref(),
            Some("cluster.local")
        );
    }

    #[test]
    fn a_nodes_own_search_domains_do_not_count() {
        let kubelets = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"];
        for nodes in [&["svc.corp.io"][..], &["svc.io"], &["eu.svc.io", "svc.io"], &["corp.io", "svc."]] {
            let search = [&kubelets[..], nodes].concat();
            assert_eq!(domain(&search).as_deref(), Some("cluster.local"), "{search:?}");
            // On the host network, without the cluster's DNS: nothing there is the cluster's unless it looks exactly so.
            assert_eq!(domain(nodes).is_some(), nodes.len() == 2 && nodes[1] == "svc.io", "{nodes:?}");
        }
        assert_eq!(domain(&["Shop.svc.Cluster.local", "svc.cluster.LOCAL."]).as_deref(), Some("cluster.local"));
    }

    #[test]
    fn a_nodes_search_list_has_none() {
        assert_eq!(domain(&["corp.example.com"]), None);
        assert_eq!(domain(&["svc.corp.io", "corp.io"]), None);
        assert_eq!(domain(&["svc.cluster.local"]), None);
        assert_eq!(domain(&[]), None);
    }
}
