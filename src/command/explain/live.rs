//! `linkerd-gate explain pod/web-0 -n shop`: the same of what is in a cluster, with its namespaces and Linkerd's webhook as they are.

use super::kind::Kind;
use super::{
    Explained, Output, Problem,
    explanation::{Explanation, Setting},
    object::Objects,
    read::{self, Text},
    report::Report,
    setting::{Namespaces, Webhooks, surroundings},
};
use crate::{
    check::Unread,
    cluster::{self, Client, Person, check::Scope, raw},
    command::{explain::Finding, not_done::NotDone},
    linkerd::{Surroundings, TokenProjection},
};
use serde::Serialize;
use std::io::Write;

/// What is explained of a cluster, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// The kinds, in order, each with names; no name is all of them.
    pub kinds: Vec<(Kind, Vec<String>)>,
    /// The namespace; nothing is all of them.
    pub namespace: Option<String>,
    /// A selector of labels, as kubectl takes it.
    pub selector: Option<String>,
    /// Whether only the missed pods are counted, by owner.
    pub missed: bool,
    /// Linkerd's value `identity.serviceAccountTokenProjection`.
    pub token_projection: TokenProjection,
    /// The output format.
    pub output: Output,
    /// What makes it a failure.
    pub fail_on: Vec<Finding>,
}

/// A row of `--missed`, as JSON has it.
#[derive(Serialize)]
struct MissedRow<'a> {
    namespace: &'a str,
    kind: &'a str,
    name: &'a str,
    missed: usize,
    held: usize,
    reasons: Vec<String>,
}

