//! The exit codes: an API that Jobs, scripts and people rely on.

use std::process::ExitCode;

use strum::EnumCount;

/// How a process of ours ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumCount)]
#[repr(u8)]
pub enum Exit {
    /// The gate is open, the command did what it was asked, or a role that runs on was ended in good order.
    Done = 0,
    /// `check` found errors, or `explain` what `--fail-on` asks for.
    Found = 1,
    /// The configuration or the command line is wrong. Nothing was done.
    Usage = 2,
    /// `LINKERD_GATE_TIMEOUT` passed while waiting, or the API server could not be reached or refused what a command asked of
    /// it. The number is `EX_UNAVAILABLE` of sysexits.h, as linkerd-await's.
    GaveUp = 69,
    /// A fault of our own: please report it. The number is `EX_SOFTWARE` of sysexits.h.
    Internal = 70,
    /// This pod is outside the mesh and must be replaced. The number is `EX_TEMPFAIL` of sysexits.h.
    MustBeReplaced = 75,
    /// `wait` was ended by SIGTERM (128 + 15, what a shell would report): its pod is going away, nothing was opened.
    Terminated = 143,
}

// === impl Exit ===

impl Exit {
    /// Every code, in numeric order: what the reference page and the tests go through.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Done, Self::Found, Self::Usage, Self::GaveUp, Self::Internal, Self::MustBeReplaced, Self::Terminated];

    /// The number a parent process sees.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// One line for people, as in the table of `docs/reference.md`.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "the gate is open, a command was done, or SIGTERM ended an agent or a controller",
            Self::Found => "`check` found errors, or `explain --fail-on` what it was asked for",
            Self::Usage => "bad configuration or usage; nothing was done",
            Self::GaveUp => "gave up waiting (LINKERD_GATE_TIMEOUT), or the cluster could not be reached or refused",
            Self::Internal => "internal fault",
            Self::MustBeReplaced => "this pod is outside the mesh and must be replaced",
            Self::Terminated => "`wait` was ended by SIGTERM or SIGINT",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_that_are_documented() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 69, 70, 75, 143]);
    }
}
