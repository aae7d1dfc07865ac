//! The switch `LINKERD_GATE_TESTS_LINKERD`. Where it is not set, this program sets it for itself, to a directory with the
//! stand-ins packed as a genuine Linkerd would be: what is installed comes from files alone.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use libtest_mimic::{Arguments, Trial};
use linkerd_gate_kit::{
    cluster::{
        self, Cluster,
        sandbox::{self, Entered},
    },
    image::{Architecture, Image, kit_binary},
    linkerd::{LinkerdDirectory, NAMESPACE, VARIABLE, pack},
    object::{control_plane, namespace, pod},
};

const PATIENCE: Duration = Duration::from_mins(2);

/// The pause between two dry-runs.
const ASK_EVERY: Duration = Duration::from_millis(100);
const STANDIN: &str = "kit.test/linkerd-standin:1";
const SHOP: &str = "shop";

fn main() -> ExitCode {
    if std::env::var_os(VARIABLE).is_none() {
        return again().unwrap_or_else(|error| {
            eprintln!("cannot start again with {VARIABLE}: {error:#}");
            ExitCode::FAILURE
        });
    }
    match sandbox::enter(prepare) {
        Entered::Inside => libtest_mimic::run(&Arguments::from_args(), vec![trial()]).exit_code(),
        Entered::Outside(code) => code,
    }
}

/// This program, as it is started by a person who has a Linkerd.
fn again() -> Result<ExitCode> {
    let status =
        Command::new(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(VARIABLE, packed()).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Outside the sandbox, where cargo can build.
fn prepare() -> Result<()> {
    if std::env::var_os(VARIABLE).is_some_and(|directory| directory == packed()) {
        let archive = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("linkerd-standin.tar");
        Image::new(STANDIN, Architecture::host()?)
            .with_program("/linkerd-standin", &kit_binary("linkerd-standin")?)?
            .with_entrypoint(&["/linkerd-standin"])
            .write(&archive)?;
        let plane = control_plane(NAMESPACE, STANDIN, "/linkerd-standin")?.where_every_namespace_asks();
        pack(&packed(), &plane, &[archive])?;
    }
    LinkerdDirectory::from_environment()?.context("the variable is set").map(drop)
}

fn packed() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("packed-linkerd")
}

fn trial() -> Trial {
    Trial::test("a_linkerd_from_a_directory_is_installed_and_injects", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome = runtime.block_on(async {
            let cluster = Cluster::start().await?;
            cluster.reported(&[SHOP, NAMESPACE], exercise(&cluster)).await
        });
        outcome.map_err(|error| format!("{error:#}").into())
    })
}

async fn exercise(cluster: &Cluster) -> Result<()> {
    let linkerd = LinkerdDirectory::from_environment()?.context("the variable is set")?;
    linkerd.install(cluster).await?;
    cluster.create_namespace(&serde_json::from_value(namespace(SHOP).asking().json())?).await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, SHOP);
    let web: Pod = serde_json::from_value(pod("web").running("kit.test/pause:1").json())?;
    let has_proxy = |pod: &Pod| {
        let spec = pod.spec.iter();
        spec.flat_map(|spec| spec.init_containers.iter().flatten()).any(|container| container.name == "linkerd-proxy")
    };
    // The API server and kube-proxy learn of an injector a moment after it is available.
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let injected = async {
        while !has_proxy(&pods.create(&dry_run, &web).await?) {
            tokio::time::sleep(ASK_EVERY).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, injected).await.context("no pod is injected")??;
    let made = pods.create(&PostParams::default(), &web).await?;
    ensure!(has_proxy(&made), "it was not injected: {:#?}", made.spec);
    cluster::until(&pods, "web", "its app runs beside a ready proxy", PATIENCE, |pod| {
        let status = pod.status.as_ref();
        let all = status.and_then(|status| status.container_statuses.as_ref());
        all.is_some_and(|all| all.iter().all(|container| container.ready))
    })
    .await?;
    Ok(())
}
