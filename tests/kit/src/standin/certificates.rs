//! The certificates of an injector: the good one, and one for each flaw.

use super::fault::Flaw;
use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What an injector's webhook configuration and its server share. Serialisable, so that a test can hand it to a stand-in in a
/// container and the bundle to the webhook configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Certificates {
    ca_bundle: String,
    good: Served,
    name: Served,
    authority: Served,
    expired: Served,
}

/// A certificate and its key, DER in base64.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Served {
    certificate: String,
    key: String,
}

/// One TLS configuration per certificate.
#[derive(Clone)]
pub(super) struct Configurations {
    good: Arc<ServerConfig>,
    name: Arc<ServerConfig>,
    authority: Arc<ServerConfig>,
    expired: Arc<ServerConfig>,
}

// === impl Certificates ===

impl Certificates {
    /// For the Service `linkerd-proxy-injector` in Linkerd's namespace: an authority of its own, whose certificate is the
    /// bundle, as where a user or cert-manager gives Linkerd its webhook certificate.
    pub fn for_injector(linkerd_namespace: &str) -> Result<Self> {
        let name = format!("linkerd-proxy-injector.{linkerd_namespace}.svc");
        let authority = authority("linkerd-gate stand-in")?;
        let stranger = self::authority("linkerd-gate stand-in, another authority")?;
        let mut expired = leaf(&name)?;
        expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
        expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
        Ok(Self {
            ca_bundle: authority.pem(),
            good: Served::signed(&leaf(&name)?, &authority)?,
            name: Served::signed(&leaf(&format!("not-the-injector.{linkerd_namespace}.svc"))?, &authority)?,
            authority: Served::signed(&leaf(&name)?, &stranger)?,
            expired: Served::signed(&expired, &authority)?,
        })
    }

    /// As the chart makes them by default (sprig's `genSelfSignedCert`): one self-signed certificate that is no authority, for
    /// that one name, and is the bundle too. Here the flawed certificates are self-signed as well, hence outside the bundle:
    /// to a client each is first of all of an unknown authority. (The chart's key is RSA, ours is ECDSA P-256.)
    pub fn in_the_charts_form(linkerd_namespace: &str) -> Result<Self> {
        let name = format!("linkerd-proxy-injector.{linkerd_namespace}.svc");
        let mut expired = leaf(&name)?;
        expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
        expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let key = KeyPair::generate()?;
        let certificate = leaf(&name)?.self_signed(&key)?;
        Ok(Self {
            ca_bundle: certificate.pem(),
            good: Served::new(certificate.der(), &key),
            name: Served::self_signed(&leaf(&format!("not-the-injector.{linkerd_namespace}.svc"))?)?,
            authority: Served::self_signed(&leaf(&name)?)?,
            expired: Served::self_signed(&expired)?,
        })
    }

    /// PEM, for `clientConfig.caBundle` (which wants it in base64 on top) and for `LINKERD_GATE_CA_FILE`.
    pub fn ca_bundle(&self) -> &str {
        &self.ca_bundle
    }

    /// For an environment variable or a Secret; [`Certificates::from_json`] reads it.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// What [`Certificates::to_json`] wrote.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("not certificates in the kit's form")
    }

    pub(super) fn configurations(&self) -> Result<Configurations> {
        Ok(Configurations {
            good: self.good.configuration()?,
            name: self.name.configuration()?,
            authority: self.authority.configuration()?,
            expired: self.expired.configuration()?,
        })
    }
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn leaf(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name = named(name);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

// === impl Served ===

impl Served {
    fn new(certificate: &[u8], key: &KeyPair) -> Self {
        Self { certificate: STANDARD.encode(certificate), key: STANDARD.encode(key.serialize_der()) }
    }

    fn signed(params: &CertificateParams, authority: &CertifiedIssuer<'_, KeyPair>) -> Result<Self> {
        let key = KeyPair::generate()?;
        Ok(Self::new(params.signed_by(&key, authority)?.der(), &key))
    }

    fn self_signed(params: &CertificateParams) -> Result<Self> {
        let key = KeyPair::generate()?;
        Ok(Self::new(params.self_signed(&key)?.der(), &key))
    }

    fn configuration(&self) -> Result<Arc<ServerConfig>> {
        let certificate = CertificateDer::from(STANDARD.decode(&self.certificate)?);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(STANDARD.decode(&self.key)?));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // TLS 1.3 and nothing older, like the genuine injector (controller/webhook/server.go).
        let mut configuration = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        // Go's HTTPS server offers both.
        configuration.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(configuration))
    }
}

// === impl Configurations ===

impl Configurations {
    pub(super) fn with(&self, flaw: Option<Flaw>) -> Arc<ServerConfig> {
        Arc::clone(match flaw {
            None => &self.good,
            Some(Flaw::Name) => &self.name,
            Some(Flaw::Authority) => &self.authority,
            Some(Flaw::Expired) => &self.expired,
        })
    }
}
