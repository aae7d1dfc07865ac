//! Verification of the injector's certificate: in full with a CA bundle, by name and dates without.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::linkerd::webhook::CaBundle;

/// What the injector's certificate is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// No bundle: name and dates are checked, the issuer cannot be.
    NameOnly,
    /// The certificates of a CA bundle, in DER; never empty.
    Bundle(Vec<CertificateDer<'static>>),
}

/// Why a CA bundle cannot be used, as a clause after its path.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    /// The file cannot be read.
    #[error("cannot be read by user {user}: {source}", user = own_uid())]
    Read {
        /// Why not.
        source: std::io::Error,
    },
    /// A directory, a pipe: reading it might never end.
    #[error("is not a regular file")]
    NotAFile,
    /// No certificate in it can be used.
    #[error("is no CA bundle: {0}")]
    Content(String),
}

/// Checks the injector's certificate.
///
/// With a bundle, as the API server does. Two differences between webpki and Go's verifier matter here. Go accepts a
/// served certificate that itself stands in the bundle, even one marked as a CA, and a self-signed injector certificate can be
/// such a one. An expired authority vouches for no certificate: webpki's trust anchors have no dates, Go's have.
///
/// Without a bundle, name and dates. A pod has no right to read the webhook configuration, so unless a person mounts a bundle
/// this is all that can be checked; it still tells a proxy or a stranger at that address from the injector.
#[derive(Debug)]
pub(super) struct Verifier {
    provider: Arc<CryptoProvider>,
    bundle: Option<Bundle>,
}

#[derive(Debug)]
struct Bundle {
    certificates: Vec<CertificateDer<'static>>,
}

// === impl Trust ===

impl Trust {
    /// Reads a bundle as the API server reads the webhook configuration's; `None` is no bundle.
    pub(super) fn read(path: Option<&Path>) -> Result<Self, CaFileError> {
        let Some(path) = path else { return Ok(Self::NameOnly) };
        if !std::fs::metadata(path).map_err(|source| CaFileError::Read { source })?.is_file() {
            return Err(CaFileError::NotAFile);
        }
        let bundle = CaBundle::new(&std::fs::read(path).map_err(|source| CaFileError::Read { source })?);
        match (bundle.problem(), bundle) {
            (None, CaBundle::Certificates(certificates)) => Ok(Self::Bundle(certificates)),
            (problem, _) => Err(CaFileError::Content(problem.unwrap_or_default())),
        }
    }

    /// What holds a served certificate to this.
    pub(super) fn verifier(&self) -> Verifier {
        let bundle = match self {
            Self::NameOnly => None,
            Self::Bundle(certificates) => Some(Bundle { certificates: certificates.clone() }),
        };
        Verifier { provider: Arc::new(rustls::crypto::ring::default_provider()), bundle }
    }

    /// A TLS client that holds the server to this.
    ///
    /// # Errors
    /// A certificate in the bundle that is none.
    pub(super) fn client_config(&self) -> Result<ClientConfig, rustls::Error> {
        let verifier = self.verifier();
        let provider = Arc::clone(&verifier.provider);
        Ok(ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth())
    }
}

fn against(
    certificates: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone())?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

fn own_uid() -> String {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").map_or_else(|_| "unknown".to_owned(), |metadata| metadata.uid().to_string())
}

// === impl Verifier ===

impl Verifier {
    fn verify_name_and_dates(
        &self,
        end_entity: &CertificateDer<'_>,
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
        rustls::client::verify_server_name(&parsed, server_name)?;
        // Held against itself, a certificate shows its dates and its purpose; that no authority vouches for it, or that it
        // is an authority (which webpki reports as `Other`), is no news here.
        let itself = against(&[end_entity.clone().into_owned()], &self.provider)?;
        match itself.verify_server_cert(end_entity, &[], server_name, &[], now) {
            Ok(_)
            | Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature | CertificateError::Other(_),
            )) => Ok(ServerCertVerified::assertion()),
            Err(error) => Err(error),
        }
    }

    /// The certificates of the bundle whose time it is.
    fn authorities_at(
        &self,
        bundle: &Bundle,
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, rustls::Error> {
        let mut in_time = Vec::new();
        let mut over = CertificateError::UnknownIssuer;
        for certificate in &bundle.certificates {
            // webpki looks at the dates before anything else, also of what is no server's certificate.
            let itself = against(std::slice::from_ref(certificate), &self.provider)?;
            match itself.verify_server_cert(certificate, &[], server_name, &[], now) {
                Err(rustls::Error::InvalidCertificate(error)) if is_about_time(&error) => over = error,
                _ => in_time.push(certificate.clone()),
            }
        }
        if in_time.is_empty() { Err(over.into()) } else { Ok(in_time) }
    }
}

