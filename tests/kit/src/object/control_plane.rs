//! Linkerd's control plane, played by stand-ins, in the form of Linkerd's chart.

use super::{
    Namespace, Service, WebhookConfiguration, Workload, deployment, namespace, pod, service, webhook_configuration,
};
use crate::standin::{Certificates, Fault};
use anyhow::Result;
use serde_json::{Value, json};

/// A control plane under construction: everything that `linkerd install` makes as far as a gate can see it.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    namespace: String,
    image: String,
    program: String,
    certificates: Certificates,
    namespaces: Value,
    injector_fault: Option<Fault>,
    identity_fault: Option<Fault>,
    injectors: u32,
    identities: u32,
}

/// A control plane in that namespace whose containers run `linkerd-standin`, found at the path `program` in this image.
pub fn control_plane(linkerd_namespace: &str, image: &str, program: &str) -> Result<ControlPlane> {
    Ok(ControlPlane {
        namespace: linkerd_namespace.to_owned(),
        image: image.to_owned(),
        program: program.to_owned(),
        certificates: Certificates::for_injector(linkerd_namespace)?,
        namespaces: json!({"*": {}}),
        injector_fault: None,
        identity_fault: None,
        injectors: 1,
        identities: 1,
    })
}

// === impl ControlPlane ===

impl ControlPlane {
    /// The injector knows that every pod of this namespace asks. Pods that ask for themselves are injected anywhere.
    #[must_use]
    pub fn where_namespace_asks(mut self, name: &str) -> Self {
        self.namespaces[name]["linkerd.io/inject"] = "enabled".into();
        self
    }

    /// The injector knows that every pod asks, in whatever namespace, unless it says that it does not.
    #[must_use]
    pub fn where_every_namespace_asks(mut self) -> Self {
        self.namespaces["*"]["linkerd.io/inject"] = "enabled".into();
        self
    }

    /// How many injectors; 0 for one that is to come.
    #[must_use]
    pub fn injectors(mut self, count: u32) -> Self {
        self.injectors = count;
        self
    }

    /// How many identities; 0 for one that is to come.
    #[must_use]
    pub fn identities(mut self, count: u32) -> Self {
        self.identities = count;
        self
    }

    /// An injector that starts with this fault.
    #[must_use]
    pub fn injector_suffering(mut self, fault: Fault) -> Self {
        self.injector_fault = Some(fault);
        self
    }

    /// An identity that starts with this fault.
    #[must_use]
    pub fn identity_suffering(mut self, fault: Fault) -> Self {
        self.identity_fault = Some(fault);
        self
    }

    /// The injector's certificates.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Everything, in an order in which it can be applied.
    pub fn objects(&self) -> Result<Vec<Value>> {
        let mut objects = vec![self.namespace().json()];
        objects.extend(self.services().into_iter().map(Service::json));
        objects.extend([self.identity().json(), self.destination().json(), self.injector()?.json()]);
        objects.push(self.webhook().json());
        Ok(objects)
    }

    /// The namespace, as Linkerd's command line makes it.
    pub fn namespace(&self) -> Namespace {
        namespace(&self.namespace)
            .annotated("linkerd.io/inject", "disabled")
            .labelled("linkerd.io/is-control-plane", "true")
            .labelled("linkerd.io/control-plane-ns", &self.namespace)
            .without_admission_webhooks()
            .privileged()
    }

    /// The Services of identity, destination and injector.
    pub fn services(&self) -> Vec<Service> {
        let of = |name: &str, component: &str| {
            service(name)
                .in_namespace(&self.namespace)
                .labelled("linkerd.io/control-plane-component", component)
                .labelled("linkerd.io/control-plane-ns", &self.namespace)
                .selecting("linkerd.io/control-plane-component", component)
        };
        vec![
            of("linkerd-identity", "identity").port("grpc", 8080, 8080),
            of("linkerd-identity-headless", "identity").headless().port("grpc", 8080, 8080),
            of("linkerd-dst", "destination").port("grpc", 8086, 8086),
            of("linkerd-dst-headless", "destination").headless().port("grpc", 8086, 8086),
            of("linkerd-policy", "destination").headless().port("grpc", 8090, 8090),
            of("linkerd-proxy-injector", "proxy-injector").annotated("config.linkerd.io/opaque-ports", "443").port(
                "proxy-injector",
                443,
                "proxy-injector",
            ),
        ]
    }

    /// The injector's webhook configuration, with the bundle of [`ControlPlane::certificates`].
    pub fn webhook(&self) -> WebhookConfiguration {
        webhook_configuration(&self.namespace).ca_bundle(self.certificates.ca_bundle())
    }

