//! The names by which Linkerd and Kubernetes call things.
//!
//! Names that an installation can change (namespaces, services, selectors) are here as the chart's defaults, for offline use
//! and for `wait`, which has no rights to read the live ones. Sources are files of linkerd2, edge-26.8.3, unless a line
//! names another.

/// Where the chart is installed unless a person sets another namespace (`charts/linkerd-control-plane/README.md`).
pub const DEFAULT_NAMESPACE: &str = "linkerd";

/// The user id of the proxy, which the packet redirection lets pass (`charts/linkerd-control-plane/values.yaml`, `proxy.uid`).
pub const PROXY_UID: i64 = 2102;

/// Label keys (`pkg/k8s/labels.go`).
pub mod label {
    /// On every meshed pod: the namespace of the control plane that injected it.
    pub const CONTROL_PLANE_NS: &str = "linkerd.io/control-plane-ns";

    /// On every part of the control plane: which part. The chart's object selector excludes pods that carry it.
    pub const CONTROL_PLANE_COMPONENT: &str = "linkerd.io/control-plane-component";

    /// On every meshed pod: its own namespace.
    pub const WORKLOAD_NS: &str = "linkerd.io/workload-ns";

    /// On what Linkerd's CNI plug-in consists of. The chart's object selector excludes pods that carry it.
    pub const CNI_RESOURCE: &str = "linkerd.io/cni-resource";

    /// On what belongs to an extension of Linkerd's: which one.
    pub const EXTENSION: &str = "linkerd.io/extension";

    /// On a namespace, with [`DISABLED`](super::inject::DISABLED): none of Linkerd's webhooks is called for it.
    pub const ADMISSION_WEBHOOKS: &str = "config.linkerd.io/admission-webhooks";

    /// On every namespace, always its name: set by the API server itself
    /// (<https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-metadata-name>).
    pub const METADATA_NAME: &str = "kubernetes.io/metadata.name";
}

/// Annotation keys (`pkg/k8s/labels.go`).
pub mod annotation {
    /// On a namespace or a pod: whether its pods are to be injected. An annotation, not a label.
    pub const INJECT: &str = "linkerd.io/inject";

    /// On every injected pod: by which version of the injector.
    pub const CREATED_BY: &str = "linkerd.io/created-by";

    /// On every injected pod: the version of its proxy.
    pub const PROXY_VERSION: &str = "linkerd.io/proxy-version";
}

/// Values of [`annotation::INJECT`], exact to the letter (`pkg/k8s/labels.go`).
pub mod inject {
    /// Inject.
    pub const ENABLED: &str = "enabled";

    /// Inject, and route by the `Host` header.
    pub const INGRESS: &str = "ingress";

    /// Do not inject. Also the value of [`label::ADMISSION_WEBHOOKS`](super::label::ADMISSION_WEBHOOKS) that counts.
    pub const DISABLED: &str = "disabled";
}

/// Names of containers (`pkg/k8s/labels.go`, `pkg/healthcheck/sidecar.go`).
pub mod container {
    /// Linkerd's proxy: an init container by default, a regular one with classic sidecars.
    pub const PROXY: &str = "linkerd-proxy";

    /// Linkerd's init container, which sets up the redirection.
    pub const INIT: &str = "linkerd-init";

    /// What stands in its place where the CNI plug-in sets up the redirection.
    pub const NETWORK_VALIDATOR: &str = "linkerd-network-validator";

    /// What an annotation adds, to look into a pod's network.
    pub const DEBUG: &str = "linkerd-debug";

    /// Istio's proxy, which the injector respects.
    pub const ISTIO_PROXY: &str = "istio-proxy";

    /// Istio's init container, which the injector respects.
    pub const ISTIO_INIT: &str = "istio-init";
}

/// Beginnings of image names by which the injector knows an existing sidecar (`pkg/healthcheck/sidecar.go`).
///
/// They end in the colon of a tag: the same image by digest, or from a mirror, does not count (*measured*).
pub mod image_prefix {
    /// Linkerd's proxy.
    pub const PROXY: &str = "cr.l5d.io/linkerd/proxy:";

    /// Linkerd's init container.
    pub const PROXY_INIT: &str = "cr.l5d.io/linkerd/proxy-init:";

    /// Istio's proxy.
    pub const ISTIO_PROXY: &str = "gcr.io/istio-release/proxyv2:";

    /// Istio's init container.
    pub const ISTIO_PROXY_INIT: &str = "gcr.io/istio-release/proxy_init:";
}

/// Values of [`label::CONTROL_PLANE_COMPONENT`] (`charts/linkerd-control-plane/templates`).
pub mod component {
    /// The proxy injector.
    pub const PROXY_INJECTOR: &str = "proxy-injector";

    /// The identity service.
    pub const IDENTITY: &str = "identity";

    /// The destination service, with the policy controller in the same pods.
    pub const DESTINATION: &str = "destination";
}

/// Names of the webhook objects (`charts/linkerd-control-plane/templates/proxy-injector-rbac.yaml`).
pub mod webhook {
    /// The injector's MutatingWebhookConfiguration.
    pub const CONFIGURATION: &str = "linkerd-proxy-injector-webhook-config";

    /// The one webhook in it.
    pub const NAME: &str = "linkerd-proxy-injector.linkerd.io";
}

/// Names of services (`charts/linkerd-control-plane/templates`).
pub mod service {
    /// The proxy injector.
    pub const PROXY_INJECTOR: &str = "linkerd-proxy-injector";

    /// The identity service, behind one address.
    pub const IDENTITY: &str = "linkerd-identity";

    /// The identity service, one address per ready pod.
    pub const IDENTITY_HEADLESS: &str = "linkerd-identity-headless";

    /// The destination service, behind one address.
    pub const DESTINATION: &str = "linkerd-dst";

    /// The destination service, one address per ready pod.
    pub const DESTINATION_HEADLESS: &str = "linkerd-dst-headless";

    /// The policy controller, one address per ready pod.
    pub const POLICY: &str = "linkerd-policy";
}

/// Ports of services and pods (`charts/linkerd-control-plane/templates`).
pub mod port {
    /// The injector's service, in front of 8443 in the pod.
    pub const PROXY_INJECTOR: u16 = 443;

    /// `Certify`: gRPC over plaintext HTTP/2 inside the pod.
    pub const IDENTITY_GRPC: u16 = 8080;

    /// `GET /ready` of the identity controller, by pod address only.
    pub const IDENTITY_ADMIN: u16 = 9990;

    /// gRPC of the destination service.
    pub const DESTINATION_GRPC: u16 = 8086;

    /// `GET /ready` of the destination service, by pod address only.
    pub const DESTINATION_ADMIN: u16 = 9996;

    /// gRPC of the policy controller.
    pub const POLICY_GRPC: u16 = 8090;

    /// `GET /ready` of the policy controller, by pod address only. Not identity's: that one is in other pods.
    pub const POLICY_ADMIN: u16 = 9990;
}

/// The admission chain's own paths and files in a pod.
pub mod path {
    /// Where the API server mounts a service account's token
    /// (<https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/>).
    pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
}
