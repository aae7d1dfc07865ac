//! What `report` tells of a power cut that has just been lived through.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::harness::SHOP;
use super::power_cut::{Created, PowerCut};
use super::variants::linkerd_gate;
use super::workloads::{is_gated, on};

/// Holds the report to what the test has seen: which nodes booted, that each was closed and opened, what was held.
pub async fn tells_what_happened(cut: &PowerCut<'_>, created: Created) -> Result<()> {
    let since = format!("{}s", cut.column.began().elapsed().as_secs().max(60) + 1);
    let said = linkerd_gate(cut.harness, &["report", "-n", SHOP, "--since", &since, "-o", "json"]).await?;
    let report: Value = serde_json::from_str(&said)?;
    let nodes = on(cut.harness).count();
    ensure!(report["unread"].as_array().is_some_and(Vec::is_empty), "{said}");
    ensure!(report["boot"]["nodes"].as_array().is_some_and(|all| all.len() == nodes), "{nodes} nodes booted: {said}");
    ensure!(report["injection"]["at"].is_string(), "injection was proven: {said}");
    let lanes = report["nodes"].as_array().context("nodes")?;
    let opened = |lane: &&Value| lane["closed"] == false && lane["closed_seconds"].is_i64();
    ensure!(lanes.iter().filter(opened).count() == nodes, "each node was closed and opened: {said}");
    let number = |field: &str| report["pods"][field].as_u64().unwrap_or_default();
    ensure!(number("running_outside") == 0 && report["outside"].as_array().is_some_and(Vec::is_empty), "{said}");
    match created {
        Created::Held => {
            let held = cut.early.values().filter(|pod| is_gated(pod)).count() as u64;
            ensure!(number("held") >= held && number("created_again_meshed") > 0, "{held} pods were held: {said}");
            ensure!(number("held_seconds_max") > 0, "they were held for a time: {said}");
        }
        Created::Refused => ensure!(number("refused_creates") > 0, "creates were refused: {said}"),
        Created::Bare => {}
    }
    Ok(())
}
