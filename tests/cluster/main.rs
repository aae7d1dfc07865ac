//! `wait` on a genuine node: kubelet's and containerd's word counts, not ours. Only Linkerd's own containers are stood in for.

mod faults;
mod harness;
mod held;
mod jobs;
mod pod_classes;
mod reboot;
mod replace;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};
use linkerd_gate_kit::cluster::sandbox::{self, Entered};
use linkerd_gate_kit::image::make_image;
use linkerd_gate_kit::linkerd::LinkerdDirectory;
use tokio::runtime::Runtime;

use self::harness::{Harness, images};

fn main() -> ExitCode {
    match sandbox::enter(prepare) {
        Entered::Outside(code) => code,
        Entered::Inside => run(&Arguments::from_args()),
    }
}

/// Outside the sandbox, where cargo can build: the image as users get it, but for the link-time optimisation, which takes minutes, and
/// the stand-ins' one.
fn prepare() -> Result<()> {
    // What is wrong with a genuine Linkerd is said before anything is built.
    LinkerdDirectory::from_environment()?;
    make_image(&images::gate_archive(), "quick-release")?;
    images::make_standin()
}

fn run(arguments: &Arguments) -> ExitCode {
    if arguments.list {
        return libtest_mimic::run(arguments, trials(&None)).exit_code();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => Arc::new(runtime),
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let stage = match runtime.block_on(Harness::set()) {
        Ok(stage) => Arc::new(stage),
        Err(error) => {
            eprintln!("the cluster does not start: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let shared = Some((Arc::clone(&runtime), Arc::clone(&stage)));
    let mut arguments = arguments.clone();
    let mut trials = trials(&shared);
    if let Ok(Some(linkerd)) = LinkerdDirectory::from_environment() {
        // All share it, and each stops it at first.
        arguments.test_threads = Some(1);
        trials.retain(|trial| {
            let left_out = LEFT_OUT.iter().find(|(name, _)| trial.name() == *name);
            left_out.inspect(|(name, why)| linkerd.leave_out(name, why)).is_none()
        });
    }
    // Each test mostly waits for kubelet; more of them at once than cores is what makes the suite short.
    arguments.test_threads.get_or_insert(4);
    let together = libtest_mimic::run(&arguments, trials);
    if together.has_failed() {
        return together.exit_code();
    }
    // A reboot takes every pod of the node with it: after the others, alone.
    libtest_mimic::run(&arguments, alone(&shared)).exit_code()
}

/// What a stand-in can do and a genuine Linkerd cannot.
const LEFT_OUT: &[(&str, &str)] = &[(
    "faults::cluster_dns_failures_have_separate_reasons",
    "it takes the EndpointSlices of identity's Service away, which Kubernetes makes again for a genuine one",
)];

type Shared = Option<(Arc<Runtime>, Arc<Harness>)>;

/// A trial by the name of its function.
macro_rules! trial {
    ($shared:expr, $($path:ident)::+) => {{
        let shared = $shared.clone();
        Trial::test(stringify!($($path)::+).replace([' ', '\n'], ""), move || {
            let Some((runtime, stage)) = shared else { return Err("there is no cluster".into()) };
            runtime.block_on($($path)::+(&stage)).map_err(|error| format!("{error:#}").into())
        })
    }};
}

fn trials(shared: &Shared) -> Vec<Trial> {
    vec![
        trial!(shared, held::a_deployment_created_in_an_outage_is_held_until_recreated),
        trial!(shared, held::the_examples_run_meshed),
        trial!(shared, jobs::a_job_that_ignores_75_gets_itself_into_the_mesh),
        trial!(shared, jobs::a_job_without_that_policy_counts_the_exit_as_a_failure),
        trial!(shared, jobs::a_job_that_restarts_in_place_never_leaves_its_pod),
        trial!(shared, jobs::a_held_job_is_not_failed),
        trial!(shared, replace::a_pod_replaces_itself_with_the_role_of_the_example),
        trial!(shared, replace::a_pod_without_the_role_is_held_and_says_which_one),
        trial!(shared, replace::an_ownerless_pod_does_not_replace_itself),
        trial!(shared, pod_classes::a_native_sidecar_is_certified_before_the_gate_passes),
        trial!(shared, pod_classes::a_classic_sidecar_passes_and_can_wait_for_identity),
        trial!(shared, pod_classes::a_pod_that_says_disabled_starts_once_linkerd_is_ready),
        trial!(shared, pod_classes::a_pod_on_the_host_network_starts_once_linkerd_is_ready),
        trial!(shared, pod_classes::open_starts_outside_the_mesh_once_linkerd_is_ready),
        trial!(shared, pod_classes::an_entry_without_the_label_exits_2_and_a_forged_one_passes),
        trial!(shared, faults::cluster_dns_failures_have_separate_reasons),
    ]
}

fn alone(shared: &Shared) -> Vec<Trial> {
    vec![trial!(shared, reboot::after_a_reboot_meshed_pods_start_and_missed_pods_never_do)]
}
