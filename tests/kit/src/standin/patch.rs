//! The JSON patch with which a pod becomes meshed, operation by operation in the genuine order (linkerd2
//! charts/patch/templates/patch.json: metadata first, then volumes and containers).

use super::decision::Annotations;
use serde_json::{Value, json};

/// The version whose form the patch has.
const VERSION: &str = "edge-26.8.3";

/// Ports whose protocol Linkerd does not try to detect, unless set otherwise (`proxy.opaquePorts` in the chart's values).
const OPAQUE_PORTS: [i64; 8] = [25, 587, 3306, 4444, 5432, 6379, 9300, 11211];

/// What the injector adds to a pod: Linkerd's settings as far as they show in the pod.
#[derive(Clone, Debug)]
pub struct Sidecar {
    linkerd_namespace: String,
    proxy: Container,
    init: Container,
    await_command: Vec<String>,
    identity: String,
    native: bool,
}

/// What a container runs.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its image.
    pub image: String,
    /// Its entry point; empty for the image's own.
    pub command: Vec<String>,
    /// Its arguments.
    pub args: Vec<String>,
}

// === impl Sidecar ===

impl Sidecar {
    /// The genuine images, as the chart sets them: native sidecars.
    pub fn genuine(linkerd_namespace: &str) -> Self {
        let image = format!("cr.l5d.io/linkerd/proxy:{VERSION}");
        Self {
            linkerd_namespace: linkerd_namespace.to_owned(),
            proxy: Container { image: image.clone(), command: Vec::new(), args: Vec::new() },
            init: Container {
                image,
                command: vec!["/usr/lib/linkerd/linkerd2-proxy-init".to_owned()],
                args: INIT_ARGS.iter().map(ToString::to_string).collect(),
            },
            await_command: ["/usr/lib/linkerd/linkerd-await", "--timeout=2m", "--port=4191"]
                .map(str::to_owned)
                .to_vec(),
            identity: format!("linkerd-identity-headless.{linkerd_namespace}.svc.cluster.local.:8080"),
            native: true,
        }
    }

    /// An image that holds the program `linkerd-standin` at this path, so that a genuine kubelet can run it.
    pub fn standin(linkerd_namespace: &str, image: &str, program: &str) -> Self {
        let container = |role: &str| Container {
            image: image.to_owned(),
            command: vec![program.to_owned()],
            args: vec![role.to_owned()],
        };
        Self {
            proxy: container("proxy"),
            init: container("init"),
            await_command: [program, "await", "--timeout=2m", "--port=4191"].map(str::to_owned).to_vec(),
            ..Self::genuine(linkerd_namespace)
        }
    }

    /// Where proxies ask for certificates, `host:port`.
    #[must_use]
    pub fn identity_at(mut self, address: &str) -> Self {
        address.clone_into(&mut self.identity);
        self
    }

    /// Classic sidecars where a pod does not say (`proxy.nativeSidecar=false` in the chart's values).
    #[must_use]
    pub fn classic(mut self) -> Self {
        self.native = false;
        self
    }
}

/// What the chart gives linkerd-init (_proxy-init.tpl, with the default values).
const INIT_ARGS: [&str; 14] = [
    "--firewall-bin-path",
    "iptables-nft",
    "--firewall-save-bin-path",
    "iptables-nft-save",
    "--ipv6=false",
    "--incoming-proxy-port",
    "4143",
    "--outgoing-proxy-port",
    "4140",
    "--proxy-uid",
    "2102",
    "--inbound-ports-to-ignore",
    "4190,4191,4567,4568",
    "--outbound-ports-to-ignore=4567,4568",
];

