//! The process `linkerd-gate controller`: the real program, against the API server of this story.

use crate::{
    narrator::{Narrator, Tone},
    story,
};
use anyhow::{Context as _, Result, bail};
use std::{
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

/// A controller that runs; it is killed with this value.
pub struct Controller {
    child: Child,
    logged: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

// === impl Controller ===

impl Controller {
    /// Starts it with the variables that its Deployment gives it, and nothing else in its environment.
    pub fn start(program: &Path, files: &Path, kubeconfig: &str, narrator: Narrator) -> Result<Self> {
        let path = files.join("kubeconfig");
        std::fs::write(&path, kubeconfig).context("a place for the kubeconfig")?;
        let termination_log = files.join("controller.termination-log");
        std::fs::write(&termination_log, "")?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let mut child = Command::new(program)
            .arg("controller")
            .env_clear()
            .env("LINKERD_GATE_KUBECONFIG", &path)
            .env("LINKERD_GATE_TERMINATION_LOG", &termination_log)
            .env("LINKERD_GATE_POD_NAME", "linkerd-gate-controller-x2x9z")
            .env("LINKERD_GATE_POD_NAMESPACE", story::GATE)
            .env("LINKERD_GATE_POD_UID", "0b6f9e52-9b1f-4e0a-8d5a-0d2f3b3f9c11")
            .env("LINKERD_GATE_NODE_NAME", "node-0")
            .env("LINKERD_GATE_LISTEN_PORT", port)
            // No process can have the address that a pod of identity would have: what its EndpointSlice says counts.
            .env("LINKERD_GATE_IDENTITY", "endpoints")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| program.display().to_string())?;
        let lines = child.stderr.take().context("its log")?;
        let logged: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&logged);
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(lines).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(words) = worth_a_line(&line) {
                    narrator.say("gate", Tone::Plain, &words);
                }
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Ok(Self { child, logged, reader })
    }

    /// Ends it, and returns what it logged.
    ///
    /// # Errors
    /// It had ended by itself.
    pub async fn stop(mut self) -> Result<Vec<String>> {
        let ended = self.child.try_wait()?;
        self.child.kill().await.context("the controller")?;
        self.reader.await.context("the reader of its log")?;
        let logged = std::mem::take(&mut *self.logged.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(status) = ended {
            bail!("the controller ended before its time, {status}; it logged:\n  {}", logged.join("\n  "));
        }
        Ok(logged)
    }
}

/// In short, what a line says that moves the story on: `TIME LEVEL controller{replica=NAME}: MESSAGE FIELD=VALUE …`.
fn worth_a_line(line: &str) -> Option<String> {
    let (_, message) = line.split_once("}: ")?;
    if let Some(fields) = message.strip_prefix("deleted pod ") {
        let pod = fields.split(' ').find_map(|field| field.strip_prefix("pod="))?;
        return Some(format!("deletes {pod}"));
    }
    let settled = ["proof: all probes ready", "proof: open", "this replica leads"];
    settled.iter().any(|beginning| message.starts_with(beginning)).then(|| message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_becomes_a_line_of_the_story() {
        let line =
            |message: &str| worth_a_line(&format!("2030-01-01T00:00:00Z  INFO controller{{replica=a}}: {message}"));
        let deleted = line("deleted pod namespace=shop pod=web-7d9c5b8f6d-q7x2m owner=ReplicaSet web-7d9c5b8f6d");
        assert_eq!(deleted.as_deref(), Some("deletes web-7d9c5b8f6d-q7x2m"));
        let open = "proof: open: proven by an injected dry-run pod";
        assert_eq!(line(open).as_deref(), Some(open));
        assert_eq!(line("first scan complete pods=0 missed=0"), None);
    }
}
