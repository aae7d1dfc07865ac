{{/* The user that the agent's policies confine. */}}
{{- define "linkerd-gate.agentUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:linkerd-gate-agent
{{- end }}

{{/* The user that the controller's policies confine. */}}
{{- define "linkerd-gate.controllerUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:linkerd-gate-controller
{{- end }}

{{/* Whether the controller evicts, as the program decides it. */}}
{{- define "linkerd-gate.evicts" -}}
{{- with .Values.controller -}}
{{- and .enabled (or (eq (toString .eviction) "true") (and (eq (toString .eviction) "") (eq .repair "running"))) -}}
{{- end -}}
{{- end }}

{{/* A value as a variable's text. YAML takes a bare `on` for true. Lists are joined; words have neither quotes nor lines in them. */}}
{{- define "linkerd-gate.word" -}}
{{- if kindIs "bool" . -}}
{{ ternary "on" "off" . }}
{{- else if kindIs "slice" . -}}
{{ join "," . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end }}

{{/* Variables from a section's values of the same names. An empty value is the program's default. */}}
{{- define "linkerd-gate.variables" -}}
{{- $section := first . -}}
{{- range $value := rest . -}}
{{- $given := get $section $value -}}
{{- with (kindIs "bool" $given | ternary (toString $given) (include "linkerd-gate.word" $given)) }}
        - {name: LINKERD_GATE_{{ snakecase $value | upper }}, value: {{ . | quote }}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The variable of `mode`, for agent and controller. `enforce` is the program's default. */}}
{{- define "linkerd-gate.modeVariable" -}}
{{- if eq .Values.mode "audit" }}
        - {name: LINKERD_GATE_MODE, value: audit}
{{- end -}}
{{- end }}

{{/* Further variables of a section. Those that have a value are refused. */}}
{{- define "linkerd-gate.extraEnv" -}}
{{- $section := first . -}}
{{- range last . -}}
{{- if and (hasPrefix "LINKERD_GATE_" .name) (not (has .name (list "LINKERD_GATE_KUBECONFIG" "LINKERD_GATE_TERMINATION_LOG"))) -}}
{{- fail (printf "%s.extraEnv has %s, which has a value of its name: see values.yaml" $section .name) -}}
{{- end -}}
{{- list . | toYaml | nindent 8 -}}
{{- end -}}
{{- end }}

{{/* The standard labels of an object of this component: https://helm.sh/docs/chart_best_practices/labels. `helm template` prints the
first three only: what kubectl applies belongs to no release. */}}
{{- define "linkerd-gate.labels" -}}
{{- $root := first . -}}
app.kubernetes.io/name: linkerd-gate
app.kubernetes.io/component: {{ last . }}
app.kubernetes.io/part-of: Linkerd
{{- if eq (include "linkerd-gate.isInstalled" $root) "true" }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The labels of this component's pods: of the root, the component, and further labels. A selector has the first two only. */}}
{{- define "linkerd-gate.podLabels" -}}
app.kubernetes.io/name: linkerd-gate
app.kubernetes.io/component: {{ index . 1 }}
{{- with merge dict (last .) (first .).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The pull secrets of a pod. */}}
{{- define "linkerd-gate.pullSecrets" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets:
{{ toYaml . }}
{{- end -}}
{{- end }}

{{/* The annotations of a service account; nothing if there are none. */}}
{{- define "linkerd-gate.annotations" -}}
{{- with . -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end }}

{{/* The image, by digest if it is set. */}}
{{- define "linkerd-gate.image" -}}
{{- with .Values.image -}}
{{- if not .repository -}}
{{- fail "image.repository is not set, and has no default: no image of linkerd-gate is published yet. Build one (make image), push it to your registry, and add --set image.repository=registry.example.com/linkerd-gate" -}}
{{- end -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* The namespace of linkerd-gate itself. */}}
{{- define "linkerd-gate.ownNamespace" -}}
# The namespace of agents and controller. The API server calls no Linkerd webhook for it, so no pod here waits for Linkerd.
apiVersion: v1
kind: Namespace
metadata:
  name: {{ .Release.Namespace }}
  labels:
    {{- if .Values.linkerdExtension }}
    linkerd.io/extension: gate
    {{- end }}
    config.linkerd.io/admission-webhooks: disabled
    # Hold and guard skip it, even if one of their expressions fails.
    linkerd-gate/admission: exempt
    # The agent uses its host's network, which every other level refuses.
    pod-security.kubernetes.io/enforce: privileged
  annotations:
    linkerd.io/inject: disabled
{{- end }}

{{/* The namespace of dry-run pods. */}}
{{- define "linkerd-gate.probeNamespace" -}}
# The namespace of the dry-run pods that prove injection. No pod ever runs here (20-agent-policies.yaml).
apiVersion: v1
kind: Namespace
metadata:
  name: {{ .Values.probeNamespace }}
  labels:
    linkerd-gate/admission: exempt
    {{- range .Values.probeNamespaceLabels }}
    {{- $label := splitn "=" 2 . }}
    {{ $label._0 }}: {{ $label._1 | quote }}
    {{- end }}
    # Pod Security must not refuse the pod because of NET_ADMIN, which the injector adds.
    pod-security.kubernetes.io/enforce: privileged
  annotations:
    linkerd.io/inject: enabled
{{- end }}

{{/* What to type before `helm install`, for namespaces with all labels. */}}
{{- define "linkerd-gate.howToCreateNamespaces" -}}
{{- $extension := .Values.linkerdExtension | ternary ",linkerdExtension=true" "" -}}
{{- $labels := .Values.probeNamespaceLabels | empty | ternary "" (printf ",probeNamespaceLabels={%s}" (join "," .Values.probeNamespaceLabels)) -}}
{{- printf "kubectl apply -f deploy/manifests/10-namespaces.yaml, or: helm template CHART --namespace %s --set createNamespaces=true,probeNamespace=%s%s%s --show-only templates/namespaces.yaml | kubectl apply -f -" .Release.Namespace .Values.probeNamespace $extension $labels -}}
{{- end }}

{{/* Whether this release owns the probe namespace: it does not exist yet, or Helm created it for this release. */}}
{{- define "linkerd-gate.ownsProbeNamespace" -}}
{{- if eq (include "linkerd-gate.isInstalled" .) "true" -}}
{{- $found := lookup "v1" "Namespace" "" .Values.probeNamespace -}}
{{- $by := dig "metadata" "annotations" dict ($found | default dict) -}}
{{- or (not $found) (and (eq (get $by "meta.helm.sh/release-name") .Release.Name) (eq (get $by "meta.helm.sh/release-namespace") .Release.Namespace)) -}}
{{- else -}}
false
{{- end -}}
{{- end }}

{{/* Whether Linkerd's webhook refuses what it cannot patch, in the cluster that Helm installs into. */}}
{{- define "linkerd-gate.injectorRefuses" -}}
{{- $refuses := false -}}
{{- range (lookup "admissionregistration.k8s.io/v1" "MutatingWebhookConfiguration" "" "").items -}}
{{- if eq (dig "metadata" "labels" "linkerd.io/control-plane-component" "" .) "proxy-injector" -}}
{{- range .webhooks -}}
{{- if eq (.failurePolicy | default "Fail") "Fail" -}}{{- $refuses = true -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $refuses -}}
{{- end }}

{{/* What the namespace of linkerd-gate lacks of this field, each KEY=VALUE; nothing if Helm only renders. `helm install
--create-namespace` creates it without labels, after it has rendered this. */}}
{{- define "linkerd-gate.lackedByOwnNamespace" -}}
{{- $root := first . -}}
{{- $field := last . -}}
{{- if eq (include "linkerd-gate.isInstalled" $root) "true" -}}
{{- $found := lookup "v1" "Namespace" "" $root.Release.Namespace -}}
{{- $has := dig "metadata" $field dict ($found | default dict) -}}
{{- range $key, $value := get (include "linkerd-gate.ownNamespace" $root | fromYaml).metadata $field -}}
{{- if ne (get $has $key) $value }} {{ $key }}={{ $value }}{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Fails if a namespace is another program's, or if linkerd-gate could not work in it. */}}
{{- define "linkerd-gate.checkNamespaces" -}}
{{- $own := .Release.Namespace -}}
{{- $how := include "linkerd-gate.howToCreateNamespaces" . -}}
{{- if or (eq $own "default") (hasPrefix "kube-" $own) -}}
{{- fail (printf "linkerd-gate needs a separate namespace, and %s belongs to Kubernetes: use --namespace linkerd-gate" $own) -}}
{{- end -}}
{{- if or .Values.nameOverride .Values.fullnameOverride -}}
{{- fail "nameOverride and fullnameOverride have no effect here: agents, controller and policies find objects of linkerd-gate by their names and by app.kubernetes.io/name=linkerd-gate, and a cluster has one installation. For labels of your own use commonLabels" -}}
{{- end -}}
{{- if eq $own .Values.probeNamespace -}}
{{- fail (printf "probeNamespace is %s, the namespace of linkerd-gate itself: set another one, in which no pod runs" $own) -}}
{{- end -}}
{{- if eq (include "linkerd-gate.isInstalled" .) "true" -}}
{{- if .Values.createNamespaces -}}
{{- fail (printf "createNamespaces is for `helm template`: Helm keeps its records in the namespace %s, which must exist first. Leave it false, and add --create-namespace, or create both namespaces first: %s" $own $how) -}}
{{- end -}}
{{- $has := dig "metadata" "labels" dict (lookup "v1" "Namespace" "" $own | default dict) -}}
{{- $level := get $has "pod-security.kubernetes.io/enforce" -}}
{{- if and $level (ne $level "privileged") -}}
{{- fail (printf "the namespace %s has pod-security.kubernetes.io/enforce=%s, which refuses the agents' host network; linkerd-gate needs privileged there: %s" $own $level $how) -}}
{{- end -}}
{{- if and (eq (include "linkerd-gate.injectorRefuses" .) "true") (ne (get $has "config.linkerd.io/admission-webhooks") "disabled") -}}
{{- fail (printf "Linkerd's webhook has failurePolicy=Fail, and the namespace %s lacks the label config.linkerd.io/admission-webhooks=disabled: without its injector no pod of linkerd-gate could start. Create both namespaces with their labels first: %s" $own $how) -}}
{{- end -}}
{{- if ne (include "linkerd-gate.ownsProbeNamespace" .) "true" -}}
{{- $wanted := include "linkerd-gate.probeNamespace" . | fromYaml -}}
{{- $name := $wanted.metadata.name -}}
{{- $found := lookup "v1" "Namespace" "" $name -}}
{{- range $field := list "labels" "annotations" -}}
{{- range $key, $value := get $wanted.metadata $field -}}
{{- $is := get (get $found.metadata $field | default dict) $key -}}
{{- if ne $is $value -}}
{{- fail (printf "the namespace %s needs %s=%s among its %s, and has %q: %s" $name $key $value $field $is $how) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
