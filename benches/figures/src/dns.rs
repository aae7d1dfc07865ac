//! Name servers for processes that each have a separate `resolv.conf`: one that only counts questions, and CoreDNS.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use linkerd_gate_kit::cluster::LoopbackAddress;
use linkerd_gate_kit::parts::find_coredns;
use linkerd_gate_kit::standin::client;
use nix::unistd::geteuid;
use tokio::net::UdpSocket;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::gate::{Gate, OnMissed, bare};
use crate::process::Process;

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
    resolv_conf: ResolvConf,
    questions: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// A genuine CoreDNS, as clusters have it, that knows the names of Linkerd's services, and a `resolv.conf` that names it.
pub struct CoreDns {
    process: Process,
    address: LoopbackAddress,
    resolv_conf: ResolvConf,
    _corefile: tempfile::NamedTempFile,
}

/// A file in the place of `/etc/resolv.conf`.
struct ResolvConf(tempfile::NamedTempFile);

/// The names that a wait looks up by default. CoreDNS answers them with 127.0.0.1, and has no other name.
pub const INJECTOR: &str = "linkerd-proxy-injector.linkerd.svc";
pub const IDENTITY: &str = "linkerd-identity-headless.linkerd.svc";

/// The port of CoreDNS' metrics.
const METRICS: u16 = 9153;

/// Longer than CoreDNS takes to start.
const PATIENCE: Duration = Duration::from_secs(20);

// === impl NameServer ===

impl NameServer {
    /// Starts it, and makes sure that processes can be made to use it.
    pub async fn start(manner: Manner) -> Result<Self> {
        ensure!(geteuid().is_root(), "a separate resolv.conf takes a mount namespace, hence root");
        let address = LoopbackAddress::claim()?;
        let socket = UdpSocket::bind((address.ip(), 53)).await.context("cannot be a name server")?;
        let resolv_conf = ResolvConf::naming(address.ip())?;
        let questions = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(serve(socket, manner, address.ip(), Arc::clone(&questions)));
        let server = Self { _address: address, resolv_conf, questions, task };
        server.resolv_conf.try_out().await?;
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

    /// `program`, looking names up here.
    pub fn command(&self, program: &Path) -> Command {
        self.resolv_conf.command(program)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl CoreDns ===

impl CoreDns {
    /// Starts it, and waits until it answers.
    pub async fn start() -> Result<Self> {
        ensure!(geteuid().is_root(), "a separate resolv.conf takes a mount namespace, hence root");
        // In a cluster it has the answers in memory too, by a watch of the API server.
        let program = tokio::task::spawn_blocking(find_coredns).await??;
        let address = LoopbackAddress::claim()?;
        let ip = address.ip();
        let mut corefile = tempfile::NamedTempFile::new()?;
        write!(
            corefile,
            ".:53 {{\n  bind {ip}\n  hosts {{\n    127.0.0.1 {INJECTOR}.cluster.local {IDENTITY}.cluster.local\n    ttl 5\n  }}\n  \
             prometheus {ip}:{METRICS}\n}}\n"
        )?;
        let mut command = Command::new(program);
        command.arg("-conf").arg(corefile.path()).env_clear();
        let process = Process::start(command)?;
        let resolv_conf = ResolvConf::naming(ip)?;
        resolv_conf.try_out().await?;
        let mut started = Self { process, address, resolv_conf, _corefile: corefile };
        let began = Instant::now();
        while started.questions().await.is_err() {
            started.process.check().context("CoreDNS")?;
            ensure!(began.elapsed() < PATIENCE, "CoreDNS does not answer at {ip}:{METRICS}");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(started)
    }

    /// `program`, looking names up here.
    pub fn command(&self, program: &Path) -> Command {
        self.resolv_conf.command(program)
    }

    /// CPU time that it has used so far.
    pub fn cpu(&self) -> Result<Duration> {
        self.process.cpu()
    }

    /// How many questions it has answered so far.
    pub async fn questions(&self) -> Result<f64> {
        let answer = client::get(SocketAddr::new(self.address.ip().into(), METRICS), "/metrics").await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let counts = text.lines().filter(|line| line.starts_with("coredns_dns_requests_total{"));
        Ok(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

// === impl ResolvConf ===

impl ResolvConf {
    /// As kubelet writes it, with this name server.
    fn naming(server: Ipv4Addr) -> Result<Self> {
        let mut file = tempfile::NamedTempFile::new()?;
        writeln!(file, "nameserver {server}")?;
        writeln!(file, "search shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5")?;
        Ok(Self(file))
    }

    /// Makes sure that a process can have it.
    async fn try_out(&self) -> Result<()> {
        let tried = self.command(Path::new("/bin/true")).status().await.context("cannot run unshare")?;
        ensure!(tried.success(), "no separate mount namespace: unshare ended with {tried}");
        Ok(())
    }

    /// `program` with it. Each step becomes the next by exec, so it is the process that the parent started.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("/usr/bin/unshare");
        command
            .args(["--mount", "/bin/sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""])
            .arg(self.0.path())
            .arg(program);
        command
    }
}

async fn serve(socket: UdpSocket, manner: Manner, address: Ipv4Addr, questions: Arc<AtomicU64>) {
    let mut question = [0; 512];
    // An error is that of a process that has closed its socket meanwhile.
    loop {
        let Ok((length, from)) = socket.recv_from(&mut question).await else { continue };
        questions.fetch_add(1, Ordering::Relaxed);
        if let (Manner::Answers, Some(answer)) = (manner, answer(&question[..length], address)) {
            let _ = socket.send_to(&answer, from).await; // The process may have ended.
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
