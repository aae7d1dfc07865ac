//! The certificate that is served at an address: its fingerprint, and whether the API server would trust it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::tls::{Trust, Verifier};
use super::{CONNECT_LIMIT, error};
use crate::check::certificate::{Found, ServedBy, fingerprint};
use crate::linkerd::webhook::CaBundle;

/// Looks at a served certificate, and lets the handshake end well whatever it is: the server is not to log a failure.
#[derive(Debug)]
struct Look {
    verifiers: Vec<Verifier>,
    found: Mutex<Option<Found>>,
}

/// Connects to the injector at `address` and holds what it serves for `server_name` against each of the bundles. Sends no request.
pub async fn served(address: SocketAddr, server_name: &str, bundles: &[CaBundle]) -> ServedBy {
    let found = timeout(CONNECT_LIMIT, connect(address, server_name, bundles)).await;
    let found = found.unwrap_or_else(|_| Found::Nothing(format!("no TLS handshake ended in {CONNECT_LIMIT:?}")));
    ServedBy { address, found }
}

async fn connect(address: SocketAddr, server_name: &str, bundles: &[CaBundle]) -> Found {
    let Ok(name) = ServerName::try_from(server_name.to_owned()) else {
        return Found::Nothing(format!("{server_name} is no name of a server"));
    };
    let trusts = bundles.iter().filter_map(|bundle| match bundle {
        CaBundle::Certificates(certificates) => Some(Trust::Bundle(certificates.clone())),
        CaBundle::Absent | CaBundle::Placeholder | CaBundle::Unusable(_) => None,
    });
    let look = Arc::new(Look { verifiers: trusts.map(|trust| trust.verifier()).collect(), found: Mutex::new(None) });
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions();
    let config = match config {
        Ok(config) => config,
        Err(error) => return Found::Nothing(error.to_string()),
    };
    let verifier: Arc<dyn ServerCertVerifier> = Arc::<Look>::clone(&look);
    let config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    let wire = match TcpStream::connect(address).await {
        Ok(wire) => wire,
        Err(error) => return Found::Nothing(error.to_string()),
    };
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, wire).await;
    let found = look.found.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (found, handshake) {
        (Some(found), _) => found,
        (None, Err(error)) => Found::Nothing(format!("the TLS handshake failed: {error}")),
        (None, Ok(_)) => Found::Nothing("it served no certificate".to_owned()),
    }
}

impl ServerCertVerifier for Look {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judge =
            |verifier: &Verifier| verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp, now).err();
        let fingerprint = fingerprint(end_entity);
        let found = match self.verifiers.iter().find_map(judge) {
            None => Found::Trusted { fingerprint },
            Some(error) => Found::NotTrusted { fingerprint, why: error::certificate(&error, "the caBundle") },
        };
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Trust::NameOnly.verifier().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Trust::NameOnly.verifier().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Trust::NameOnly.verifier().supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use linkerd_gate_kit::standin::{Certificates, Fault, Flaw, Injector, Namespaces, Sidecar};

    use super::*;

    const NAME: &str = "linkerd-proxy-injector.linkerd.svc";

    async fn look(certificates: &Certificates, bundle: &Certificates, fault: Option<Fault>) -> Found {
        let injector = Injector::new(certificates.clone(), &Namespaces::any(), Sidecar::genuine("linkerd"));
        let injector = injector.start().await.unwrap();
        if let Some(fault) = fault {
            injector.suffer(fault).await.unwrap();
        }
        let bundle = CaBundle::new(bundle.ca_bundle().as_bytes());
        served(injector.address(), NAME, &[bundle]).await.found
    }

    #[tokio::test]
    async fn each_flaw_of_a_certificate_is_named_with_its_fingerprint() {
        let (own, other) =
            (Certificates::for_injector("linkerd").unwrap(), Certificates::for_injector("linkerd").unwrap());
        let Found::Trusted { fingerprint } = look(&own, &own, None).await else { panic!("it is not trusted") };
        assert_eq!((fingerprint.len(), fingerprint.matches(':').count()), (95, 31), "{fingerprint}");
        let chart = Certificates::in_the_charts_form("linkerd").unwrap();
        assert!(matches!(look(&chart, &chart, None).await, Found::Trusted { .. }));
        for (bundle, fault, told) in [
            (&other, None, "it does not chain to the caBundle"),
            (&own, Some(Fault::Certificate(Flaw::Authority)), "it does not chain to the caBundle"),
            (&own, Some(Fault::Certificate(Flaw::Expired)), "it has expired"),
            (&own, Some(Fault::Certificate(Flaw::Name)), "it is for "),
        ] {
            match look(&own, bundle, fault).await {
                Found::NotTrusted { why, fingerprint } => {
                    assert!(why.starts_with(told) && fingerprint.len() == 95, "{why} {fingerprint}");
                }
                other => panic!("{fault:?}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn one_bundle_that_does_not_fit_is_enough() {
        let (own, other) =
            (Certificates::for_injector("linkerd").unwrap(), Certificates::for_injector("linkerd").unwrap());
        let injector =
            Injector::new(own.clone(), &Namespaces::any(), Sidecar::genuine("linkerd")).start().await.unwrap();
        let bundles = [&own, &other].map(|it| CaBundle::new(it.ca_bundle().as_bytes()));
        let found = served(injector.address(), NAME, &bundles).await.found;
        assert!(matches!(found, Found::NotTrusted { .. }), "{found:?}");
    }

    #[tokio::test]
    async fn what_serves_no_certificate_is_no_finding_about_one() {
        let own = Certificates::for_injector("linkerd").unwrap();
        assert!(matches!(look(&own, &own, Some(Fault::PlainHttp)).await, Found::Nothing(_)));
        let bundle = CaBundle::new(own.ca_bundle().as_bytes());
        // The discard port: nothing listens there.
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let found = served(nowhere, NAME, &[bundle]).await.found;
        assert!(matches!(&found, Found::Nothing(why) if why.contains("refused")), "{found:?}");
    }
}
