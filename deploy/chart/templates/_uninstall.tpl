{{/* Whether Helm installs into a cluster, so that it will also uninstall. `helm template` prints hooks like other objects, and kubectl
would run the uninstall hook at once. A lookup finds nothing if Helm only renders. */}}
{{- define "linkerd-gate.isInstalled" -}}
{{- if lookup "v1" "Namespace" "" "kube-system" -}}true{{- else -}}false{{- end -}}
{{- end }}

{{/* The hook's rights: created before the Job, and deleted after it, even if it fails. */}}
{{- define "linkerd-gate.hookOfRights" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: "-10"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}

{{/* The policy that confines these rights: created before them. */}}
{{- define "linkerd-gate.hookOfConfinement" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: "-20"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}
