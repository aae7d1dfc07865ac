//! The agent's DaemonSet on genuine nodes, through the cuts of power that it is for. Linkerd is played by pods of the cluster,
//! in the chart's form; everything else is genuine, and the manifests are the agent's of `deploy/manifests`.

mod admission;
mod boot_report;
mod campaign;
mod harness;
mod history;
mod one_node;
mod playground;
mod power_cut;
mod release;
mod timeline;
mod two_nodes;
mod uninstalled;
mod variants;
mod workloads;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};
use linkerd_gate_kit::cluster::sandbox::{self, Entered};

fn main() -> ExitCode {
    match sandbox::enter(harness::images::make) {
        Entered::Outside(code) => code,
        Entered::Inside if std::env::var_os(playground::VARIABLE).is_some() => {
            ends("playground", run(playground::open()))
        }
        Entered::Inside if std::env::var_os(campaign::VARIABLE).is_some() => ends("campaign", run(campaign::run())),
        Entered::Inside => {
            let mut arguments = Arguments::from_args();
            // There is one sandbox, and one cluster in it at a time.
            arguments.test_threads = Some(1);
            libtest_mimic::run(&arguments, trials()).exit_code()
        }
    }
}

fn ends(what: &str, outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{what}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(story: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(story)
}

/// A trial by the name of its function; each boots a cluster of its own.
macro_rules! trial {
    ($($path:ident)::+) => {
        Trial::test(stringify!($($path)::+).replace([' ', '\n'], ""), || {
            run($($path)::+()).map_err(|error| format!("{error:#}").into())
        })
    };
}

fn trials() -> Vec<Trial> {
    vec![
        trial!(two_nodes::a_cut_of_all_power_with_and_without_the_gate),
        trial!(one_node::nothing_that_the_gate_waits_for_waits_for_the_gate),
        trial!(admission::no_app_starts_outside_the_mesh_whatever_boots_first),
    ]
}