/// Explains what is in a cluster.
///
/// # Errors
/// A cluster that cannot be asked, a missing object, and an output that cannot be written.
pub async fn run(
    access: &Person,
    live: &Live,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<Explained, NotDone> {
    let client = cluster::of_person(access).await.map_err(|error| NotDone::one(error.to_string()))?;
    if live.missed { missed(&client, live, out).await } else { explain(&client, live, out, notes).await }
}

async fn explain(
    client: &Client,
    live: &Live,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<Explained, NotDone> {
    let mut around = Objects::default();
    around.of_file(super::CLUSTER);
    let mut given = Objects::default();
    given.of_file(super::CLUSTER);
    let webhooks = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    pages(client, webhooks, None, "list on mutatingwebhookconfigurations", &mut given).await?;
    match &live.namespace {
        Some(namespace) => {
            let right = format!("get on namespace {namespace}");
            let text = raw::object(client, &format!("/api/v1/namespaces/{namespace}"), &right).await;
            read(&text.map_err(|refused| NotDone::one(refused.to_string()))?, &mut given);
        }
        None => pages(client, "/api/v1/namespaces", None, "list on namespaces", &mut given).await?,
    }
    // What limits pods is of use where it may be read; nothing but a remark depends on it.
    for plural in ["resourcequotas", "limitranges"] {
        let path = match &live.namespace {
            Some(namespace) => format!("/api/v1/namespaces/{namespace}/{plural}"),
            None => format!("/api/v1/{plural}"),
        };
        if let Err(NotDone::Refused(why)) = pages(client, &path, None, &format!("list on {plural}"), &mut around).await
        {
            writeln!(notes, "{plural} are not taken into account: {}", why.join("; "))?;
        }
    }
    let webhooks = Webhooks::of_cluster(&given.webhooks).map_err(NotDone::one)?;
    let namespaces = Namespaces::of_cluster(std::mem::take(&mut given.namespaces));
    let mut report = Report::new(live.output, &live.fail_on, out)?;
    let mut problems: Vec<Problem> = given.problems;
    let mut report_written = Ok(());
    let mut take = |text: &str| {
        let mut objects = Objects::default();
        objects.of_file(super::CLUSTER);
        read(text, &mut objects);
        problems.append(&mut objects.problems);
        for subject in &objects.subjects {
            let mut assumptions = Vec::new();
            let namespace = namespaces.of(subject, &mut assumptions);
            let (quotas, limits) = surroundings(&namespace, &around);
            let setting = Setting {
                namespace: &namespace,
                webhooks: &webhooks.view,
                surroundings: Surroundings { quotas: &quotas, limits: &limits },
                projection: live.token_projection,
                assumptions,
            };
            if report_written.is_ok() {
                report_written = report.add(&Explanation::new(subject, setting));
            }
        }
    };
    // A missing or unreadable object stops nothing else: it is reported at the end.
    let mut refused = Vec::new();
    for (kind, names) in &live.kinds {
        let path = kind.path(live.namespace.as_deref());
        let plural = kind.plural;
        if names.is_empty() {
            let right = format!("list on {plural}");
            if let Err(why) = raw::list(client, &path, live.selector.as_deref(), &right, &mut take).await {
                refused.push(why.to_string());
            }
        }
        for name in names {
            match raw::object(client, &format!("{path}/{name}"), &format!("get on {plural}")).await {
                Ok(text) => take(&text),
                Err(why) => refused.push(format!("{plural}/{name}: {why}")),
            }
        }
    }
    report_written?;
    let summary = report.end()?;
    for problem in &problems {
        writeln!(notes, "{problem}")?;
    }
    if summary.objects != 1 || !live.fail_on.is_empty() {
        writeln!(notes, "{summary}")?;
    }
    if refused.is_empty() {
        Ok(Explained { incomplete: !problems.is_empty(), failed: summary.failed })
    } else {
        Err(NotDone::Refused(refused))
    }
}

async fn pages(
    client: &Client,
    path: &str,
    selector: Option<&str>,
    right: &str,
    objects: &mut Objects,
) -> Result<(), NotDone> {
    let read = raw::list(client, path, selector, right, |text| read(text, objects)).await;
    read.map_err(|refused| NotDone::one(refused.to_string()))
}

fn read(text: &str, objects: &mut Objects) {
    read::read(super::CLUSTER, &mut Text::new(text.as_bytes()), objects);
}

/// The missed pods, by owner.
async fn missed(client: &Client, live: &Live, out: &mut impl Write) -> Result<Explained, NotDone> {
    let scope = Scope {
        pre: false,
        namespace: live.namespace.clone(),
        selector: live.selector.clone(),
        probe_namespace: String::new(),
        proves: false,
        dials: false,
        projection: live.token_projection,
    };
    let survey =
        cluster::check::survey(client, &scope).await.map_err(|unread: Unread| NotDone::one(unread.to_string()))?;
    let done = Explained { incomplete: false, failed: !live.fail_on.is_empty() && survey.missed() > 0 };
    match live.output {
        Output::Json => {
            let rows: Vec<_> = survey
                .rows
                .iter()
                .map(|(owner, row)| MissedRow {
                    namespace: &owner.namespace,
                    kind: &owner.kind,
                    name: &owner.name,
                    missed: row.missed,
                    held: row.held,
                    reasons: row.why.iter().map(ToString::to_string).collect(),
                })
                .collect();
            serde_json::to_writer_pretty(&mut *out, &rows).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        Output::Commands => {
            let mut commands: Vec<_> = survey.rows.iter().flat_map(|(owner, row)| row.commands(owner)).collect();
            commands.sort_by_key(|(cost, _)| *cost);
            commands.dedup();
            for (_, command) in commands {
                writeln!(out, "{}", super::plain(&command))?;
            }
        }
        _ => {
            let mut rows = vec![["NAMESPACE", "OWNER", "MISSED", "HELD", "REASON"].map(ToOwned::to_owned)];
            rows.extend(survey.rows.iter().map(|(owner, row)| {
                [
                    owner.namespace.clone(),
                    format!("{}/{}", owner.kind, owner.name),
                    row.missed.to_string(),
                    row.held.to_string(),
                    row.reason(),
                ]
            }));
            let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
            let widths = [width(0), width(1), width(2), width(3)];
            if rows.len() > 1 {
                for [namespace, owner, missed, held, reason] in &rows {
                    let [first, second, third, fourth] = widths;
                    let text =
                        format!("{namespace:<first$}  {owner:<second$}  {missed:>third$}  {held:>fourth$}  {reason}");
                    writeln!(out, "{}", super::plain(&text))?;
                }
            }
            writeln!(
                out,
                "{} of {} pods that ask are outside the mesh, {} of them held",
                survey.missed(),
                survey.asked(),
                survey.held()
            )?;
        }
    }
    out.flush()?;
    Ok(done)
}
