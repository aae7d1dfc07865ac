//! The agent's looks at Linkerd's parts, by the addresses of their pods: it needs no DNS.
//!
//! An agent takes these addresses from a verdict, which any node's root can forge. So it connects to no address that no pod has, to none
//! of its node, and to identity's port only: a forged verdict makes it probe no address that the forger could not probe itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::admin::{Admin, any_of};
use super::identity::Identity;
use crate::config::Address;
use crate::decide::ProbeResult;
use crate::linkerd::endpoints::is_of_a_pod;
use crate::linkerd::names::port;

/// Probes components of Linkerd at addresses from the cluster. Of several, one that answers is enough.
pub struct ControlPlane {
    identity: Identity,
    admin: Admin,
}

// === impl ControlPlane ===

impl ControlPlane {
    /// Prepares to ask; sends nothing.
    pub fn new() -> Self {
        // Both are asked at addresses that are given with each question.
        let nowhere = Address::new("linkerd.invalid", 1);
        Self { identity: Identity::new(nowhere.clone()), admin: Admin::new(nowhere) }
    }

    /// Whether identity answers an empty Certify at one of these. Those where it cannot be are not asked.
    pub async fn identity(&self, addresses: &[SocketAddr]) -> ProbeResult {
        let asked = askable(addresses, &[port::IDENTITY_GRPC]);
        if asked.is_empty() && !addresses.is_empty() {
            return not_askable("identity");
        }
        any_of(asked, |address| self.identity.ask(address)).await
    }

    /// Whether one of these admin ports says that its part is ready. Those where it cannot be are not asked.
    pub async fn ready(&self, addresses: &[SocketAddr]) -> ProbeResult {
        let asked = askable(addresses, &[port::DESTINATION_ADMIN, port::POLICY_ADMIN]);
        if asked.is_empty() && !addresses.is_empty() {
            return not_askable("it");
        }
        any_of(asked, |address| self.admin.ask(address)).await
    }
}

fn askable(addresses: &[SocketAddr], ports: &[u16]) -> Vec<SocketAddr> {
    let can_be =
        |address: &&SocketAddr| ports.contains(&address.port()) && is_of_a_pod(address.ip()) && !is_own(address.ip());
    addresses.iter().filter(can_be).copied().collect()
}

fn not_askable(what: &str) -> ProbeResult {
    ProbeResult::unknown(format!("none of the addresses where {what} is said to be is a pod's, on its port"))
}

/// Whether an address is one of this host's, as the kernel knows it: a socket can be bound to it, or what goes there also comes from there.
/// Nothing is sent. Where `net.ipv4.ip_nonlocal_bind` (or IPv6's) lets sockets be bound to any address, only the second tells, and of a
/// network interface's addresses only the first one is known.
fn is_own(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    // Of networks for documentation (RFC 5737, RFC 3849): no host has them.
    let (any, nobodys): (IpAddr, IpAddr) = match ip {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    };
    let binds = |ip: IpAddr| UdpSocket::bind((ip, 0)).is_ok();
    let comes_from = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    binds(ip) && !binds(nobodys) || comes_from.is_ok_and(|from| from.ip() == ip)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_local_address_is_recognized() {
        assert!(is_own(Ipv4Addr::LOCALHOST.into()) && is_own(Ipv4Addr::new(127, 9, 9, 9).into()));
        // TEST-NET-1 (RFC 5737): nobody has it.
        assert!(!is_own(Ipv4Addr::new(192, 0, 2, 1).into()));
        // Whatever else this machine has; where there is no way out, it has nothing to say here.
        let out = UdpSocket::bind("0.0.0.0:0").unwrap();
        if out.connect("192.0.2.1:9").is_ok() {
            assert!(is_own(out.local_addr().unwrap().ip()));
        }
    }

    /// What a forged verdict names: sockets that listen here, of which none is connected to.
    #[tokio::test]
    async fn a_forged_verdict_makes_no_connection_here() {
        let parts = ControlPlane::new();
        // An address of loopback that is this test's own, on identity's port: only the address speaks against it.
        let listener = TcpListener::bind(("127.83.10.7", port::IDENTITY_GRPC)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let named = [port::IDENTITY_GRPC, 22, 10250].into_iter().flat_map(|port| {
            ["127.83.10.7", "::ffff:127.83.10.7", "0.0.0.0", "::1"]
                .map(move |ip| SocketAddr::new(ip.parse().unwrap(), port))
        });
        let named: Vec<SocketAddr> = named.collect();
        for outcome in [parts.identity(&named).await, parts.ready(&named).await] {
            assert!(
                matches!(outcome, ProbeResult::Unknown(_)) && outcome.to_string().contains("none of the addresses"),
                "{outcome}"
            );
        }
        let accepted = listener.accept().map(|_| ()).map_err(|error| error.kind());
        assert_eq!(accepted, Err(std::io::ErrorKind::WouldBlock), "something connected");
    }

    #[test]
    fn identity_is_asked_on_its_own_port_only() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let named = ["192.0.2.7:8080", "192.0.2.7:22", "192.0.2.8:8080", "169.254.169.254:8080"].map(at);
        assert_eq!(askable(&named, &[port::IDENTITY_GRPC]), [at("192.0.2.7:8080"), at("192.0.2.8:8080")]);
    }
}
