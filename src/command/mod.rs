//! What a person runs in a shell.
//!
//! - [`manual_override`]: opening and closing nodes, whatever is proven.
//! - [`check`]: what is wrong in a cluster, why, and what to type.
//! - [`explain`]: whether a pod would be injected, by which rule, and what to do.
//! - [`report`]: the story of the cluster's last boot.
//! - [`install`]: prints the manifests.
//! - [`status`]: one screen of what there is.
//! - [`release`]: takes our gate off held pods, which then start outside the mesh.
//! - [`recreate`]: makes an ownerless held pod again, in the mesh.
//! - [`version`]: which versions are here and in the cluster.
//! - [`uninstall`]: takes everything of ours out of the way, held pods included.

pub mod check;
pub mod explain;
pub mod install;
#[cfg(test)]
mod json_tests;
pub mod manual_override;
pub mod not_done;
pub mod pod_name;
pub mod recreate;
pub mod release;
pub mod report;
pub mod status;
pub mod uninstall;
pub mod version;
