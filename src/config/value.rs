//! The values that variables can take: each parses with `FromStr`, prints with `Display`, and does so there and back.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Makes an enum of words: `FromStr` and `Display` from one list, so that they cannot drift apart.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every variant, in the order in which help lists them.
            #[allow(dead_code, reason = "not every list of words is gone through outside tests")]
            pub const ALL: &[Self] = &[$(Self::$variant,)+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(match self { $(Self::$variant => $word,)+ })
            }
        }

        impl FromStr for $name {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err("is not a valid value"),
                }
            }
        }
    };
}

words! {
    /// What `wait` does with a missed pod once Linkerd is ready.
    OnMissed {
        /// Hold it until the controller or a person replaces it.
        Hold = "hold",
        /// Exit with code 75.
        Exit = "exit",
        /// Prove injection, then delete this very pod.
        Replace = "replace",
        /// Start it outside the mesh.
        Open = "open",
    }
}

words! {
    /// What `wait` does in a meshed pod.
    WhenMeshed {
        /// Start at once: the proxy waits for identity itself.
        Pass = "pass",
        /// Wait for identity here.
        Identity = "identity",
    }
}

words! {
    /// What `wait` does when its time is over.
    OnTimeout {
        /// Exit with code 69.
        Fail = "fail",
        /// Start, whatever is missing.
        Open = "open",
    }
}

words! {
    /// A part of Linkerd's control plane that can be waited for.
    Component {
        /// `linkerd-proxy-injector`.
        Injector = "injector",
        /// `linkerd-identity`.
        Identity = "identity",
        /// `linkerd-destination`'s destination container.
        Destination = "destination",
        /// `linkerd-destination`'s policy container.
        Policy = "policy",
    }
}

words! {
    /// Whether a role acts.
    Mode {
        /// It does.
        Enforce = "enforce",
        /// It decides, logs, counts and emits events, and writes nothing else.
        Audit = "audit",
    }
}

words! {
    /// What was chosen at the installation for pods that are created without a proxy.
    AdmissionChoice {
        /// Hold where the API server can, else refuse.
        Auto = "auto",
        /// Hold them.
        Hold = "hold",
        /// Refuse their creation.
        Refuse = "refuse",
        /// Warn their creators.
        Warn = "warn",
        /// Nothing.
        Off = "off",
    }
}

words! {
    /// Whether nodes are tainted.
    Taint {
        /// As the plan says.
        Auto = "auto",
        /// Never.
        Never = "never",
    }
}

words! {
    /// How identity is known to be up.
    IdentityBy {
        /// By asking one of its pods.
        Ask = "ask",
        /// By its EndpointSlices.
        Endpoints = "endpoints",
    }
}

words! {
    /// How a log line is written.
    LogFormat {
        /// For people.
        Plain = "plain",
        /// For log collectors: one object per line.
        Json = "json",
    }
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

    fn goes_there_and_back<T: FromStr<Err = &'static str> + fmt::Display + PartialEq + fmt::Debug + Copy>(all: &[T]) {
        for one in all {
            assert_eq!(one.to_string().parse::<T>().as_ref(), Ok(one));
        }
    }

    #[test]
    fn words_go_there_and_back() {
        goes_there_and_back(OnMissed::ALL);
        goes_there_and_back(WhenMeshed::ALL);
        goes_there_and_back(OnTimeout::ALL);
        goes_there_and_back(Component::ALL);
        goes_there_and_back(Mode::ALL);
        goes_there_and_back(Taint::ALL);
        goes_there_and_back(IdentityBy::ALL);
        goes_there_and_back(LogFormat::ALL);
    }

    #[test]
    fn words_are_exact() {
        for word in ["Hold", "HOLD", " hold", "hold ", ""] {
            assert!(word.parse::<OnMissed>().is_err(), "{word:?}");
        }
    }

    #[test]
    fn addresses_go_there_and_back() {
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
