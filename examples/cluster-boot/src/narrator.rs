//! The lines that a person follows while it happens.

use std::{io::IsTerminal as _, time::Duration};
use tokio::time::Instant;

/// The clock of one boot, and its voice.
#[derive(Clone, Copy)]
pub struct Narrator {
    began: Instant,
    colours: bool,
}

/// How a line is meant.
#[derive(Clone, Copy)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Not yet.
    Waiting,
    /// What nobody wants.
    Bad,
    /// Neither.
    Plain,
}

// === impl Narrator ===

impl Narrator {
    /// The boot begins now.
    pub fn new() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { began: Instant::now(), colours }
    }

    /// How long ago the boot began.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until this long after the boot began.
    pub async fn until(&self, instant: Duration) {
        tokio::time::sleep_until(self.began + instant).await;
    }

    /// One line: when, who, what.
    pub fn say(&self, who: &str, tone: Tone, what: &str) {
        let at = self.now().as_secs_f64();
        let colour = match tone {
            Tone::Good => "32",
            Tone::Waiting => "33",
            Tone::Bad => "31",
            Tone::Plain => "1",
        };
        if self.colours {
            println!("{at:6.2} s  {who:<9} \x1b[{colour}m{what}\x1b[0m");
        } else {
            println!("{at:6.2} s  {who:<9} {what}");
        }
    }
}
