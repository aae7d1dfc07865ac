//! The corpus against `linkerd::injection`, and the corpus against itself: that it covers what it claims to.

#[path = "corpus/load.rs"]
mod load;

use linkerd_gate::linkerd::{
    Injection, SkipReason, TokenProjection, WebhookView, injection::injection, injection_input::inject_annotation,
    meshed, missed, webhook::chart_default,
};
use load::{Case, Corpus, Expect};
use std::collections::{BTreeMap, BTreeSet};

fn corpus() -> Corpus {
    load::load().unwrap_or_else(|error| panic!("{error:?}"))
}

/// The answer of the code under test, in the words of the corpus.
fn decide(corpus: &Corpus, case: &Case) -> (Expect, Vec<String>) {
    let view = WebhookView::new(&corpus.webhooks[&case.webhook]).unwrap();
    let keys = |keys: Vec<&str>| keys.into_iter().map(ToOwned::to_owned).collect();
    match injection(&case.pod, &case.namespace, &view, projection(case)) {
        Injection::Inject(_) => (Expect::Inject, vec![]),
        Injection::Conditional(_) => (Expect::Conditional, keys(vec!["match_conditions"])),
        Injection::Skip(reasons) => (Expect::Skip, keys(reasons.into_iter().map(SkipReason::key).collect())),
        Injection::NotCalled(why) => (Expect::NotCalled, keys(why.keys())),
    }
}

fn projection(case: &Case) -> TokenProjection {
    if case.token_projection { TokenProjection::Enabled } else { TokenProjection::Disabled }
}

#[test]
fn every_case_is_decided_as_linkerd_decides_it() {
    let corpus = corpus();
    let mut wrong = Vec::new();
    for case in &corpus.cases {
        let expected = (case.expect, case.reasons.clone());
        let decided = decide(&corpus, case);
        if decided != expected {
            wrong.push(format!("{}: {}\n  expected {expected:?}\n  decided  {decided:?}", case.file, case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), corpus.cases.len(), wrong.join("\n"));
}

#[test]
fn every_case_is_meshed_and_missed_as_it_says() {
    let corpus = corpus();
    for case in &corpus.cases {
        assert_eq!(meshed(&case.pod), case.meshed, "{}", case.name);
        let view = WebhookView::new(&corpus.webhooks[&case.webhook]).unwrap();
        assert_eq!(
            missed(&case.pod, &case.namespace, &view, projection(case)),
            case.expect == Expect::Inject && !case.meshed,
            "{}",
            case.name
        );
    }
}

#[test]
fn names_are_sentences_and_unique() {
    let mut names = BTreeSet::new();
    for Case { name, .. } in corpus().cases {
        assert!(name.contains(' ') && !name.ends_with('.') && name.trim() == name, "{name:?} is no sentence");
        assert!(names.insert(name.to_lowercase()), "{name:?} is there twice");
    }
}

#[test]
fn all_64_pairs_of_annotations_are_there_once() {
    let corpus = corpus();
    let values = |file: &str| -> Vec<(Option<String>, Option<String>)> {
        let value = |metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
            metadata.annotations.as_ref().map(|_| inject_annotation(metadata).to_owned())
        };
        let cases = corpus.cases.iter().filter(|case| case.file == file);
        cases.map(|case| (value(&case.namespace.metadata), value(&case.pod.metadata))).collect()
    };
    let found = values("annotations.yaml");
    let all = [
        None,
        Some("enabled"),
        Some("ingress"),
        Some("disabled"),
        Some(""),
        Some("Enabled"),
        Some("true"),
        Some(" enabled"),
    ];
    for namespace in all {
        for pod in all {
            let pair = (namespace.map(ToOwned::to_owned), pod.map(ToOwned::to_owned));
            assert_eq!(found.iter().filter(|found| **found == pair).count(), 1, "{pair:?}");
        }
    }
    assert_eq!(found.len(), 64);
}

#[test]
fn the_corpus_covers_every_answer_and_every_known_reason() {
    let corpus = corpus();
    let mut seen: BTreeMap<Expect, BTreeSet<&str>> = BTreeMap::new();
    for case in &corpus.cases {
        assert_eq!(case.reasons.is_empty(), case.expect == Expect::Inject, "{}", case.name);
        seen.entry(case.expect).or_default().extend(case.reasons.iter().map(String::as_str));
    }
    let skip = SkipReason::ALL.map(SkipReason::key).into();
    let not_called = ["not_installed", "rules", "namespace_selector", "object_selector"].into();
    let expected = BTreeMap::from([
        (Expect::Inject, BTreeSet::new()),
        (Expect::Skip, skip),
        (Expect::NotCalled, not_called),
        (Expect::Conditional, ["match_conditions"].into()),
    ]);
    assert_eq!(seen, expected);
}

#[test]
fn every_selector_operator_in_the_corpus_matches_and_excludes() {
    let corpus = corpus();
    for webhook in ["labels", "in", "not-in", "exists", "does-not-exist"] {
        for on in ["namespace", "pod"] {
            let webhook = format!("{on}-{webhook}");
            let answers: BTreeSet<_> =
                corpus.cases.iter().filter(|case| case.webhook == webhook).map(|case| case.expect).collect();
            assert_eq!(answers, [Expect::Inject, Expect::NotCalled].into(), "{webhook}");
        }
    }
}

#[test]
fn every_webhook_is_used() {
    let corpus = corpus();
    let used: BTreeSet<_> = corpus.cases.iter().map(|case| &case.webhook).collect();
    assert_eq!(used, corpus.webhooks.keys().collect());
}

#[test]
fn the_corpus_has_every_difference_between_api_servers() {
    let corpus = corpus();
    for (what, found) in [
        ("refuses", corpus.cases.iter().any(|case| case.api_server.refuses.is_some())),
        ("refuses_injected", corpus.cases.iter().any(|case| case.api_server.refuses_injected.is_some())),
        ("changes", corpus.cases.iter().any(|case| case.api_server.changes.is_some())),
    ] {
        assert!(found, "no case says {what}");
    }
}

#[test]
fn the_corpus_and_offline_mode_have_the_same_chart_webhook() {
    assert_eq!(corpus().webhooks["chart"], [chart_default()]);
}
