//! The table of design: what this pod is, and what follows.

use linkerd_gate_kit::standin::Fault;

use super::missed;
use crate::support::Linkerd;

#[tokio::test]
async fn a_meshed_pod_passes_at_once_without_a_connection() {
    let linkerd = Linkerd::start().await;
    linkerd.injector.suffer(Fault::Absent).await.unwrap();
    linkerd.identity.suffer(Fault::Absent).await.unwrap();
    let ended = missed().asking(&linkerd).meshed().end().await;
    assert_eq!(ended.code, 0);
    assert_eq!(linkerd.identity.connections() + linkerd.injector.connections(), 0);
}

#[tokio::test]
async fn a_meshed_pod_waits_only_for_identity_where_configured() {
    let linkerd = Linkerd::start().await;
    linkerd.injector.suffer(Fault::Absent).await.unwrap();
    linkerd.identity.suffer(Fault::NotReady).await.unwrap();
    let mut run = missed().asking(&linkerd).meshed().with("WHEN_MESHED", "identity").start();
    run.until("cert issuer not ready yet").await;
    linkerd.identity.recover().await.unwrap();
    let ended = run.end().await;
    assert_eq!(ended.code, 0, "{}", ended.said);
    assert_eq!(linkerd.injector.connections(), 0);
}

#[tokio::test]
async fn a_pod_that_says_disabled_starts_once_linkerd_is_ready() {
    let linkerd = Linkerd::start().await;
    linkerd.injector.suffer(Fault::Absent).await.unwrap();
    let mut run = missed().asking(&linkerd).with("INJECT", "disabled").start();
    run.until("injector not ready").await;
    linkerd.injector.recover().await.unwrap();
    assert_eq!(run.end().await.code, 0);
}

#[tokio::test]
async fn a_pod_on_the_host_network_starts_once_linkerd_is_ready() {
    let linkerd = Linkerd::start().await;
    linkerd.identity.suffer(Fault::Absent).await.unwrap();
    let mut run = missed().asking(&linkerd).on_the_host_network().start();
    run.until("identity not ready").await;
    linkerd.identity.recover().await.unwrap();
    assert_eq!(run.end().await.code, 0);
}

#[tokio::test]
async fn a_missed_pod_stays_held_and_names_the_command() {
    let linkerd = Linkerd::start().await;
    let mut run = missed().asking(&linkerd).with("POD_NAME", "web-0").with("POD_NAMESPACE", "shop").start();
    run.until("kubectl delete pod web-0 --namespace shop").await;
    assert!(run.is_running());
    run.terminate();
    let ended = run.end().await;
    assert_eq!(ended.code, 143);
    assert!(ended.termination_log.contains("this pod was not created again"), "{}", ended.termination_log);
}

#[tokio::test]
async fn with_exit_a_missed_pod_exits_75_once_linkerd_is_ready() {
    let linkerd = Linkerd::start().await;
    linkerd.injector.suffer(Fault::Absent).await.unwrap();
    let mut run = missed().asking(&linkerd).with("ON_MISSED", "exit").start();
    run.until("injector not ready").await;
    assert!(run.is_running());
    linkerd.injector.recover().await.unwrap();
    assert_eq!(run.end().await.code, 75);
}

#[tokio::test]
async fn with_open_a_missed_pod_starts_once_linkerd_is_ready() {
    let linkerd = Linkerd::start().await;
    linkerd.identity.suffer(Fault::Absent).await.unwrap();
    let mut run = missed().asking(&linkerd).with("ON_MISSED", "open").start();
    run.until("identity not ready").await;
    assert!(run.is_running());
    linkerd.identity.recover().await.unwrap();
    let ended = run.end().await;
    assert_eq!(ended.code, 0);
    assert!(ended.said.contains("OUTSIDE the mesh"), "{}", ended.said);
}

