{{/* The pod of a check: of the root, its component, and further arguments. */}}
{{- define "linkerd-gate.checkPod" -}}
{{- $ := first . -}}
{{- $component := index . 1 -}}
metadata:
  labels: {{- include "linkerd-gate.podLabels" (list $ $component dict) | nindent 4 }}
  annotations:
    linkerd.io/inject: disabled
spec:
  serviceAccountName: linkerd-gate-check
  restartPolicy: Never
  enableServiceLinks: false
  nodeSelector:
    {{- toYaml $.Values.controller.nodeSelector | nindent 4 }}
  # Where the controller may run, closed nodes included: it says what is wrong with them.
  tolerations:
  - {key: {{ $.Values.agent.taintKey | quote }}, operator: Exists, effect: NoSchedule}
  {{- with $.Values.controller.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  securityContext:
    runAsUser: 2102
    runAsGroup: 2102
    runAsNonRoot: true
    seccompProfile: {type: RuntimeDefault}
  {{- with include "linkerd-gate.pullSecrets" $ }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
  - name: check
    image: {{ include "linkerd-gate.image" $ }}
    imagePullPolicy: {{ $.Values.image.pullPolicy }}
    args:
    - check
    - --probe-namespace={{ $.Values.probeNamespace }}
    {{- if not $.Values.linkerd.tokenProjection }}
    - --no-token-projection
    {{- end }}
    {{- with $.Values.check.wait }}
    - --wait={{ . }}
    {{- end }}
    {{- range $.Values.check.suppress }}
    - {{ printf "--suppress=%s" . | quote }}
    {{- end }}
    {{- range last . }}
    - {{ . }}
    {{- end }}
    resources: {{- toYaml $.Values.check.resources | nindent 6 }}
    securityContext:
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: {drop: [ALL]}
{{- end }}
