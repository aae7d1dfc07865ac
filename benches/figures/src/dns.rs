//! A name server of one's own, for processes in a mount namespace of their own.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use linkerd_gate_kit::cluster::LoopbackAddress;
use nix::unistd::geteuid;
use tokio::net::UdpSocket;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::gate::{Gate, OnMissed, bare};

/// What it says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Every name has its own address, on which nothing listens but itself.
    Answers,
    /// It hears every question and answers none.
    Deaf,
}

/// A name server, and a `resolv.conf` that names it.
pub struct NameServer {
    _address: LoopbackAddress,
    resolv_conf: tempfile::NamedTempFile,
    questions: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

// === impl NameServer ===

impl NameServer {
    /// Starts it, and makes sure that processes can be made to use it.
    pub async fn start(manner: Manner) -> Result<Self> {
        ensure!(geteuid().is_root(), "a resolv.conf of its own takes a mount namespace, hence root");
        let address = LoopbackAddress::claim()?;
        let socket = UdpSocket::bind((address.ip(), 53)).await.context("cannot be a name server")?;
        let mut resolv_conf = tempfile::NamedTempFile::new()?;
        writeln!(resolv_conf, "nameserver {}", address.ip())?;
        // As kubelet writes it.
        writeln!(resolv_conf, "search shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5")?;
        let questions = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(serve(socket, manner, address.ip(), Arc::clone(&questions)));
        let server = Self { _address: address, resolv_conf, questions, task };
        let tried = server.command(Path::new("/bin/true")).status().await.context("cannot run unshare")?;
        ensure!(tried.success(), "no mount namespace of one's own: unshare ended with {tried}");
        Ok(server)
    }

    /// A wait that asks for Linkerd by its names.
    pub fn wait(&self, gate: &Gate, on_missed: OnMissed) -> Command {
        let mut command = self.command(gate.waiting());
        command.arg("wait");
        bare(command, on_missed)
    }

    /// How many questions it heard so far.
    pub fn questions(&self) -> u64 {
        self.questions.load(Ordering::Relaxed)
    }

    /// `program`, looking names up here. Each step becomes the next by exec, so it is the process that the parent started.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("/usr/bin/unshare");
        command
            .args(["--mount", "/bin/sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""])
            .arg(self.resolv_conf.path())
            .arg(program);
        command
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: UdpSocket, manner: Manner, address: Ipv4Addr, questions: Arc<AtomicU64>) {
    let mut question = [0; 512];
    // An error is that of somebody who has closed their socket meanwhile.
    loop {
        let Ok((length, from)) = socket.recv_from(&mut question).await else { continue };
        questions.fetch_add(1, Ordering::Relaxed);
        if let (Manner::Answers, Some(answer)) = (manner, answer(&question[..length], address)) {
            let _nobody_waits_any_more = socket.send_to(&answer, from).await;
        }
    }
}

/// The answer to a question of one name (RFC 1035, section 4): `address` for an A record, none of any other type.
fn answer(question: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const A: [u8; 2] = [0, 1];
    let name = question.get(HEADER..)?.iter().position(|length| *length == 0)?;
    // Labels hold no zero byte, so the first one ends the name; type and class follow.
    let kind = HEADER + name + 1;
    let end = kind + 4;
    let has_address = question.get(kind..kind + 2)? == A;
    let mut answer = question.get(..2)?.to_vec();
    // A response, authoritative, recursion desired and available, no error; one question, and its answer or none.
    answer.extend([0x85, 0x80, 0, 1, 0, u8::from(has_address), 0, 0, 0, 0]);
    answer.extend(question.get(HEADER..end)?);
    if has_address {
        // The name of the question, type A, class IN, 5 s as CoreDNS has it for services, four bytes.
        answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(kind: u8) -> Vec<u8> {
        let mut question = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend(b"\x03web\x04shop\x00");
        question.extend([0, kind, 0, 1]);
        question
    }

    #[test]
    fn an_address_is_answered_with_one_and_anything_else_with_none() {
        let address = answer(&question(1), Ipv4Addr::new(127, 1, 2, 3)).unwrap();
        assert_eq!(address[..2], [7, 9]);
        assert_eq!(address[7], 1);
        assert!(address.ends_with(&[127, 1, 2, 3]));
        assert_eq!(answer(&question(28), Ipv4Addr::LOCALHOST).unwrap()[7], 0);
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        assert_eq!(answer(b"short", Ipv4Addr::LOCALHOST), None);
        assert_eq!(answer(&question(1)[..20], Ipv4Addr::LOCALHOST), None);
    }
}
