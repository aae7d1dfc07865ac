//! Programs that end with us.

use std::{
    ffi::OsString,
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::sync::watch;

/// How much of a log's end is read for a report. API servers write about 200 bytes a line.
const TAIL: u64 = 256 * 1024;

/// A program that runs until this value is dropped, or until this process ends, in whatever way that happens.
///
/// It belongs to no async runtime: a cluster may be shared by tests that have one each.
pub(super) struct Process {
    name: String,
    log: PathBuf,
    pid: Pid,
    /// `None` while it runs.
    ended: watch::Receiver<Option<ExitStatus>>,
    waiter: Option<JoinHandle<()>>,
}

/// What is asked of the thread that spawns.
struct Order {
    command: Command,
    child: mpsc::SyncSender<io::Result<Child>>,
}

// === impl Process ===

impl Process {
    /// Starts `program`; what it writes goes to `log`, which is appended to.
    ///
    /// The kernel sends it SIGKILL when we die. `setpriv` asks for that between fork and exec, where safe Rust has no
    /// say; it then becomes `program`, with the same process id.
    pub(super) fn start<I>(name: &str, program: &Path, arguments: I, log: &Path) -> Result<Self>
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments.into_iter().map(Into::into));
        Self::start_command(name, command, log)
    }

    fn start_command(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write the log {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child =
            spawn(command).with_context(|| format!("cannot start {name} (through setpriv, of util-linux)"))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        let (end, ended) = watch::channel(None);
        let waiter = std::thread::Builder::new().name(format!("wait {name}")).spawn(move || {
            // Waiting for one's own child fails only if somebody else has waited for it.
            if let Ok(status) = child.wait() {
                // Nobody may be interested any more.
                let _ = end.send(Some(status));
            }
        })?;
        Ok(Self { name: name.to_owned(), log: log.to_path_buf(), pid, ended, waiter: Some(waiter) })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// How it ended, or `None` while it runs.
    pub(super) fn ended(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Waits for its end.
    pub(super) fn end(&self) -> impl Future<Output = Option<ExitStatus>> + Send + use<> {
        let mut ended = self.ended.clone();
        async move { ended.wait_for(Option::is_some).await.ok().and_then(|status| *status) }
    }

    /// Sends SIGTERM, waits for at most `grace`, then SIGKILL.
    pub(super) async fn stop(self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        // An elapsed grace is not an error: dropping it does the rest.
        let _ = tokio::time::timeout(grace, self.end()).await;
    }

    /// An error that says how it ended and its last words, if it has ended.
    pub(super) fn check(&self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => {
                Err(anyhow!("{} ended by itself ({status}); its last lines:\n{}", self.name, self.tail(15)))
            }
        }
    }

    /// The last lines that it wrote.
    pub(super) fn tail(&self, lines: usize) -> String {
        tail(&self.log, lines, |_| true)
    }

    fn signal(&self, signal: Signal) {
        if self.ended().is_none() {
            // It may end at this very moment; then there is nothing to signal.
            let _ = kill(self.pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        if let Some(waiter) = self.waiter.take() {
            // It cannot panic: it does nothing but wait.
            let _ = waiter.join();
        }
    }
}

/// Spawns on a thread that lives as long as this process.
///
/// "Parent death" means the death of the *thread* that forked. Were that a test's thread, a shared cluster would die
/// with the test that happened to start it.
fn spawn(command: Command) -> io::Result<Child> {
    static ORDERS: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for mut order in orders {
                // The one who ordered is waiting for exactly this answer.
                let _ = order.child.send(order.command.spawn());
            }
        });
        sender
    });
    let (child, answer) = mpsc::sync_channel(1);
    let gone = || io::Error::other("the thread that starts processes is gone");
    orders.send(Order { command, child }).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// The last `lines` lines of the file that are `wanted`, or why there are none.
pub(super) fn tail(path: &Path, lines: usize, wanted: impl Fn(&str) -> bool) -> String {
    match read_end(path) {
        Ok(text) => {
            let mut last: Vec<&str> = text.lines().rev().filter(|line| wanted(line)).take(lines).collect();
            last.reverse();
            last.join("\n")
        }
        Err(error) => format!("(cannot read {}: {error})", path.display()),
    }
}

fn read_end(path: &Path) -> io::Result<String> {
    use io::{Read, Seek, SeekFrom};
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, directory: &Path) -> Result<Process> {
        Process::start("shell", Path::new("sh"), ["-c", script], &directory.join("log"))
    }

    #[tokio::test]
    async fn an_ended_process_is_noticed_and_its_last_output_is_kept() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let process = shell("echo no disk; exit 3", directory.path())?;
        let status = process.end().await;
        assert_eq!(status.and_then(|status| status.code()), Some(3));
        let error = process.check().expect_err("it has ended").to_string();
        assert!(error.contains("no disk"), "{error}");
        Ok(())
    }

    #[tokio::test]
    async fn dropping_it_ends_it() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let process = shell("trap '' TERM; exec sleep 1000", directory.path())?;
        let pid = process.pid();
        assert!(kill(pid, None).is_ok(), "it runs");
        drop(process);
        assert!(kill(pid, None).is_err(), "it still runs");
        Ok(())
    }

    #[tokio::test]
    async fn it_outlives_the_thread_that_asked_for_it() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().to_path_buf();
        let process =
            std::thread::spawn(move || shell("exec sleep 1000", &path)).join().expect("the thread panicked")?;
        let ended = tokio::time::timeout(Duration::from_millis(300), process.end()).await;
        assert!(ended.is_err(), "it ended with the thread: {ended:?}");
        Ok(())
    }
}
