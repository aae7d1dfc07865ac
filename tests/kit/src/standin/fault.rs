//! What can be wrong with a stand-in, as seen from outside.

use std::{fmt, str::FromStr, time::Duration};

/// One way in which a server fails its callers. Every fault shows on the serving port; the admin port (`/ready`) goes down
/// with [`Fault::Absent`] and [`Fault::Flap`] only, and answers 500 under [`Fault::NotReady`].
///
/// The text form (`FromStr`, `Display`) is what the environment of the container image takes: `hang`, `slow=1500ms`,
/// `flap=3s/2s`, `certificate=expired`, …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is gone: both ports refuse, connections that were open are closed.
    Absent,
    /// The process lives and its admin port answers, but nothing listens on the serving port.
    Refuse,
    /// Connections are accepted and cut with a TCP reset at once; those already open are reset.
    Reset,
    /// Frozen: the kernel completes TCP handshakes and nothing ever answers, not even the TLS handshake. Open connections
    /// fall silent as well, and go on where they stood when the fault ends.
    Hang,
    /// The handshake (TLS, or HTTP/2 settings) succeeds and requests are never answered. Held requests are answered when
    /// the fault ends.
    HangAfterHandshake,
    /// Every answer is late by this much.
    Slow(Duration),
    /// The process comes and goes: this long as if nothing were wrong, then as long [`Fault::Absent`], and so on.
    Flap {
        /// How long it answers.
        up: Duration,
        /// How long it is gone.
        down: Duration,
    },
    /// Exactly one request is answered, as if nothing were wrong, and before its answer is on the way nothing listens on the
    /// serving port any more: from then on it is [`Fault::Refuse`], until the stand-in recovers or suffers anew. A further
    /// request on a connection that was open by then is never answered.
    Once,
    /// Every request is answered with this HTTP status and a plain text body.
    Status(u16),
    /// Some other program has the address: every request is answered 200 with a page of HTML.
    Stranger,
    /// The port speaks HTTP/1.1 in the clear, whatever it ought to speak.
    PlainHttp,
    /// New handshakes present a bad certificate. Connections already open keep the one they were shown, as they do when a
    /// genuine injector's certificate is swapped. Injector only.
    Certificate(Flaw),
    /// Not warmed up. Injector: reviews are denied with `namespaces "…" not found`. Identity: `Unavailable`, "cert issuer
    /// not ready yet".
    NotReady,
    /// The handler itself fails, although `/ready` says yes. Injector: `allowed: false`, its values file is missing.
    /// Identity: its issuer no longer chains to the trust anchors, which a Certify with nothing in it does not notice.
    Deny,
}

/// What is wrong with a certificate. A client that verifies tells each from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The right authority signed it, for another name.
    Name,
    /// The right name, signed by an authority that is not in the bundle.
    Authority,
    /// The right name and authority, and its time is over.
    Expired,
}

/// A text that names no fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFault(String);

// === impl Fault ===

impl Fault {
    /// Whether nothing listens on the serving port.
    pub(super) fn closes_port(self) -> bool {
        matches!(self, Self::Absent | Self::Refuse)
    }

    /// Whether connections opened before do not survive the fault's arrival.
    pub(super) fn cuts_connections(self) -> bool {
        matches!(self, Self::Absent | Self::Refuse | Self::Reset | Self::Stranger | Self::PlainHttp)
    }

    /// Whether a server without TLS can have it.
    pub(super) fn needs_no_certificate(self) -> bool {
        !matches!(self, Self::Certificate(_))
    }

    /// Whether it shows on the way to a server, whatever is said there.
    pub(super) fn is_of_the_way(self) -> bool {
        matches!(self, Self::Absent | Self::Refuse | Self::Reset | Self::Hang | Self::Slow(_) | Self::Flap { .. })
    }