/// The operations that inject. The pod was found to be one that the injector injects.
pub(super) fn inject(pod: &Value, namespace_name: &str, namespace: &Annotations, sidecar: &Sidecar) -> Vec<Value> {
    let mut operations = Vec::new();
    let mut annotations = inherited(pod, namespace);
    annotations.push(("linkerd.io/created-by".to_owned(), format!("linkerd/proxy-injector {VERSION}")));
    annotations.push(("linkerd.io/proxy-version".to_owned(), VERSION.to_owned()));
    // The genuine value is the SHA-256 of the trust anchors, which the stand-ins do without.
    annotations.push(("linkerd.io/trust-root-sha256".to_owned(), "0".repeat(64)));
    if let Some(ports) = opaque(pod, "Pod", namespace) {
        annotations.push((OPAQUE.to_owned(), ports));
    }
    annotations.sort();
    annotations.dedup_by(|later, earlier| later.0 == earlier.0);
    add_all(&mut operations, pod, "annotations", &annotations);

    let mut labels = vec![
        ("linkerd.io/control-plane-ns".to_owned(), sidecar.linkerd_namespace.clone()),
        ("linkerd.io/workload-ns".to_owned(), namespace_name.to_owned()),
    ];
    labels.extend(owner_label(pod));
    labels.sort();
    add_all(&mut operations, pod, "labels", &labels);

    if pod["spec"]["volumes"].is_null() {
        operations.push(add("/spec/volumes", json!([])));
    }
    if pod["spec"]["initContainers"].is_null() {
        operations.push(add("/spec/initContainers", json!([])));
    }
    let native = wants_native(pod, namespace).unwrap_or(sidecar.native);
    let awaits = setting(pod, namespace, "config.linkerd.io/proxy-await").is_none_or(|value| value != "disabled");
    let lock = "linkerd-proxy-init-xtables-lock";
    operations.push(add("/spec/volumes/-", json!({"emptyDir": {}, "name": lock})));
    let place = if native { "/spec/initContainers/0" } else { "/spec/initContainers/-" };
    operations.push(add(place, init_container(&sidecar.init, lock)));
    operations
        .push(add("/spec/volumes/-", json!({"name": "linkerd-identity-end-entity", "emptyDir": {"medium": "Memory"}})));
    operations.push(add(
        "/spec/volumes/-",
        json!({"name": "linkerd-identity-token", "projected": {"sources": [{"serviceAccountToken": {
            "path": "linkerd-identity-token", "expirationSeconds": 86_400, "audience": "identity.l5d.io",
        }}]}}),
    ));
    let place = match (native, awaits) {
        (true, _) => "/spec/initContainers/1",
        (false, true) => "/spec/containers/0",
        (false, false) => "/spec/containers/-",
    };
    operations.push(add(place, proxy_container(sidecar, native, awaits)));
    operations
}

/// The one operation that a skipped pod, or a Service, may get; empty when there is nothing to say.
pub(super) fn opaque_ports(object: &Value, kind: &str, namespace: &Annotations) -> Vec<Value> {
    let mut operations = Vec::new();
    if let Some(ports) = opaque(object, kind, namespace) {
        add_all(&mut operations, object, "annotations", &[(OPAQUE.to_owned(), ports)]);
    }
    operations
}

const OPAQUE: &str = "config.linkerd.io/opaque-ports";

fn opaque(object: &Value, kind: &str, namespace: &Annotations) -> Option<String> {
    if annotation(object, OPAQUE).is_some() {
        return None;
    }
    if let Some(ports) = namespace.get(OPAQUE) {
        return Some(ports.clone());
    }
    let every = |list: &Value, field: &str| -> Vec<i64> {
        list.as_array().into_iter().flatten().filter_map(|port| port[field].as_i64()).collect()
    };
    let declared = if kind == "Service" {
        let ports = &object["spec"]["ports"];
        [every(ports, "port"), every(ports, "targetPort")].concat()
    } else {
        let containers = object["spec"]["containers"].as_array();
        containers.into_iter().flatten().flat_map(|container| every(&container["ports"], "containerPort")).collect()
    };
    let ports: Vec<String> =
        OPAQUE_PORTS.iter().filter(|port| declared.contains(port)).map(ToString::to_string).collect();
    (!ports.is_empty()).then(|| ports.join(","))
}

/// Linkerd's annotations of the namespace that the pod does not carry itself. The beta key of native sidecars is not among
/// those that pods inherit (pkg/inject/inject.go).
fn inherited(pod: &Value, namespace: &Annotations) -> Vec<(String, String)> {
    namespace
        .iter()
        .filter(|(key, _)| {
            key.as_str() == "linkerd.io/inject"
                || key.starts_with("config.linkerd.io/") && key.as_str() != OPAQUE
                || key.starts_with("config.alpha.linkerd.io/")
        })
        .filter(|(key, _)| annotation(pod, key).is_none_or(str::is_empty))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn wants_native(pod: &Value, namespace: &Annotations) -> Option<bool> {
    ["config.linkerd.io", "config.beta.linkerd.io", "config.alpha.linkerd.io"]
        .iter()
        .find_map(|prefix| {
            let key = format!("{prefix}/proxy-enable-native-sidecar");
            if prefix.contains("beta") {
                annotation(pod, &key).map(str::to_owned)
            } else {
                setting(pod, namespace, &key).map(str::to_owned)
            }
        })
        // Nonsense never prevents injection: it counts as not said.
        .and_then(|value| value.parse().ok())
}

fn setting<'a>(pod: &'a Value, namespace: &'a Annotations, key: &str) -> Option<&'a str> {
    annotation(pod, key).or_else(|| namespace.get(key).map(String::as_str))
}

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][key].as_str()
}

