{{/* Whether the API server has MutatingAdmissionPolicy (Kubernetes 1.36 or newer), which hold and bornClosed need. */}}
{{- define "linkerd-gate.mutatingPolicies" -}}
{{- .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" -}}
{{- end }}

{{/* Fails if a value needs a MutatingAdmissionPolicy and this Kubernetes has none: (list . "admission=hold" "what to set instead"). */}}
{{- define "linkerd-gate.needMutatingPolicies" -}}
{{- $context := index . 0 -}}
{{- if ne (include "linkerd-gate.mutatingPolicies" $context) "true" -}}
{{- fail (printf "%s needs a MutatingAdmissionPolicy of admissionregistration.k8s.io/v1, which Kubernetes has from 1.36 on; this is rendered for %s. %s. Without a cluster, name what it has: --api-versions admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" (index . 1) $context.Capabilities.KubeVersion.Version (index . 2)) -}}
{{- end -}}
{{- end }}

{{/* The value `admission` with `auto` resolved, in any mode: hold, refuse, warn or off. */}}
{{- define "linkerd-gate.admissionChosen" -}}
{{- $said := include "linkerd-gate.word" .Values.admission -}}
{{- if eq $said "auto" -}}
{{ eq (include "linkerd-gate.mutatingPolicies" .) "true" | ternary "hold" "refuse" }}
{{- else -}}
{{- if eq $said "hold" -}}
{{- include "linkerd-gate.needMutatingPolicies" (list . "admission=hold" "Set admission=refuse, or auto, which then refuses") -}}
{{- end -}}
{{ $said }}
{{- end -}}
{{- end }}

{{/* The admission that is rendered: the same, but `warn` in audit mode. */}}
{{- define "linkerd-gate.admission" -}}
{{- $chosen := include "linkerd-gate.admissionChosen" . -}}
{{ and (eq .Values.mode "audit") (ne $chosen "off") | ternary "warn" $chosen }}
{{- end }}

{{/* Whether admission holds or refuses each pod without a proxy, in all namespaces. */}}
{{- define "linkerd-gate.admissionEnforcedEverywhere" -}}
{{- and (eq .Values.admissionNamespaces "all") (has (include "linkerd-gate.admission" .) (list "hold" "refuse")) -}}
{{- end }}

{{/* The namespaces that hold and guard skip. A namespace's labels do not change within a request, so this is safe for hold. */}}
{{- define "linkerd-gate.admission.namespaceSelector" -}}
matchExpressions:
# Linkerd needs kube-system, and linkerd-gate skips its own namespaces. The rules also skip every pod that Linkerd's live webhook
# does not select.
- {key: kubernetes.io/metadata.name, operator: NotIn, values: [kube-system, {{ .Release.Namespace }}, {{ .Values.probeNamespace }}]}
# Deadlock prevention: the gate waits for these pods.
- {key: linkerd-gate/essential, operator: NotIn, values: ["true"]}
- {key: linkerd-gate/admission, operator: NotIn, values: [exempt]}
{{- end }}

{{/* The namespaces of a binding, if a label selects them. */}}
{{- define "linkerd-gate.admission.matchResources" -}}
{{- if eq .Values.admissionNamespaces "labelled" }}
  matchResources:
    namespaceSelector: {matchLabels: {linkerd-gate/admission: enforce}}
{{- end }}
{{- end }}

{{/* The parameter of hold and guard: Linkerd's live webhook configuration. */}}
{{- define "linkerd-gate.admission.paramRef" -}}
{{- if .Values.linkerd.webhookConfiguration -}}
# By name, with any labels.
name: {{ .Values.linkerd.webhookConfiguration }}
{{- else -}}
# Linkerd's own tools find it by this label. If several have it, one that calls the injector for the pod is enough. The chart's value
# linkerd.webhookConfiguration selects one by name instead, with or without this label.
selector: {matchLabels: {linkerd.io/control-plane-component: proxy-injector}}
{{- end }}
# No webhook configuration means no Linkerd: no pod is held or refused.
parameterNotFoundAction: Allow
{{- end }}

{{/* Whether a pod has our gate: (list "object" or "oldObject"). */}}
{{- define "linkerd-gate.admission.gated" -}}
{{ first . }}.spec.?schedulingGates.orValue([]).exists(g, g.name == 'linkerd-gate/injected')
{{- end }}

{{/* Whether a pod has a proxy, or a sidecar for which the injector skips it: (list CONTAINERS), as CEL. */}}
{{- define "linkerd-gate.admission.sidecar" -}}
{{ first . }}.exists(c,
  c.name in ['linkerd-proxy', 'istio-proxy'] ||
  has(c.image) && (
    c.image.startsWith('cr.l5d.io/linkerd/proxy:') || c.image.startsWith('gcr.io/istio-release/proxyv2:'))) ||
has(object.spec.initContainers) && object.spec.initContainers.exists(c,
  c.name in ['linkerd-proxy', 'istio-proxy', 'linkerd-init', 'istio-init'] ||
  has(c.image) && (
    c.image.startsWith('cr.l5d.io/linkerd/proxy:') || c.image.startsWith('gcr.io/istio-release/proxyv2:') ||
    c.image.startsWith('cr.l5d.io/linkerd/proxy-init:') || c.image.startsWith('gcr.io/istio-release/proxy_init:')))
{{- end }}

{{/* The variables that hold and guard share. Each defines `containers` itself. */}}
{{- define "linkerd-gate.admission.variables" -}}
- {name: nsLabels, expression: "namespaceObject.metadata.?labels.orValue({})"}
- {name: podLabels, expression: "object.metadata.?labels.orValue({})"}
# Linkerd compares values exactly: any other, such as `Enabled`, is invalid, and Linkerd skips the pod. The pod's annotation precedes
# its namespace's, unless the namespace's is invalid.
- name: asked
  expression: >-
    object.metadata.?annotations[?'linkerd.io/inject'].orValue('') == '' ?
      namespaceObject.metadata.?annotations[?'linkerd.io/inject'].orValue('') in ['enabled', 'ingress'] :
      object.metadata.annotations['linkerd.io/inject'] in ['enabled', 'ingress'] &&
      namespaceObject.metadata.?annotations[?'linkerd.io/inject'].orValue('') in ['', 'disabled', 'enabled', 'ingress']
# Linkerd's value identity.serviceAccountTokenProjection, which no webhook configuration contains. True is its default.
- {name: tokenProjection, expression: {{ .Values.linkerd.tokenProjection | toString | quote }}}
# If it is false, Linkerd injects only pods with a token. The API server mounts the token before webhooks and policies run.
- name: token
  expression: >-
    object.spec.?automountServiceAccountToken.orValue(true) &&
    variables.containers[?0].?volumeMounts.orValue([]).exists(m,
      m.mountPath == '/var/run/secrets/kubernetes.io/serviceaccount')
# Whether the API server calls Linkerd's injector for this pod. Only the API server can evaluate match conditions, so a webhook with
# any does not count. A webhook is the injector's by its name, or by its configuration's label. The injector's own namespace does not
# count: all other pods wait for its pods.
- name: calling
  expression: >-
    params.?webhooks.orValue([]).exists(w,
      (w.name == 'linkerd-proxy-injector.linkerd.io' ||
       params.metadata.?labels[?'linkerd.io/control-plane-component'].orValue('') == 'proxy-injector') &&
      request.namespace != w.clientConfig.?service.?namespace.orValue('') &&
      (!has(w.matchConditions) || w.matchConditions.size() == 0) &&
      has(w.rules) && w.rules.exists(r,
        (!has(r.scope) || r.scope in ['*', 'Namespaced']) &&
        has(r.operations) && ('CREATE' in r.operations || '*' in r.operations) &&
        has(r.apiGroups) && ('' in r.apiGroups || '*' in r.apiGroups) &&
        has(r.apiVersions) && ('v1' in r.apiVersions || '*' in r.apiVersions) &&
        has(r.resources) && r.resources.exists(p, p in ['*', '*/*', 'pods', 'pods/*'])) &&
      {{- range $selector, $labels := dict "namespaceSelector" "nsLabels" "objectSelector" "podLabels" }}
      w.?{{ $selector }}.?matchLabels.orValue({}).all(k,
        k in variables.{{ $labels }} && variables.{{ $labels }}[k] == w.{{ $selector }}.matchLabels[k]) &&
      w.?{{ $selector }}.?matchExpressions.orValue([]).all(e,
        e.operator == 'In' ? e.key in variables.{{ $labels }} && variables.{{ $labels }}[e.key] in e.values :
        e.operator == 'NotIn' ? !(e.key in variables.{{ $labels }} && variables.{{ $labels }}[e.key] in e.values) :
        e.operator == 'Exists' ? e.key in variables.{{ $labels }} : !(e.key in variables.{{ $labels }}))
      {{- if eq $selector "namespaceSelector" }} &&{{ else }}){{ end }}
      {{- end }}
{{- end }}

{{/*
The node affinity of agents as match expressions of a label selector, which is how the policy of agent.bornClosed selects nodes. Given
.Values.agent. A label selector has one list of expressions, no fields, and four operators: it cannot say all that an affinity can,
and a policy that selects other nodes than the DaemonSet would close nodes that no agent opens.
*/}}
{{- define "linkerd-gate.bornClosed.expressions" -}}
{{- $path := "agent.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms" -}}
{{- $terms := dig "nodeAffinity" "requiredDuringSchedulingIgnoredDuringExecution" "nodeSelectorTerms" list (.affinity | default dict) -}}
{{- $accepted := "agent.bornClosed=true accepts one term, with matchExpressions only, and the operators In, NotIn, Exists and DoesNotExist: a MutatingAdmissionPolicy selects nodes by labels. Write the affinity so, or use agent.nodeSelector, or set agent.bornClosed=false" -}}
{{- if gt (len $terms) 1 -}}
{{- fail (printf "%s has %d terms. %s" $path (len $terms) $accepted) -}}
{{- end -}}
{{- range $terms -}}
{{- if .matchFields -}}
{{- fail (printf "%s[0] has matchFields. %s" $path $accepted) -}}
{{- end -}}
{{- if not .matchExpressions -}}
{{- fail (printf "%s[0] has no matchExpressions, so it selects no node. %s" $path $accepted) -}}
{{- end -}}
{{- range $place, $expression := .matchExpressions -}}
{{- if not (has .operator (list "In" "NotIn" "Exists" "DoesNotExist")) -}}
{{- fail (printf "%s[0].matchExpressions[%d] has the operator %v. %s" $path $place .operator $accepted) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $terms -}}
{{ toYaml .matchExpressions }}
{{- end -}}
{{- end }}
