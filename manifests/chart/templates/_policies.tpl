{{- /* The policies that guard what is configured, by their short names. */}}
{{- define "psu.policyNames" -}}
{{- $targets := include "psu.targets" . | fromJson -}}
{{- $proof := include "psu.proof" . | fromJson -}}
{{- $names := list "own-writes" "other-name" -}}
{{- if ne (toString (default "admission" (default dict .Values.config.grants).check)) "namespace" -}}{{- $names = prepend $names "use-identity" -}}{{- end -}}
{{- if $targets.any -}}{{- $names = append $names "targets" -}}{{- end -}}
{{- if $targets.accounts -}}{{- $names = append $names "service-accounts" -}}{{- end -}}
{{- if $targets.asks -}}{{- $names = append $names "ask" -}}{{- end -}}
{{- if $proof.needed -}}{{- $names = append $names "tenant-proof" -}}{{- end -}}
{{ toJson $names }}
{{- end }}

{{- define "psu.policyFile" -}}
{{- $directories := dict "targets" "targets/" "service-accounts" "service-accounts/" "ask" "service-accounts/" "tenant-proof" "tenant-proof/" -}}
policies/{{ get $directories . }}{{ . }}.yaml
{{- end }}
