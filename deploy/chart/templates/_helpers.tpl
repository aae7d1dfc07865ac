{{/* Whom the policies that confine the agent are about. */}}
{{- define "linkerd-gate.agentUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:linkerd-gate-agent
{{- end }}

{{/* Whom those that confine the controller are about. */}}
{{- define "linkerd-gate.controllerUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:linkerd-gate-controller
{{- end }}

{{/* Whether the controller evicts, as the program decides it. */}}
{{- define "linkerd-gate.evicts" -}}
{{- with .Values.controller -}}
{{- $eviction := include "linkerd-gate.word" .eviction -}}
{{- and .enabled (or (eq $eviction "on") (and (eq $eviction "") (eq .repair "running"))) -}}
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

{{/* Variables out of a section's values, which are named alike. An empty value is the program's default. */}}
{{- define "linkerd-gate.variables" -}}
{{- $section := first . -}}
{{- range $value := rest . -}}
{{- with include "linkerd-gate.word" (get $section $value) }}
        - {name: LINKERD_GATE_{{ snakecase $value | upper }}, value: {{ . | quote }}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The one value that agent and controller both go by. What it says by default they do by themselves. */}}
{{- define "linkerd-gate.modeVariable" -}}
{{- if eq .Values.mode "audit" }}
        - {name: LINKERD_GATE_MODE, value: audit}
{{- end -}}
{{- end }}

{{/* Further variables of a section, unless there is a value for them. */}}
{{- define "linkerd-gate.extraEnv" -}}
{{- $section := first . -}}
{{- range last . -}}
{{- if and (hasPrefix "LINKERD_GATE_" .name) (not (has .name (list "LINKERD_GATE_KUBECONFIG" "LINKERD_GATE_TERMINATION_LOG"))) -}}
{{- fail (printf "%s.extraEnv has %s, for which there is a value: see values.yaml" $section .name) -}}
{{- end -}}
{{- list . | toYaml | nindent 8 -}}
{{- end -}}
{{- end }}

{{/* The image, by digest where there is one. */}}
{{- define "linkerd-gate.image" -}}
{{- with .Values.image -}}
{{- if not .repository -}}
{{- fail "image.repository is not set, and there is no default: no image of linkerd-gate is published yet. Build one (make image), push it to a registry of yours, and say --set image.repository=registry.example.com/linkerd-gate" -}}
{{- end -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* The namespace of linkerd-gate itself. */}}
{{- define "linkerd-gate.ownNamespace" -}}
# The agent's own namespace. No webhook of Linkerd's is called for it, so nothing here waits for Linkerd.
apiVersion: v1
kind: Namespace
metadata:
  name: {{ .Release.Namespace }}
  labels:
    {{- if .Values.linkerdExtension }}
    linkerd.io/extension: gate
    {{- end }}
    config.linkerd.io/admission-webhooks: disabled
    # Whatever becomes of the expressions of hold and guard.
    linkerd-gate/admission: exempt
    # The agent is on its host's network, which every other level refuses.
    pod-security.kubernetes.io/enforce: privileged
  annotations:
    linkerd.io/inject: disabled
{{- end }}

{{/* The namespace of dry-run pods. */}}
{{- define "linkerd-gate.probeNamespace" -}}
# Where injection is proven: dry-run pods are created here and none ever runs (20-confinement.yaml).
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
    # What the injector adds (NET_ADMIN) must not be what refuses the pod.
    pod-security.kubernetes.io/enforce: privileged
  annotations:
    linkerd.io/inject: enabled
{{- end }}

{{/* Ends the rendering where a namespace is of another's, or is not as it has to be in the cluster that Helm talks to. */}}
{{- define "linkerd-gate.checkNamespaces" -}}
{{- $own := .Release.Namespace -}}
{{- if or (eq $own "default") (hasPrefix "kube-" $own) -}}
{{- fail (printf "linkerd-gate needs a namespace of its own, and %s is none: say --namespace linkerd-gate" $own) -}}
{{- end -}}
{{- if eq $own .Values.probeNamespace -}}
{{- fail (printf "probeNamespace is %s, where linkerd-gate itself is: it has to be another one, in which nothing runs" $own) -}}
{{- end -}}
{{- /* Nothing is found where Helm only renders, or the release would be without these two. */ -}}
{{- if lookup "v1" "Namespace" "" "kube-system" -}}
{{- $how := printf "kubectl apply -f deploy/manifests/10-namespaces.yaml, or: helm template CHART --namespace %s --set createNamespaces=true,probeNamespace=%s%s --show-only templates/namespaces.yaml | kubectl apply -f -" $own .Values.probeNamespace (printf "%s%s" (.Values.linkerdExtension | ternary ",linkerdExtension=true" "") (.Values.probeNamespaceLabels | empty | ternary "" (printf ",probeNamespaceLabels={%s}" (join "," .Values.probeNamespaceLabels)))) -}}
{{- if .Values.createNamespaces -}}
{{- fail (printf "createNamespaces is for `helm template`: Helm keeps its records in the namespace %s, which has to be there before. Leave it false, and make both namespaces first: %s" $own $how) -}}
{{- end -}}
{{- range list "linkerd-gate.ownNamespace" "linkerd-gate.probeNamespace" -}}
{{- $wanted := include . $ | fromYaml -}}
{{- $name := $wanted.metadata.name -}}
{{- $found := lookup "v1" "Namespace" "" $name -}}
{{- if not $found -}}
{{- fail (printf "the namespace %s has to be there before, with labels of its own: %s" $name $how) -}}
{{- end -}}
{{- range $field := list "labels" "annotations" -}}
{{- range $key, $value := get $wanted.metadata $field -}}
{{- $is := get (get $found.metadata $field | default dict) $key -}}
{{- if ne $is $value -}}
{{- fail (printf "the namespace %s has to have %s=%s among its %s, and has %q: %s" $name $key $value $field $is $how) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