fn is_about_time(error: &CertificateError) -> bool {
    matches!(
        error,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    )
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.bundle {
            Some(bundle) if !bundle.certificates.iter().any(|certificate| certificate == end_entity) => {
                let authorities = self.authorities_at(bundle, server_name, now)?;
                let chains = against(&authorities, &self.provider)?;
                chains.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
            }
            _ => self.verify_name_and_dates(end_entity, server_name, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};

    use super::*;

    const NAME: &str = "linkerd-proxy-injector.linkerd.svc";

    fn leaf(name: &str) -> CertificateParams {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters
    }

    fn expired(mut parameters: CertificateParams) -> CertificateParams {
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
        parameters
    }

    fn authority() -> CertificateParams {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters
    }

    fn issuer(parameters: CertificateParams) -> CertifiedIssuer<'static, KeyPair> {
        CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
    }

    fn signed(parameters: &CertificateParams, issuer: &CertifiedIssuer<'static, KeyPair>) -> CertificateDer<'static> {
        parameters.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
    }

    fn self_signed(parameters: &CertificateParams) -> CertificateDer<'static> {
        parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    /// Whether `served` is taken, with this bundle or none.
    fn verdict(
        served: &CertificateDer<'_>,
        bundle: Option<Vec<CertificateDer<'static>>>,
    ) -> Result<(), CertificateError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Verifier { provider, bundle: bundle.map(|certificates| Bundle { certificates }) };
        let name = ServerName::try_from(NAME).unwrap();
        match verifier.verify_server_cert(served, &[], &name, &[], UnixTime::now()) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(error)) => Err(error),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn without_a_bundle_name_dates_and_purpose_count_not_the_issuer() {
        assert_eq!(verdict(&self_signed(&leaf(NAME)), None), Ok(()));
        assert_eq!(verdict(&signed(&leaf(NAME), &issuer(authority())), None), Ok(()));
        let mut as_authority = leaf(NAME);
        as_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert_eq!(verdict(&self_signed(&as_authority), None), Ok(()));

        assert!(verdict(&self_signed(&leaf("other.linkerd.svc")), None).is_err());
        for parameters in [expired(leaf(NAME)), expired(as_authority)] {
            assert!(is_about_time(&verdict(&self_signed(&parameters), None).unwrap_err()));
            assert!(is_about_time(&verdict(&signed(&parameters, &issuer(authority())), None).unwrap_err()));
        }
        let mut clients = leaf(NAME);
        clients.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        assert!(verdict(&self_signed(&clients), None).is_err(), "the API server would not take a client's certificate");
    }

    #[test]
    fn a_bundle_vouches_for_what_it_signed_and_for_nothing_else() {
        let issuer_of = issuer(authority());
        let bundle = || Some(vec![issuer_of.der().clone()]);
        assert_eq!(verdict(&signed(&leaf(NAME), &issuer_of), bundle()), Ok(()));
        assert!(verdict(&signed(&leaf("other.linkerd.svc"), &issuer_of), bundle()).is_err());
        assert!(is_about_time(&verdict(&signed(&expired(leaf(NAME)), &issuer_of), bundle()).unwrap_err()));
        assert!(verdict(&signed(&leaf(NAME), &issuer(authority())), bundle()).is_err());
        assert!(verdict(&self_signed(&leaf(NAME)), bundle()).is_err());
    }

    #[test]
    fn a_served_certificate_in_the_bundle_is_accepted_until_expiry() {
        let mut as_authority = leaf(NAME);
        as_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        for parameters in [leaf(NAME), as_authority] {
            let served = self_signed(&parameters);
            assert_eq!(verdict(&served, Some(vec![served.clone()])), Ok(()));
            let expired = self_signed(&expired(parameters));
            assert!(verdict(&expired, Some(vec![expired.clone()])).is_err());
        }
    }

    #[test]
    fn an_expired_authority_verifies_no_certificate() {
        let (old, new) = (issuer(expired(authority())), issuer(authority()));
        let served = signed(&leaf(NAME), &old);
        assert!(is_about_time(&verdict(&served, Some(vec![old.der().clone()])).unwrap_err()));
        let both = vec![old.der().clone(), new.der().clone()];
        assert!(verdict(&served, Some(both.clone())).is_err());
        assert_eq!(verdict(&signed(&leaf(NAME), &new), Some(both)), Ok(()));
    }
}