/// The label that names the pod's owner, for the six kinds that have one.
fn owner_label(pod: &Value) -> Option<(String, String)> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == Value::Bool(true))?;
    let name = owner["name"].as_str()?;
    let (kind, name) = match owner["kind"].as_str()? {
        "ReplicaSet" => {
            // A Deployment's ReplicaSet is named after it and the hash that its pods carry.
            let hash = pod["metadata"]["labels"]["pod-template-hash"].as_str();
            match hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-')) {
                Some(deployment) => ("deployment", deployment),
                None => ("replicaset", name),
            }
        }
        "StatefulSet" => ("statefulset", name),
        "DaemonSet" => ("daemonset", name),
        "ReplicationController" => ("replicationcontroller", name),
        "Job" => ("job", name),
        _ => return None,
    };
    Some((format!("linkerd.io/proxy-{kind}"), name.to_owned()))
}

fn add_all(operations: &mut Vec<Value>, object: &Value, field: &str, entries: &[(String, String)]) {
    if entries.is_empty() {
        return;
    }
    if object["metadata"][field].is_null() {
        operations.push(add(&format!("/metadata/{field}"), json!({})));
    }
    for (key, value) in entries {
        // JSON pointer: the slash of a key is written ~1 (RFC 6901).
        operations.push(add(&format!("/metadata/{field}/{}", key.replace('/', "~1")), json!(value)));
    }
}

fn add(path: &str, value: Value) -> Value {
    let mut operation = json!({"op": "add", "path": path});
    operation["value"] = value;
    operation
}

fn init_container(container: &Container, lock: &str) -> Value {
    json!({
        "name": "linkerd-init",
        "image": container.image,
        "imagePullPolicy": "IfNotPresent",
        "command": container.command,
        "args": container.args,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 65534,
            "runAsNonRoot": true,
            "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"mountPath": "/run", "name": lock}],
    })
}

fn proxy_container(sidecar: &Sidecar, native: bool, awaits: bool) -> Value {
    let probe = |path: &str| json!({"path": path, "port": 4191});
    let mut container = json!({
        "name": "linkerd-proxy",
        "image": sidecar.proxy.image,
        "imagePullPolicy": "IfNotPresent",
        "env": environment(sidecar),
        "livenessProbe": {"httpGet": probe("/live"), "initialDelaySeconds": 10, "timeoutSeconds": 1},
        "readinessProbe": {"httpGet": probe("/ready"), "initialDelaySeconds": 2, "timeoutSeconds": 1},
        "ports": [
            {"containerPort": 4143, "name": "linkerd-proxy"},
            {"containerPort": 4191, "name": "linkerd-admin"},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": 2102,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"mountPath": "/var/run/linkerd/identity/end-entity", "name": "linkerd-identity-end-entity"},
            {"mountPath": "/var/run/secrets/tokens", "name": "linkerd-identity-token"},
        ],
    });
    if !sidecar.proxy.command.is_empty() {
        container["command"] = json!(sidecar.proxy.command);
    }
    if !sidecar.proxy.args.is_empty() {
        container["args"] = json!(sidecar.proxy.args);
    }
    if native {
        container["restartPolicy"] = json!("Always");
        if awaits {
            container["startupProbe"] = json!({"httpGet": probe("/ready"), "initialDelaySeconds": 0, "periodSeconds": 1, "failureThreshold": 120});
        }
    } else if awaits {
        container["lifecycle"] = json!({"postStart": {"exec": {"command": sidecar.await_command}}});
    }
    container
}

