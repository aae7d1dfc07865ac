//! The chart, rendered by genuine Helm: its files are those of `deploy/manifests`, its values do what they say, and a genuine
//! API server takes what comes of it.

mod admission;
mod files;
mod gitops;
mod harness;
mod helm;
mod install;
mod install_command;
mod monitoring;
mod namespaces;
mod placed;
mod quickstart;
mod release;
mod uninstall;
mod values;
mod variables;