    /// Deployment `linkerd-proxy-injector`.
    pub fn injector(&self) -> Result<Workload> {
        let container = container(
            "proxy-injector",
            &[("proxy-injector", 8443), ("injector-admin", 9995)],
            ("/ping", "/ready", 9995),
        );
        let variables = [
            ("LINKERD_STANDIN_CERTIFICATES", self.certificates.to_json()?),
            ("LINKERD_STANDIN_NAMESPACES", self.namespaces.to_string()),
            ("LINKERD_STANDIN_LINKERD_NAMESPACE", self.namespace.clone()),
            ("LINKERD_STANDIN_IMAGE", self.image.clone()),
            ("LINKERD_STANDIN_PROGRAM", self.program.clone()),
        ];
        Ok(self.deployment(
            "proxy-injector",
            self.injectors,
            vec![self.running(container, "injector", &variables, self.injector_fault)],
        ))
    }

    /// Deployment `linkerd-identity`.
    pub fn identity(&self) -> Workload {
        let container =
            container("identity", &[("ident-grpc", 8080), ("ident-admin", 9990)], ("/ping", "/ready", 9990));
        self.deployment(
            "identity",
            self.identities,
            vec![self.running(container, "identity", &[], self.identity_fault)],
        )
    }

    /// Deployment `linkerd-destination`, of which only the readiness is played.
    pub fn destination(&self) -> Workload {
        let destination =
            container("destination", &[("dest-grpc", 8086), ("dest-admin", 9996)], ("/ping", "/ready", 9996));
        let policy = container("policy", &[("policy-grpc", 8090), ("policy-admin", 9990)], ("/live", "/ready", 9990));
        self.deployment(
            "destination",
            1,
            vec![self.running(destination, "destination", &[], None), self.running(policy, "policy", &[], None)],
        )
    }

    fn deployment(&self, component: &str, replicas: u32, containers: Vec<Value>) -> Workload {
        let name = format!("linkerd-{component}");
        let pod = pod(&name)
            .labelled("linkerd.io/control-plane-component", component)
            .labelled("linkerd.io/control-plane-ns", &self.namespace)
            .labelled("linkerd.io/workload-ns", &self.namespace)
            .labelled("linkerd.io/proxy-deployment", &name)
            .spec_field("containers", containers);
        deployment(&name).in_namespace(&self.namespace).replicas(replicas).of(pod)
    }

    fn running(&self, mut container: Value, role: &str, variables: &[(&str, String)], fault: Option<Fault>) -> Value {
        container["image"] = self.image.as_str().into();
        container["command"] = json!([self.program]);
        container["args"] = json!([role]);
        let mut list: Vec<Value> =
            variables.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        if let Some(fault) = fault {
            list.push(json!({"name": "LINKERD_STANDIN_FAULT", "value": fault.to_string()}));
        }
        container["env"] = list.into();
        container
    }
}

fn container(name: &str, ports: &[(&str, u16)], (live, ready, admin): (&str, &str, u16)) -> Value {
    let ports: Vec<Value> = ports.iter().map(|(name, port)| json!({"name": name, "containerPort": port})).collect();
    json!({
        "name": name,
        "imagePullPolicy": "IfNotPresent",
        "ports": ports,
        "livenessProbe": {"httpGet": {"path": live, "port": admin}, "initialDelaySeconds": 10},
        // The chart leaves the period at Kubernetes' 10 s; a test has no time for that.
        "readinessProbe": {"httpGet": {"path": ready, "port": admin}, "failureThreshold": 7, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": 2103,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_a_deployment_behind_it() -> Result<()> {
        let objects = control_plane("linkerd", "standin:1", "/linkerd-standin")?.objects()?;
        let label = "linkerd.io/control-plane-component";
        let made: Vec<&Value> = objects
            .iter()
            .filter(|object| object["kind"] == "Deployment")
            .map(|object| &object["spec"]["template"]["metadata"]["labels"][label])
            .collect();
        for object in objects.iter().filter(|object| object["kind"] == "Service") {
            assert!(made.contains(&&object["spec"]["selector"][label]), "{}", object["metadata"]["name"]);
        }
        Ok(())
    }

    #[test]
    fn a_fault_reaches_its_container() -> Result<()> {
        let injector = control_plane("linkerd", "standin:1", "/linkerd-standin")?
            .injector_suffering(Fault::Deny)
            .injector()?
            .json();
        let variables = &injector["spec"]["template"]["spec"]["containers"][0]["env"];
        assert!(
            variables.as_array().expect("a list").contains(&json!({"name": "LINKERD_STANDIN_FAULT", "value": "deny"}))
        );
        Ok(())
    }
}