/// The variables that make the proxy find identity and know its own name; the genuine list has fifty more.
fn environment(sidecar: &Sidecar) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let value = |name: &str, value: &str| json!({"name": name, "value": value});
    json!([
        field("_pod_name", "metadata.name"),
        field("_pod_ns", "metadata.namespace"),
        field("_pod_sa", "spec.serviceAccountName"),
        value("_l5d_ns", &sidecar.linkerd_namespace),
        value("_l5d_trustdomain", "cluster.local"),
        value("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "0.0.0.0:4191"),
        value("LINKERD2_PROXY_INBOUND_LISTEN_ADDR", "0.0.0.0:4143"),
        value("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR", "127.0.0.1:4140"),
        value("LINKERD2_PROXY_IDENTITY_SVC_ADDR", &sidecar.identity),
        value("LINKERD2_PROXY_IDENTITY_TOKEN_FILE", "/var/run/secrets/tokens/linkerd-identity-token"),
        value(
            "LINKERD2_PROXY_IDENTITY_LOCAL_NAME",
            "$(_pod_sa).$(_pod_ns).serviceaccount.identity.$(_l5d_ns).$(_l5d_trustdomain)",
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standin::client;

    fn applied(pod: Value, operations: &[Value]) -> Value {
        client::apply(pod, operations).expect("operations that apply")
    }

    fn bare() -> Value {
        json!({"metadata": {"name": "web"}, "spec": {
            "initContainers": [{"name": "setup"}],
            "containers": [{"name": "app"}],
        }})
    }

    fn asks() -> Annotations {
        [("linkerd.io/inject".to_owned(), "enabled".to_owned())].into()
    }

    fn names(pod: &Value, field: &str) -> Vec<String> {
        let list = pod["spec"][field].as_array().expect("a list");
        list.iter().map(|container| container["name"].as_str().expect("a name").to_owned()).collect()
    }

    #[test]
    fn a_native_sidecar_comes_before_the_users_init_containers() {
        let pod = applied(bare(), &inject(&bare(), "shop", &asks(), &Sidecar::genuine("linkerd")));
        assert_eq!(names(&pod, "initContainers"), ["linkerd-init", "linkerd-proxy", "setup"]);
        assert_eq!(names(&pod, "containers"), ["app"]);
        assert_eq!(pod["spec"]["initContainers"][1]["restartPolicy"], "Always");
        assert_eq!(pod["spec"]["initContainers"][1]["startupProbe"]["failureThreshold"], 120);
    }

    #[test]
    fn a_classic_sidecar_comes_first_and_its_init_container_last() {
        let mut pod = bare();
        pod["metadata"]["annotations"]["config.linkerd.io/proxy-enable-native-sidecar"] = json!("false");
        let pod = applied(pod.clone(), &inject(&pod, "shop", &asks(), &Sidecar::genuine("linkerd")));
        assert_eq!(names(&pod, "initContainers"), ["setup", "linkerd-init"]);
        assert_eq!(names(&pod, "containers"), ["linkerd-proxy", "app"]);
        assert_eq!(
            pod["spec"]["containers"][0]["lifecycle"]["postStart"]["exec"]["command"][0],
            "/usr/lib/linkerd/linkerd-await"
        );
    }

    #[test]
    fn an_injected_pod_carries_the_labels_and_annotations_measured() {
        let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "app"}]}});
        let pod = applied(pod.clone(), &inject(&pod, "shop", &asks(), &Sidecar::genuine("linkerd")));
        assert_eq!(
            pod["metadata"]["labels"],
            json!({"linkerd.io/control-plane-ns": "linkerd", "linkerd.io/workload-ns": "shop"})
        );
        let keys: Vec<&String> = pod["metadata"]["annotations"].as_object().expect("annotations").keys().collect();
        assert_eq!(
            keys,
            ["linkerd.io/created-by", "linkerd.io/inject", "linkerd.io/proxy-version", "linkerd.io/trust-root-sha256"]
        );
    }

    #[test]
    fn the_owner_of_a_replica_set_is_named() {
        let mut pod = bare();
        pod["metadata"]["labels"]["pod-template-hash"] = json!("5d8f");
        pod["metadata"]["ownerReferences"] = json!([{"kind": "ReplicaSet", "name": "web-5d8f", "controller": true}]);
        assert_eq!(owner_label(&pod), Some(("linkerd.io/proxy-deployment".to_owned(), "web".to_owned())));
    }

    #[test]
    fn only_a_service_on_a_database_port_is_marked_opaque() {
        let service = json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432, "targetPort": 5432}]}});
        let operations = opaque_ports(&service, "Service", &Annotations::new());
        assert_eq!(
            applied(service, &operations)["metadata"],
            json!({"name": "db", "annotations": {"config.linkerd.io/opaque-ports": "5432"}})
        );
        let web = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
        assert_eq!(opaque_ports(&web, "Service", &Annotations::new()), Vec::<Value>::new());
    }
}
