//! Verification of the injector's certificate: in full with a CA bundle, by name and dates without.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// What the injector's certificate is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// No bundle: name and dates are checked, the issuer cannot be.
    NameOnly,
    /// The certificates of a CA bundle, in DER; never empty.
    Bundle(Vec<CertificateDer<'static>>),
}

/// A CA bundle that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    /// The file cannot be read.
    #[error(
        "LINKERD_GATE_CA_FILE={path:?} cannot be read: {source}; accepted: a PEM file that user {} may read",
        own_uid()
    )]
    Read {
        /// The path as it was given.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not PEM.
    #[error(
        "LINKERD_GATE_CA_FILE={path:?} is not PEM: {complaint}; accepted: a PEM file with at least one certificate"
    )]
    Pem {
        /// The path as it was given.
        path: PathBuf,
        /// What is wrong with it.
        complaint: String,
    },
    /// The file holds no certificate.
    #[error("LINKERD_GATE_CA_FILE={0:?} holds no certificate; accepted: a PEM file with at least one certificate")]
    Empty(PathBuf),
}

/// Checks the injector's certificate.
///
/// With a bundle, as the API server does. The one difference between webpki and Go's verifier that matters here: Go accepts a
/// served certificate that itself stands in the bundle, even one marked as a CA, and a self-signed injector certificate can be
/// such a one.
///
/// Without a bundle, name and dates. A pod has no right to read the webhook configuration, so unless somebody mounts a bundle
/// this is all that can be checked; it still tells a proxy or a stranger at that address from the injector.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    bundle: Option<Bundle>,
}

#[derive(Debug)]
struct Bundle {
    certificates: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
}

// === impl Trust ===

impl Trust {
    /// Reads a bundle; `None` is no bundle.
    pub(super) fn read(path: Option<&Path>) -> Result<Self, CaFileError> {
        let Some(path) = path else { return Ok(Self::NameOnly) };
        let pem = std::fs::read(path).map_err(|source| CaFileError::Read { path: path.to_owned(), source })?;
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| CaFileError::Pem { path: path.to_owned(), complaint: error.to_string() })?;
        if certificates.is_empty() {
            return Err(CaFileError::Empty(path.to_owned()));
        }
        let trust = Self::Bundle(certificates);
        trust
            .client_config()
            .map_err(|error| CaFileError::Pem { path: path.to_owned(), complaint: error.to_string() })?;
        Ok(trust)
    }

    /// A TLS client that holds the server to this.
    ///
    /// # Errors
    /// A certificate in the bundle that is none.
    pub(super) fn client_config(&self) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let bundle = match self {
            Self::NameOnly => None,
            Self::Bundle(certificates) => {
                let chains = against(certificates, &provider)?;
                Some(Bundle { certificates: certificates.clone(), chains })
            }
        };
        let verifier = Arc::new(Verifier { provider: Arc::clone(&provider), bundle });
        Ok(ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
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
        // Held against itself, a certificate shows its dates; that nobody else vouches for it is no news here.
        let itself = against(&[end_entity.clone().into_owned()], &self.provider)?;
        match itself.verify_server_cert(end_entity, &[], server_name, &[], now) {
            Err(rustls::Error::InvalidCertificate(
                wrong @ (CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }),
            )) => Err(wrong.into()),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }
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
                bundle.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
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
