{{/* What the API server offers from Kubernetes 1.36 on, and hold and bornClosed are made of. */}}
{{- define "linkerd-gate.mutatingPolicies" -}}
{{- .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" -}}
{{- end }}

{{/* Ends the rendering where a value needs a MutatingAdmissionPolicy and this Kubernetes has none: (list . "admission=hold" "what to set instead"). */}}
{{- define "linkerd-gate.needMutatingPolicies" -}}
{{- $context := index . 0 -}}
{{- if ne (include "linkerd-gate.mutatingPolicies" $context) "true" -}}
{{- fail (printf "%s needs a MutatingAdmissionPolicy of admissionregistration.k8s.io/v1, which Kubernetes offers from 1.36 on; what this is rendered for (%s) does not. %s. Without a cluster, say what it offers: --api-versions admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" (index . 1) $context.Capabilities.KubeVersion.Version (index . 2)) -}}
{{- end -}}
{{- end }}

{{/* What comes of the value `admission`, whatever the mode: hold, refuse, warn or off. */}}
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

{{/* What is rendered: the same, but in audit mode nothing is held and nothing refused. */}}
{{- define "linkerd-gate.admission" -}}
{{- $chosen := include "linkerd-gate.admissionChosen" . -}}
{{ and (eq .Values.mode "audit") (ne $chosen "off") | ternary "warn" $chosen }}
{{- end }}

{{/* Whether no pod that asks starts bare, in whichever namespace. */}}
{{- define "linkerd-gate.admissionEnforcedEverywhere" -}}
{{- and (eq .Values.admissionNamespaces "all") (has (include "linkerd-gate.admission" .) (list "hold" "refuse")) -}}
{{- end }}

{{/* Where neither hold nor guard looks at pods at all. Labels of namespaces do not change within a request, so this is safe for hold. */}}
{{- define "linkerd-gate.admission.namespaceSelector" -}}
matchExpressions:
# Linkerd cannot work before these do, and linkerd-gate has nothing to ask of itself. What else Linkerd's live webhook
# does not select is left alone as well.
- {key: kubernetes.io/metadata.name, operator: NotIn, values: [kube-system, {{ .Release.Namespace }}, {{ .Values.probeNamespace }}]}
# What the gate waits for must not wait for the gate.
- {key: linkerd-gate/essential, operator: NotIn, values: ["true"]}
- {key: linkerd-gate/admission, operator: NotIn, values: [exempt]}
{{- end }}

{{/* To which namespaces a binding goes, where they are chosen by a label. */}}
{{- define "linkerd-gate.admission.matchResources" -}}
{{- if eq .Values.admissionNamespaces "labelled" }}
  matchResources:
    namespaceSelector: {matchLabels: {linkerd-gate/admission: enforce}}
{{- end }}
{{- end }}

{{/* The parameter of hold and guard: Linkerd's live webhook configuration. */}}
{{- define "linkerd-gate.admission.paramRef" -}}
{{- if .Values.linkerd.webhookConfiguration -}}
# By name: this one counts whatever its labels are.
name: {{ .Values.linkerd.webhookConfiguration }}
{{- else -}}
# As Linkerd's own tools find it. Of several, one that calls the injector for the pod is enough. The chart's value
# linkerd.webhookConfiguration names one instead, which then counts without this label too.
selector: {matchLabels: {linkerd.io/control-plane-component: proxy-injector}}
{{- end }}
# No configuration, so no Linkerd: no pod is held or refused.
parameterNotFoundAction: Allow
{{- end }}

{{/* Whether a pod has our gate: (list "object" or "oldObject"). */}}
{{- define "linkerd-gate.admission.gated" -}}
{{ first . }}.spec.?schedulingGates.orValue([]).exists(g, g.name == 'linkerd-gate/injected')
{{- end }}

{{/* A sidecar that an injected pod has, or for which the injector leaves a pod alone: (list CONTAINERS), as CEL has them. */}}
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

{{/* What hold and guard both ask of a pod. Each brings its own variable `containers`. */}}
{{- define "linkerd-gate.admission.variables" -}}
- {name: nsLabels, expression: "namespaceObject.metadata.?labels.orValue({})"}
- {name: podLabels, expression: "object.metadata.?labels.orValue({})"}
# Values count to the letter: any other, `Enabled` say, is invalid, and Linkerd leaves such a pod alone. What a pod says counts
# before what its namespace says, unless that is invalid.
- name: asked
  expression: >-
    object.metadata.?annotations[?'linkerd.io/inject'].orValue('') == '' ?
      namespaceObject.metadata.?annotations[?'linkerd.io/inject'].orValue('') in ['enabled', 'ingress'] :
      object.metadata.annotations['linkerd.io/inject'] in ['enabled', 'ingress'] &&
      namespaceObject.metadata.?annotations[?'linkerd.io/inject'].orValue('') in ['', 'disabled', 'enabled', 'ingress']
# Linkerd's value identity.serviceAccountTokenProjection, which no webhook configuration tells. True is its default.
- {name: tokenProjection, expression: {{ .Values.linkerd.tokenProjection | toString | quote }}}
# Where it is false, only pods with a token are injected. By now the API server has mounted it where a pod gets one, as it has
# when the injector looks.
- name: token
  expression: >-
    object.spec.?automountServiceAccountToken.orValue(true) &&
    variables.containers[?0].?volumeMounts.orValue([]).exists(m,
      m.mountPath == '/var/run/secrets/kubernetes.io/serviceaccount')
# Whether the API server calls Linkerd's injector for this pod, as far as anything but the API server can tell: a webhook with
# match conditions does not count. A webhook is the injector's by its name, or by the label of its configuration. Where the
# injector itself runs, the pods are that all others wait for.
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
