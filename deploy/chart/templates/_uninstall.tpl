{{/* Whether Helm installs into a cluster, so that it will also uninstall. `helm template` prints hooks as if they were objects: piped
to kubectl, one that uninstalls would do so at once. Nothing is found where Helm only renders. */}}
{{- define "linkerd-gate.isInstalled" -}}
{{- if lookup "v1" "Namespace" "" "kube-system" -}}true{{- else -}}false{{- end -}}
{{- end }}

{{/* The hook's rights: there before the Job, and gone with it, whatever becomes of it. */}}
{{- define "linkerd-gate.hookOfRights" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: "-10"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}

{{/* What confines them: there before them. */}}
{{- define "linkerd-gate.hookOfConfinement" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: "-20"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}
