//! A running `linkerd-gate wait`, and stand-ins for it to ask.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use linkerd_gate_kit::standin::{Certificates, Identity, Injector, Namespaces, Sidecar, Standin};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// Long enough for the slowest machine; nothing waits for it but a test that fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// What `wait` starts with.
#[derive(Clone)]
pub struct Wait {
    program: PathBuf,
    variables: BTreeMap<String, String>,
    termination_log: Arc<tempfile::NamedTempFile>,
}

/// A process, and what it said so far.
pub struct Running {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    said: Vec<String>,
    termination_log: Arc<tempfile::NamedTempFile>,
}

/// How a process ended.
pub struct Ended {
    pub code: i32,
    /// Every line of its standard error.
    pub said: String,
    pub termination_log: String,
}

/// An injector and an identity that serve on loopback, healthy at first.
pub struct Linkerd {
    pub injector: Standin,
    pub identity: Standin,
    pub ca_file: tempfile::NamedTempFile,
}

/// A `wait` by this program in a pod that nothing injected.
pub fn missed_by(program: impl Into<PathBuf>) -> Wait {
    let termination_log = Arc::new(tempfile::NamedTempFile::new().unwrap());
    let wait = Wait { program: program.into(), variables: BTreeMap::new(), termination_log };
    let log = wait.termination_log.path().to_str().unwrap().to_owned();
    wait.with("INJECTED_BY", "").with("TERMINATION_LOG", log)
}

// === impl Linkerd ===

impl Linkerd {
    pub async fn start() -> Self {
        Self::start_with(Certificates::for_injector("linkerd").unwrap()).await
    }

    pub async fn start_with(certificates: Certificates) -> Self {
        let ca_file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ca_file.path(), certificates.ca_bundle()).unwrap();
        let injector = Injector::new(certificates, &Namespaces::any(), Sidecar::genuine("linkerd"));
        Self { injector: injector.start().await.unwrap(), identity: Identity::new().start().await.unwrap(), ca_file }
    }
}

// === impl Wait ===

impl Wait {
    /// Sets `LINKERD_GATE_{name}`.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(format!("LINKERD_GATE_{name}"), value.into());
        self
    }

    /// Sets a variable by its whole name.
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.variables.remove(&format!("LINKERD_GATE_{name}"));
        self
    }

    pub fn meshed(self) -> Self {
        self.with("INJECTED_BY", "linkerd")
    }

    pub fn asking(self, linkerd: &Linkerd) -> Self {
        self.with("INJECTOR_ADDRESS", linkerd.injector.address().to_string())
            .with("IDENTITY_ADDRESS", linkerd.identity.address().to_string())
    }

    pub fn on_the_host_network(self) -> Self {
        // Nobody is at that address, and on some machines nobody says so either.
        self.with("POD_IP", "192.0.2.7").with("HOST_IP", "192.0.2.7").with("AGENT_ADDRESS", "none")
    }

    pub fn trusting(self, linkerd: &Linkerd) -> Self {
        self.with("CA_FILE", linkerd.ca_file.path().to_str().unwrap())
    }

    pub fn start(self) -> Running {
        let mut child = Command::new(&self.program)
            .arg("wait")
            .env_clear()
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, lines) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Running { child, lines, said: Vec::new(), termination_log: self.termination_log }
    }

    pub async fn end(self) -> Ended {
        self.start().end().await
    }
}

// === impl Running ===

impl Running {
    /// Waits for a line that contains `text`.
    pub async fn until(&mut self, text: &str) -> String {
        let line = tokio::time::timeout(PATIENCE, async {
            loop {
                let line = self.lines.recv().await?;
                self.said.push(line.clone());
                if line.contains(text) {
                    return Some(line);
                }
            }
        });
        match line.await {
            Ok(Some(line)) => line,
            Ok(None) => panic!("it ended without saying {text:?}; it said:\n{}", self.said.join("\n")),
            Err(elapsed) => panic!("it did not say {text:?} ({elapsed}); it said:\n{}", self.said.join("\n")),
        }
    }

    /// Awaits something that happens outside the process, which must not end meanwhile: a gate that opens where it must hold
    /// fails the test at once, and not when the last counter has run out of patience.
    pub async fn while_it_holds<T>(&mut self, event: impl Future<Output = T>) -> T {
        let status = tokio::select! {
            biased;
            // What must not happen.
            status = self.child.wait() => status.unwrap(),
            // What has to.
            value = event => return value,
        };
        while let Some(line) = self.lines.recv().await {
            self.said.push(line);
        }
        let how = status.code().map_or_else(|| status.to_string(), |code| format!("with {code}"));
        panic!("it ended {how} while it had to hold; it said:\n{}", self.said.join("\n"))
    }

    /// The name of the program that the process runs.
    pub fn program(&self) -> String {
        let path = std::fs::read_link(format!("/proc/{}/exe", self.child.id().unwrap())).unwrap();
        path.file_name().unwrap().to_str().unwrap().to_owned()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().unwrap().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for the process to end by itself, or by what was sent to it.
    pub async fn end(mut self) -> Ended {
        let Ok(status) = tokio::time::timeout(PATIENCE, self.child.wait()).await else {
            panic!("it did not end in {PATIENCE:?}; it said:\n{}", self.said.join("\n"));
        };
        while let Some(line) = self.lines.recv().await {
            self.said.push(line);
        }
        Ended {
            code: status.unwrap().code().expect("it ended by itself, not by a signal"),
            said: self.said.join("\n"),
            termination_log: std::fs::read_to_string(self.termination_log.path()).unwrap(),
        }
    }
}
