//! The certificate that Linkerd's identity signs others with.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::Value;
use yasna::{ASN1Result, BERReader, Tag, tags::TAG_UTCTIME};

/// The Secret, by the chart's name for it.
const SECRET: &str = "linkerd-identity-issuer";

/// Its keys: the chart's own, and that of a Secret of type `kubernetes.io/tls`.
const KEYS: [&str; 2] = ["crt.pem", "tls.crt"];

/// As long as the suites may take.
const MARGIN: Duration = Duration::from_hours(2);

/// A moment, in seconds since 1970, and as a person reads it.
type Moment = (i64, String);

/// Fails where the issuer is expired, or will be before the suites end.
pub(super) fn check(objects: &[Value], now: SystemTime) -> Result<()> {
    let secret = objects.iter().find(|object| object["kind"] == "Secret" && object["metadata"]["name"] == SECRET);
    let secret = secret.with_context(|| format!("linkerd.yaml has no Secret {SECRET}: identity could sign nothing"))?;
    let pem = certificate(secret).with_context(|| format!("Secret {SECRET} has none of {}", KEYS.join(", ")))?;
    let unreadable = || format!("the certificate in Secret {SECRET} cannot be read");
    let certificate = CertificateDer::from_pem_slice(&pem).with_context(unreadable)?;
    let ((begin, begins), (end, ends)) = validity(&certificate).with_context(unreadable)?;
    let now: i64 = now.duration_since(UNIX_EPOCH)?.as_secs().try_into()?;
    let margin: i64 = MARGIN.as_secs().try_into()?;
    ensure!(begin <= now, "the issuer in Secret {SECRET} is not valid before {begins}");
    ensure!(
        now + margin < end,
        "the issuer in Secret {SECRET} expires on {ends}: print linkerd.yaml again, with `linkerd install` or `helm template`"
    );
    Ok(())
}

fn certificate(secret: &Value) -> Option<Vec<u8>> {
    let plain = |key: &str| secret["stringData"][key].as_str().map(|text| text.as_bytes().to_vec());
    let encoded = |key: &str| STANDARD.decode(secret["data"][key].as_str()?).ok();
    KEYS.iter().find_map(|key| plain(key).or_else(|| encoded(key)))
}

/// The first and the last moment of an X.509 certificate in DER (RFC 5280, 4.1).
#[allow(clippy::redundant_closure_for_method_calls, reason = "the methods are not general enough over their lifetimes")]
fn validity(der: &[u8]) -> ASN1Result<(Moment, Moment)> {
    yasna::parse_der(der, |reader| {
        reader.read_sequence(|certificate| {
            let validity = certificate.next().read_sequence(|fields| {
                // version, serialNumber, signature, issuer
                fields.read_optional(|reader| reader.read_tagged(Tag::context(0), |version| version.read_u8()))?;
                for _ in 0..3 {
                    fields.next().read_der()?;
                }
                let validity = fields.next().read_sequence(|both| Ok((moment(both.next())?, moment(both.next())?)))?;
                while fields.read_optional(|reader| reader.read_der())?.is_some() {}
                Ok(validity)
            })?;
            // signatureAlgorithm, signatureValue
            certificate.next().read_der()?;
            certificate.next().read_der()?;
            Ok(validity)
        })
    })
}

/// Until 2049 in one form, from 2050 on in the other.
fn moment(reader: BERReader<'_, '_>) -> ASN1Result<Moment> {
    let of = |time: &dyn std::fmt::Display, seconds: i64| (seconds, time.to_string());
    if reader.lookahead_tag()? == TAG_UTCTIME {
        let time = reader.read_utctime()?;
        return Ok(of(time.datetime(), time.datetime().unix_timestamp()));
    }
    let time = reader.read_generalized_time()?;
    Ok(of(time.datetime(), time.datetime().unix_timestamp()))
}