#[tokio::test]
async fn replace_without_a_service_account_reports_it_and_holds() {
    let linkerd = Linkerd::start().await;
    let run = missed()
        .asking(&linkerd)
        .with("ON_MISSED", "replace")
        .with("POD_NAME", "web-0")
        .with("POD_NAMESPACE", "shop")
        .with("POD_UID", "0b5e6d9c");
    for (host, expected) in [
        (None, "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set"),
        (Some("127.0.0.1"), "automountServiceAccountToken"),
    ] {
        let run = match host {
            Some(host) => {
                run.clone().with_variable("KUBERNETES_SERVICE_HOST", host).with_variable("KUBERNETES_SERVICE_PORT", "9")
            }
            None => run.clone(),
        };
        let mut run = run.start();
        let line = run.until("cannot replace itself").await;
        assert!(line.contains(expected), "{line}");
        assert!(run.is_running());
    }
}

#[tokio::test]
async fn a_timeout_fails_a_held_pod_with_69_and_names_the_cause() {
    let linkerd = Linkerd::start().await;
    linkerd.injector.suffer(Fault::Absent).await.unwrap();
    let ended = missed().asking(&linkerd).with("TIMEOUT", "1s").end().await;
    assert_eq!(ended.code, 69);
    assert!(ended.termination_log.contains("refuses connections"), "{}", ended.termination_log);
}

#[tokio::test]
async fn a_timeout_with_open_starts_the_pod_and_logs_a_warning() {
    let linkerd = Linkerd::start().await;
    linkerd.injector.suffer(Fault::Hang).await.unwrap();
    let ended = missed().asking(&linkerd).with("TIMEOUT", "1s").with("ON_TIMEOUT", "open").end().await;
    assert_eq!(ended.code, 0);
    assert!(ended.said.contains("WARN") && ended.said.contains("OUTSIDE the mesh"), "{}", ended.said);
}

#[tokio::test]
async fn only_what_is_required_is_asked() {
    let linkerd = Linkerd::start().await;
    linkerd.identity.suffer(Fault::Absent).await.unwrap();
    let run = missed().asking(&linkerd).with("ON_MISSED", "exit").with("REQUIRE", "injector").start();
    assert_eq!(run.end().await.code, 75);
}

#[tokio::test]
async fn destination_and_policy_are_probed_when_required() {
    let linkerd = Linkerd::start().await;
    // Any part's admin port answers /ready as destination's and policy's do.
    let mut run = missed()
        .asking(&linkerd)
        .with("ON_MISSED", "exit")
        .with("REQUIRE", "injector,identity,destination,policy")
        .with("DESTINATION_ADDRESS", linkerd.identity.admin_address().to_string())
        .with("POLICY_ADDRESS", linkerd.injector.admin_address().to_string());
    linkerd.identity.suffer(Fault::NotReady).await.unwrap();
    let mut held = run.start();
    held.until("destination not ready").await;
    linkerd.identity.recover().await.unwrap();
    assert_eq!(held.end().await.code, 75);

    run = missed().asking(&linkerd).with("ON_MISSED", "exit").with("REQUIRE", "policy");
    let mut held = run.with("POLICY_ADDRESS", "127.0.0.1:9").start();
    held.until("policy not ready").await;
    assert!(held.is_running());
}

#[tokio::test]
async fn logs_are_json_where_asked() {
    let linkerd = Linkerd::start().await;
    let run = missed().asking(&linkerd).with("POD_NAME", "web-0").with("POD_NAMESPACE", "shop");
    let ended = run.with("ON_MISSED", "exit").with("LOG_FORMAT", "json").end().await;
    assert_eq!(ended.code, 75);
    for line in ended.said.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["message"].is_string() && line["level"].is_string(), "{line}");
        // What a log system filters by stands in fields, and the message is the same for every pod.
        assert_eq!(line["span"]["name"], "wait", "{line}");
        assert_eq!((&line["span"]["namespace"], &line["span"]["pod"]), (&"shop".into(), &"web-0".into()), "{line}");
        assert!(!line["message"].as_str().unwrap().contains("web-0"), "{line}");
    }
    let exit = ended.said.lines().last().unwrap();
    let exit: serde_json::Value = serde_json::from_str(exit).unwrap();
    assert_eq!(exit["message"], "exiting with code 75");
    assert!(exit["reason"].as_str().unwrap().starts_with("Linkerd is ready"), "{exit}");
}
