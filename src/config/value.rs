//! The values that variables can take: each parses with `FromStr`, prints with `Display`, and does so there and back.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use strum::{Display, EnumString, VariantArray};

/// What `wait` does in a meshed pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumString, VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum WhenMeshed {
    /// Start at once: the proxy waits for identity itself.
    Pass,
    /// Wait for identity here.
    Identity,
}

/// What `wait` does when its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumString, VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum OnTimeout {
    /// Exit with code 69.
    Fail,
    /// Start, whatever is missing.
    Open,
}

/// A part of Linkerd's control plane that can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumString, VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum Component {
    /// `linkerd-proxy-injector`.
    Injector,
    /// `linkerd-identity`.
    Identity,
    /// `linkerd-destination`'s destination container.
    Destination,
    /// `linkerd-destination`'s policy container.
    Policy,
}

/// Whether a role acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumString, VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum Mode {
    /// It does.
    Enforce,
    /// It decides, logs, counts and emits events, and writes nothing else.
    Audit,
}

/// What was chosen at the installation for pods that are created without a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumString, VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum AdmissionChoice {
    /// Hold where the API server can, else refuse.
    Auto,
    /// Hold them.
    Hold,
    /// Refuse their creation.
    Refuse,
    /// Warn their creators.
    Warn,
    /// Nothing.
    Off,
}

/// Whether nodes are tainted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumString, VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum Taint {
    /// As the plan says.
    Auto,
    /// Never.
    Never,
}

/// How identity is known to be up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumString, VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum IdentityBy {
    /// By asking one of its pods.
    Ask,
    /// By its EndpointSlices.
    Endpoints,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumString, VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Plain,
    /// For log collectors: one object per line.
    Json,
}

/// `HOST:PORT`, where the host is a DNS name or an IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The DNS name or address, without brackets.
    pub host: String,
    /// The TCP port; never 0.
    pub port: u16,
}

/// A DNS name in the form that Kubernetes and certificates use: labels of letters, digits, `-` and `_`, no final dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsName(String);

// === impl Address ===

impl Address {
    /// An address made of parts that are known to be good.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err("has port 0"),
                port => Ok(Self::new(address.ip().to_string(), port)),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
        let port = port.parse::<u16>().map_err(|_| "has a port that is not a number from 1 to 65535")?;
        if port == 0 {
            return Err("has port 0");
        }
        if host.contains("//") {
            return Err("is a URL: only host and port are wanted");
        }
        let host: DnsName = host.parse().map_err(|_| "has a host that is neither a DNS name nor an IP address")?;
        Ok(Self::new(host.0, port))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, self.port).fmt(out),
            Err(_) => write!(out, "{}:{}", self.host, self.port),
        }
    }
}

// === impl DnsName ===

impl DnsName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DnsName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let all_digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if text.len() <= 253 && !all_digits && text.split('.').all(label) {
            Ok(Self(text.to_owned()))
        } else {
            Err("is not a DNS name")
        }
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Whether it is a qualified name, which keys of labels and taints are (k8s.io/apimachinery, `IsQualifiedName`).
pub(super) fn is_label_key(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let edge = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let good_name = name.len() <= 63
        && edge(name)
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let good_prefix = prefix.is_none_or(|prefix| {
        prefix.len() <= 253
            && prefix.split('.').all(edge)
            && prefix.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
    });
    good_name && good_prefix
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::wait::OnMissed;

    fn goes_there_and_back<
        T: FromStr<Err = strum::ParseError> + VariantArray + fmt::Display + PartialEq + fmt::Debug,
    >() {
        for one in T::VARIANTS {
            assert_eq!(one.to_string().parse::<T>().as_ref(), Ok(one));
        }
    }

    #[test]
    fn values_convert_to_text_and_back() {
        goes_there_and_back::<OnMissed>();
        goes_there_and_back::<WhenMeshed>();
        goes_there_and_back::<OnTimeout>();
        goes_there_and_back::<Component>();
        goes_there_and_back::<Mode>();
        goes_there_and_back::<Taint>();
        goes_there_and_back::<IdentityBy>();
        goes_there_and_back::<LogFormat>();
    }

    #[test]
    fn values_are_case_sensitive_and_exact() {
        for word in ["Hold", "HOLD", " hold", "hold ", ""] {
            assert!(word.parse::<OnMissed>().is_err(), "{word:?}");
        }
    }

    #[test]
    fn addresses_convert_to_text_and_back() {
        for text in ["linkerd-identity-headless.linkerd.svc:8080", "127.0.0.1:443", "[::1]:65535", "localhost:1"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (text, why) in [
            ("linkerd-identity", "has no port"),
            ("host:0", "has port 0"),
            ("127.0.0.1:0", "has port 0"),
            ("host:70000", "has a port that is not a number from 1 to 65535"),
            ("https://host:443", "is a URL: only host and port are wanted"),
            ("::1:80", "has a host that is neither a DNS name nor an IP address"),
            (":80", "has a host that is neither a DNS name nor an IP address"),
            ("300.1.1.1:80", "has a host that is neither a DNS name nor an IP address"),
        ] {
            assert_eq!(text.parse::<Address>(), Err(why), "{text}");
        }
    }
}
