//! The pages of the power cut, as they are committed; `UPDATE_GOLDEN=1` rewrites them.

use std::path::Path;

use super::fixtures::Cluster;
use super::hostile;
use crate::report::{html, markdown};

fn is_golden(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report/tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, page).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(page == expected, "{name} is another one: UPDATE_GOLDEN=1 writes it\n{page}");
}

#[test]
fn the_pages_of_a_power_cut_are_the_committed_ones() {
    let report = Cluster::power_cut().report();
    is_golden("power-cut.md", &markdown(&report));
    is_golden("power-cut.html", &html(&report));
    is_golden("power-cut.json", &format!("{:#}\n", serde_json::to_value(&report).unwrap()));
}

#[test]
fn the_page_of_hostile_names_is_the_committed_one() {
    let report = hostile::cluster().report();
    is_golden("hostile.md", &markdown(&report));
    is_golden("hostile.html", &html(&report));
}

/// 324 nodes, of which some are still closed, and 400 owners with pods outside the mesh.
#[test]
fn the_page_of_many_nodes_is_the_committed_one() {
    let mut cluster = Cluster::new();
    for number in 0..324 {
        let name = format!("worker-{number:03}");
        cluster.node(&name, number / 4 + 3, number % 50 != 7);
        cluster.booted(&name, number / 4);
        cluster.gate(&name, "GateClosed", number / 4 + 9, "closed: injection is not proven in this boot");
        match number % 50 {
            7 => cluster.tainted(),
            9 => {
                let why = "open, unproven: the node was closed for LINKERD_GATE_NODE_MAX_CLOSED; pods may start outside the mesh";
                cluster.gate(&name, "GateOpenedUnproven", 140, why);
            }
            _ => {
                cluster.gate(&name, "GateOpened", 230 + number % 13, "open: the gate is open");
            }
        }
    }
    for number in 0..400 {
        let owner = format!("app{number:03}-5f6d7");
        for pod in 0..=number % 3 {
            cluster.running(&format!("{owner}-{pod}"), Some(&owner), 20);
        }
        cluster.gated(&format!("{owner}-g"), Some(&owner), 25);
    }
    let report = cluster.report();
    is_golden("many-nodes.html", &html(&report));
    is_golden("many-nodes.md", &markdown(&report));
}
