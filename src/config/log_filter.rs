//! Which log lines are written: `LINKERD_GATE_LOG`.

use std::fmt;
use std::str::FromStr;

use tracing_subscriber::filter::{LevelFilter, Targets};

/// The target of this program's own lines.
const OWN: &str = "linkerd_gate";

/// Levels by target, as `LEVEL`, `TARGET=LEVEL`, or several of them with commas between. A level without a target is about this
/// program's own lines, so that `debug` alone does not add what libraries have to say of each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter {
    own: LevelFilter,
    others: Vec<(String, LevelFilter)>,
}

// === impl LogFilter ===

impl LogFilter {
    /// As tracing-subscriber takes it.
    pub fn targets(&self) -> Targets {
        Targets::new().with_target(OWN, self.own).with_targets(self.others.iter().cloned())
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self { own: LevelFilter::INFO, others: Vec::new() }
    }
}

impl FromStr for LogFilter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let level = |text: &str| {
            // A number is a level to the library, and nothing to a person.
            let is_word = text.bytes().all(|byte| byte.is_ascii_lowercase());
            let level = text.parse::<LevelFilter>().ok().filter(|_| is_word && !text.is_empty());
            level.ok_or("is not a log level, nor TARGET=LEVEL pairs with commas between")
        };
        let mut filter = Self::default();
        for directive in text.split(',') {
            match directive.split_once('=') {
                None => filter.own = level(directive)?,
                Some((target, _)) if target.is_empty() || target.contains(char::is_whitespace) => {
                    return Err("has a level without a target before its `=`");
                }
                Some((target, text)) => filter.others.push((target.to_owned(), level(text)?)),
            }
        }
        Ok(filter)
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.own)?;
        self.others.iter().try_for_each(|(target, level)| write!(f, ",{target}={level}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn a_level_applies_to_our_lines_and_a_target_to_its_library() {
        let filter: LogFilter = "debug,kube=trace,hyper_util=off".parse().unwrap();
        let targets = filter.targets();
        assert!(targets.would_enable("linkerd_gate::role::agent", &Level::DEBUG));
        assert!(!targets.would_enable("linkerd_gate::role::agent", &Level::TRACE));
        assert!(targets.would_enable("kube::client", &Level::TRACE));
        assert!(!targets.would_enable("hyper_util::client", &Level::ERROR));
        assert!(!targets.would_enable("rustls", &Level::ERROR), "not named");
        assert_eq!(filter.to_string().parse(), Ok(filter));
    }

    #[test]
    fn without_a_level_of_our_own_it_is_info() {
        let targets = "kube=debug".parse::<LogFilter>().unwrap().targets();
        assert!(
            targets.would_enable("linkerd_gate", &Level::INFO) && !targets.would_enable("linkerd_gate", &Level::DEBUG)
        );
    }

    #[test]
    fn what_is_no_level_is_refused() {
        for text in ["", "verbose", "INFO", "3", "info,", "=debug", "kube=", "kube=loud", "a b=info", "info debug"] {
            assert!(text.parse::<LogFilter>().is_err(), "{text:?}");
        }
    }
}
