//! `check`: what was read of a cluster becomes findings, each with a stable code, a cause and a command that mends it.
//!
//! Pure: a [`State`] in, a [`Report`] out. Reading is in `cluster::check`, writing in `command::check`.
//!
//! - [`state`]: what is read, and what could not be.
//! - [`survey`]: all pods in one pass: who asks, who is meshed, who is missed, by owner and reason.
//! - `clean`: text of objects, made fit to be shown.
//! - [`code`]: the codes, and where `docs/check.md` explains each.
//! - one file for each category.

mod admission;
mod ca_bundle;
pub mod certificate;
pub mod clean;
pub mod code;
mod fix;
mod injection;
mod installation;
pub mod labels;
mod linkerd;
mod nodes;
pub mod phrase;
mod pods;
mod policies;
pub mod policy;
mod power_cut;
mod rules;
pub mod state;
pub mod survey;
mod unread;
mod versions;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;

pub use self::clean::clean;
pub use self::code::Code;
pub use self::fix::NOTE;
pub use self::state::{Proof, State};
pub use self::survey::Survey;
pub use self::unread::{Read, Unread};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Success,
    /// To be looked at; `check` exits with 0.
    Warning,
    /// Pods start, or would start, outside the mesh, or do not start at all; `check` exits with 1.
    Error,
}

/// One check and what came of it.
///
/// Serialized as Linkerd's CLI reads the check of an extension (`pkg/healthcheck/healthcheck_output.go`); `code`, `fix` and
/// `objects` are more than it reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What should be so, as a clause.
    pub description: String,
    /// Where it is explained: a URL. Only where something is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What is wrong: a first line, and further ones behind `\n\t* `. Linkerd's CLI shows `√` where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How bad it is.
    pub result: Level,
    /// The check's code.
    #[serde(serialize_with = "code::serialize")]
    pub code: Code,
    /// A command to paste.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// What it is about, as kubectl names it: `deployment/web -n shop`. What `--suppress` goes by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
}

/// Checks that belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Category {
    /// Its name.
    pub category_name: &'static str,
    /// In order.
    pub checks: Vec<Check>,
}

/// Everything that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing is an error.
    pub success: bool,
    /// In order; those without a check are left out.
    pub categories: Vec<Category>,
}

/// A finding that is not to be shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Suppression {
    /// The code.
    pub code: String,
    /// The object, as the check names it; `*` stands for any, and for a finding about none.
    pub object: String,
}

/// How many objects a finding lists before it only counts them.
const LISTED: usize = 10;

/// Checks everything that was read.
pub fn check(state: &State) -> Report {
    let categories = if state.pre {
        vec![
            ("linkerd-gate-before-install", installation::before(state)),
            ("linkerd-gate-linkerd", linkerd::checks(state)),
            ("linkerd-gate-injection", injection::checks(state)),
            ("linkerd-gate-pods", pods::checks(state)),
            ("linkerd-gate-next-power-cut", power_cut::checks(state)),
        ]
    } else {
        vec![
            ("linkerd-gate-installation", installation::checks(state)),
            ("linkerd-gate-admission", admission::checks(state)),
            ("linkerd-gate-injection", injection::checks(state)),
            ("linkerd-gate-linkerd", linkerd::checks(state)),
            ("linkerd-gate-versions", versions::checks(state)),
            ("linkerd-gate-nodes", nodes::checks(state)),
            ("linkerd-gate-pods", pods::checks(state)),
            ("linkerd-gate-next-power-cut", power_cut::checks(state)),
        ]
    };
    let categories = categories
        .into_iter()
        .filter(|(_, checks)| !checks.is_empty())
        .map(|(category_name, checks)| Category { category_name, checks })
        .collect();
    Report::new(categories)
}

/// What there is to say where there is no way to a cluster.
pub fn unreachable(why: &str) -> Report {
    let check = code::API_SERVER.fails(why).with_fix("kubectl version");
    Report::new(vec![Category { category_name: "linkerd-gate-installation", checks: vec![check] }])
}

// === impl Report ===

impl Report {
    fn new(mut categories: Vec<Category>) -> Self {
        for check in categories.iter_mut().flat_map(|category| &mut category.checks) {
            check.objects.iter_mut().for_each(|object| *object = clean(object));
        }
        let mut report = Self { success: true, categories };
        report.success = report.level() < Level::Error;
        report
    }