    /// The fault as the admin port suffers it.
    pub(super) fn on_admin_port(self) -> Option<Self> {
        match self {
            Self::Absent | Self::NotReady => Some(self),
            _ => None,
        }
    }
}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownFault(text.to_owned());
        let (name, argument) = match text.split_once('=') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let fault = match (name, argument) {
            ("absent", None) => Self::Absent,
            ("refuse", None) => Self::Refuse,
            ("reset", None) => Self::Reset,
            ("hang", None) => Self::Hang,
            ("hang-after-handshake", None) => Self::HangAfterHandshake,
            ("slow", Some(delay)) => Self::Slow(duration(delay).ok_or_else(unknown)?),
            ("flap", Some(rhythm)) => {
                let (up, down) = rhythm.split_once('/').ok_or_else(unknown)?;
                Self::Flap { up: duration(up).ok_or_else(unknown)?, down: duration(down).ok_or_else(unknown)? }
            }
            ("once", None) => Self::Once,
            ("status", Some(code)) => match code.parse() {
                Ok(code @ 200..=599) => Self::Status(code),
                _ => return Err(unknown()),
            },
            ("stranger", None) => Self::Stranger,
            ("plain-http", None) => Self::PlainHttp,
            ("certificate", Some("name")) => Self::Certificate(Flaw::Name),
            ("certificate", Some("authority")) => Self::Certificate(Flaw::Authority),
            ("certificate", Some("expired")) => Self::Certificate(Flaw::Expired),
            ("not-ready", None) => Self::NotReady,
            ("deny", None) => Self::Deny,
            _ => return Err(unknown()),
        };
        Ok(fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Refuse => f.write_str("refuse"),
            Self::Reset => f.write_str("reset"),
            Self::Hang => f.write_str("hang"),
            Self::HangAfterHandshake => f.write_str("hang-after-handshake"),
            Self::Slow(delay) => write!(f, "slow={}ms", delay.as_millis()),
            Self::Flap { up, down } => write!(f, "flap={}ms/{}ms", up.as_millis(), down.as_millis()),
            Self::Once => f.write_str("once"),
            Self::Status(code) => write!(f, "status={code}"),
            Self::Stranger => f.write_str("stranger"),
            Self::PlainHttp => f.write_str("plain-http"),
            Self::Certificate(Flaw::Name) => f.write_str("certificate=name"),
            Self::Certificate(Flaw::Authority) => f.write_str("certificate=authority"),
            Self::Certificate(Flaw::Expired) => f.write_str("certificate=expired"),
            Self::NotReady => f.write_str("not-ready"),
            Self::Deny => f.write_str("deny"),
        }
    }
}

/// Reads `1500ms`, `3s` or `2m`.
pub fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
}

// === impl UnknownFault ===

impl fmt::Display for UnknownFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no fault; known are absent, refuse, reset, hang, hang-after-handshake, slow=DURATION, flap=UP/DOWN, \
             once, status=CODE, stranger, plain-http, certificate=name|authority|expired, not-ready, deny",
            self.0
        )
    }
}

impl std::error::Error for UnknownFault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_read_back_from_its_text() {
        let second = Duration::from_secs(1);
        for fault in [
            Fault::Absent,
            Fault::Refuse,
            Fault::Reset,
            Fault::Hang,
            Fault::HangAfterHandshake,
            Fault::Slow(second),
            Fault::Flap { up: second, down: second / 4 },
            Fault::Once,
            Fault::Status(503),
            Fault::Stranger,
            Fault::PlainHttp,
            Fault::Certificate(Flaw::Name),
            Fault::Certificate(Flaw::Authority),
            Fault::Certificate(Flaw::Expired),
            Fault::NotReady,
            Fault::Deny,
        ] {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
    }

    #[test]
    fn nonsense_names_no_fault() {
        for text in ["", "Hang", "slow", "slow=3", "slow=s", "flap=1s", "status=99", "certificate=old", "hang=1s"] {
            assert!(text.parse::<Fault>().is_err(), "{text:?}");
        }
    }
}
