//! A process under measurement, and what the kernel says of it.

use std::fs;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

/// Longer than anything here takes; nothing waits for it but a run that fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// A process that ends with this value.
pub struct Process {
    child: Child,
    pid: Pid,
}

/// Its resident memory in MiB, as `/proc/PID/status` has it.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All of it: what the process has to itself and what it maps of files.
    pub resident: f64,
    /// What it has to itself: several of one node's pods share the rest.
    pub anonymous: f64,
    /// The most that it ever had resident.
    pub most: f64,
}

/// Forgets a program's pages, so that the next process reads them from the disk, as the first after a node's boot does.
///
/// What a process maps of its program comes in windows around what it touches, and how large they are depends on how the
/// pages came into the cache: the same program, just written by a linker, takes twice the memory.
pub fn evict_pages(program: &Path) -> Result<()> {
    let file = fs::File::open(program).with_context(|| format!("no program at {}", program.display()))?;
    file.sync_all()?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(())
}

/// CPU time that a process's threads have used so far: the scheduler's own count, in nanoseconds, not in ticks.
pub fn cpu(pid: Pid) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(line) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let used = line.split(' ').next().context("an empty schedstat")?;
        sum += Duration::from_nanos(used.parse()?);
    }
    Ok(sum)
}

// === impl Process ===

impl Process {
    /// Starts it, deaf and mute.
    pub fn start(command: Command) -> Result<Self> {
        Self::start_with_log(command, Stdio::null())
    }

    /// Starts it; its log goes to `log`.
    pub fn start_with_log(command: Command, log: impl Into<Stdio>) -> Result<Self> {
        Self::start_with(command, Stdio::null(), log)
    }

    /// Starts it; what it prints goes to `output`.
    pub fn start_with_output(command: Command, output: impl Into<Stdio>) -> Result<Self> {
        Self::start_with(command, output, Stdio::null())
    }

    fn start_with(mut command: Command, output: impl Into<Stdio>, log: impl Into<Stdio>) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(output).stderr(log).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let pid = child.id().context("it ended at once")?;
        Ok(Self { child, pid: Pid::from_raw(pid.try_into()?) })
    }

    /// CPU time that its threads have used so far.
    pub fn cpu(&self) -> Result<Duration> {
        cpu(self.pid)
    }

    /// Its memory now.
    pub fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let field = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
            let kibibytes: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
            Ok(kibibytes / 1024.0)
        };
        Ok(Memory { resident: field("VmRSS")?, anonymous: field("RssAnon")?, most: field("VmHWM")? })
    }

    /// An error if it has ended: it was to be measured while it waits.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("a process that was to wait has ended: {status}"),
        }
    }

    /// Whether it has ended, in whatever way.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Sends SIGTERM and returns how long it took to end.
    pub async fn terminate(mut self) -> Result<Duration> {
        self.check()?;
        let sent = Instant::now();
        kill(self.pid, Signal::SIGTERM)?;
        self.wait().await?;
        Ok(sent.elapsed())
    }

    /// Sends SIGKILL.
    pub fn kill(&self) -> Result<()> {
        Ok(kill(self.pid, Signal::SIGKILL)?)
    }

    /// Waits for it to end in whatever way.
    pub async fn ended(mut self) -> Result<Instant> {
        self.wait().await?;
        Ok(Instant::now())
    }

    /// Waits for it to end with success.
    pub async fn succeeded(mut self) -> Result<Instant> {
        let status = self.wait().await?;
        let end = Instant::now();
        ensure!(status.success(), "a process that was to succeed ended with {status}");
        Ok(end)
    }

    async fn wait(&mut self) -> Result<ExitStatus> {
        let pid = self.pid;
        timeout(PATIENCE, self.child.wait())
            .await
            .with_context(|| format!("process {pid} does not end"))?
            .context("cannot wait for it")
    }
}