    /// The worst of all checks.
    pub fn level(&self) -> Level {
        self.checks().map(|check| check.result).max().unwrap_or(Level::Success)
    }

    /// Whether some error may pass by itself, so that a recheck makes sense.
    pub fn may_pass(&self) -> bool {
        self.checks().any(|check| check.result == Level::Error && check.code.passes_by_itself())
    }

    /// All checks, in order.
    pub fn checks(&self) -> impl Iterator<Item = &Check> {
        self.categories.iter().flat_map(|category| &category.checks)
    }

    /// Leaves out what is suppressed: objects of a finding, and the finding where none is left. Returns suppressions that
    /// suppress nothing.
    pub fn suppress(&mut self, suppressions: &[Suppression]) -> Vec<Suppression> {
        let mut used = BTreeSet::new();
        for category in &mut self.categories {
            for check in category.checks.iter_mut().filter(|check| check.result > Level::Success) {
                let of_code: Vec<_> = suppressions.iter().filter(|it| it.code == check.code.id).collect();
                let matching = |object: &str| {
                    let found = of_code.iter().find(|it| it.object == "*" || it.object == object);
                    found.map(|found| (*found).clone())
                };
                let all = if check.objects.is_empty() {
                    matching("*").filter(|it| it.object == "*").map(|it| used.insert(it)).is_some()
                } else {
                    check.objects.retain(|object| match matching(object) {
                        Some(suppression) => {
                            used.insert(suppression);
                            false
                        }
                        None => true,
                    });
                    check.objects.is_empty()
                };
                if all {
                    let description = format!("{} (suppressed)", check.description);
                    *check = Check { description, ..check.code.passes() };
                }
            }
        }
        *self = Self::new(std::mem::take(&mut self.categories));
        suppressions.iter().filter(|suppression| !used.contains(suppression)).cloned().collect()
    }
}

// === impl Suppression ===

impl std::str::FromStr for Suppression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "for example --suppress LG702='deployment/web -n shop', or LG702 for all that it finds";
        let (code, object) = text.split_once('=').unwrap_or((text, "*"));
        if !code::ALL.iter().any(|known| known.id == code) {
            return Err(format!("{code} is no code of a check: docs/check.md lists them; {example}"));
        }
        if object.is_empty() {
            return Err(format!("it names no object; {example}"));
        }
        Ok(Self { code: code.to_owned(), object: object.to_owned() })
    }
}

// === impl Code ===

impl Code {
    /// As it should be.
    fn passes(self) -> Check {
        Check {
            description: self.description.to_owned(),
            hint: None,
            error: None,
            result: Level::Success,
            code: self,
            fix: None,
            objects: Vec::new(),
        }
    }

    fn warns(self, error: impl Into<String>) -> Check {
        Check { error: Some(clean(&error.into())), hint: Some(self.url()), result: Level::Warning, ..self.passes() }
    }

    fn fails(self, error: impl Into<String>) -> Check {
        Check { result: Level::Error, ..self.warns(error) }
    }

    /// What could not be looked at: a warning that names the right, or the fault.
    fn unread(self, unread: &Unread) -> Check {
        self.warns(format!("not looked at: {unread}")).with_fix(fix::read(unread))
    }
}

// === impl Check ===

impl Check {
    fn described(mut self, description: impl Into<String>) -> Self {
        self.description = clean(&description.into());
        self
    }

    fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(clean::clean_whole(&fix.into()));
        self
    }

    /// Lists what it is about below its cause.
    fn about(mut self, objects: impl IntoIterator<Item = String>) -> Self {
        let objects: Vec<String> = objects.into_iter().collect();
        self.listing(objects.iter().cloned());
        self.objects = objects;
        self
    }

    /// Lists lines below its cause: the first of them, and how many more there are.
    fn listing(&mut self, lines: impl IntoIterator<Item = String>) {
        let lines: Vec<String> = lines.into_iter().collect();
        let Some(error) = &mut self.error else { return };
        for line in lines.iter().take(LISTED) {
            error.push_str("\n\t* ");
            error.push_str(&clean(line));
        }
        if lines.len() > LISTED {
            let _infallible = write!(error, "\n\t* … and {} more", lines.len() - LISTED);
        }
    }
}

#[cfg(test)]
mod fix_tests;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tests;
