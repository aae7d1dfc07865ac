//! Label selectors, evaluated as the API server does.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::{collections::BTreeMap, fmt};

/// A label selector that the API server would accept. It matches when every requirement does; without any, always.
///
/// Follows `LabelSelectorAsSelector` and `Requirement.Matches` of k8s.io/apimachinery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

/// One thing that a selector asks of labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    test: Test,
}

/// Why a selector is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The operator is none of the four.
    #[error("{operator:?} of {key:?} is no operator of a label selector: In, NotIn, Exists and DoesNotExist are")]
    Operator {
        /// The label's key.
        key: String,
        /// What stands in the operator's place.
        operator: String,
    },

    /// `In` or `NotIn` without values.
    #[error("{operator} of {key:?} needs at least one value")]
    NoValues {
        /// The label's key.
        key: String,
        /// The operator.
        operator: String,
    },

    /// `Exists` or `DoesNotExist` with values.
    #[error("{operator} of {key:?} takes no values")]
    Values {
        /// The label's key.
        key: String,
        /// The operator.
        operator: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Is(String),
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

// === impl Selector ===

impl Selector {
    /// Reads a selector, and refuses what the API server would.
    ///
    /// None at all selects everything: in a webhook configuration, where the API server fills in an empty selector.
    pub fn new(selector: Option<&LabelSelector>) -> Result<Self, SelectorError> {
        let Some(selector) = selector else {
            return Ok(Self::default());
        };
        let labels = selector
            .match_labels
            .iter()
            .flatten()
            .map(|(key, value)| Ok(Requirement { key: key.clone(), test: Test::Is(value.clone()) }));
        let expressions = selector.match_expressions.iter().flatten().map(Requirement::new);
        labels.chain(expressions).collect::<Result<_, _>>().map(Self)
    }

    /// Whether these labels meet every requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether it selects all that `other` selects, as far as that is known without labels: it asks for nothing that the other
    /// does not ask for as well, word for word.
    pub fn covers(&self, other: &Self) -> bool {
        self.0.iter().all(|requirement| other.0.contains(requirement))
    }

    /// The requirements that these labels do not meet, in the order in which they are written.
    pub fn unmet<'a>(&'a self, labels: &BTreeMap<String, String>) -> impl Iterator<Item = &'a Requirement> {
        self.0.iter().filter(|requirement| !requirement.matches(labels))
    }
}

// === impl Requirement ===

impl Requirement {
    fn new(expression: &LabelSelectorRequirement) -> Result<Self, SelectorError> {
        let LabelSelectorRequirement { key, operator, values } = expression;
        let values = values.as_deref().unwrap_or_default();
        let test = match (operator.as_str(), values) {
            ("In" | "NotIn", []) => {
                return Err(SelectorError::NoValues { key: key.clone(), operator: operator.clone() });
            }
            ("Exists" | "DoesNotExist", [_, ..]) => {
                return Err(SelectorError::Values { key: key.clone(), operator: operator.clone() });
            }
            ("In", values) => Test::In(values.to_vec()),
            ("NotIn", values) => Test::NotIn(values.to_vec()),
            ("Exists", []) => Test::Exists,
            ("DoesNotExist", []) => Test::DoesNotExist,
            _ => return Err(SelectorError::Operator { key: key.clone(), operator: operator.clone() }),
        };
        Ok(Self { key: key.clone(), test })
    }

    /// Whether these labels meet it.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match &self.test {
            Test::Is(wanted) => value == Some(wanted),
            Test::In(wanted) => value.is_some_and(|value| wanted.contains(value)),
            // An absent key is in no list.
            Test::NotIn(unwanted) => value.is_none_or(|value| !unwanted.contains(value)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
        }
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, test } = self;
        match test {
            Test::Is(wanted) => write!(f, "{key} is {wanted:?}"),
            Test::In(wanted) => write!(f, "{key} In [{}]", wanted.join(", ")),
            Test::NotIn(unwanted) => write!(f, "{key} NotIn [{}]", unwanted.join(", ")),
            Test::Exists => write!(f, "{key} Exists"),
            Test::DoesNotExist => write!(f, "{key} DoesNotExist"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expression(operator: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "team".to_owned(),
                operator: operator.to_owned(),
                values: Some(values.iter().map(ToString::to_string).collect()),
            }]),
        }
    }

    fn labels(team: Option<&str>) -> BTreeMap<String, String> {
        team.map(|team| ("team".to_owned(), team.to_owned())).into_iter().collect()
    }

    #[test]
    fn every_selector_operator_handles_same_other_and_absent_values() {
        for (operator, values, wanted, another, absent) in [
            ("In", ["red", "blue"].as_slice(), true, false, false),
            ("NotIn", &["red", "blue"], false, true, true),
            ("Exists", &[], true, true, false),
            ("DoesNotExist", &[], false, false, true),
        ] {
            let selector = Selector::new(Some(&expression(operator, values))).unwrap();
            for (team, matches) in [(Some("red"), wanted), (Some("green"), another), (None, absent)] {
                assert_eq!(selector.matches(&labels(team)), matches, "{operator} on {team:?}");
            }
        }
    }

    #[test]
    fn no_selector_and_an_empty_one_select_everything() {
        for selector in [None, Some(&LabelSelector::default())] {
            assert!(Selector::new(selector).unwrap().matches(&labels(None)));
        }
    }

    #[test]
    fn what_the_api_server_refuses_is_refused_by_key_and_operator() {
        for (operator, values, message) in [
            ("In", [].as_slice(), "In of \"team\" needs at least one value"),
            ("NotIn", &[], "NotIn of \"team\" needs at least one value"),
            ("Exists", &["red"], "Exists of \"team\" takes no values"),
            ("DoesNotExist", &["red"], "DoesNotExist of \"team\" takes no values"),
            (
                "in",
                &["red"],
                "\"in\" of \"team\" is no operator of a label selector: In, NotIn, Exists and DoesNotExist are",
            ),
        ] {
            let error = Selector::new(Some(&expression(operator, values))).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }
}
