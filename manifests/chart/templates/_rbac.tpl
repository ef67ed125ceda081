{{- /* A ClusterRole or Role and its binding to the controller; takes (dict "root" $ "name" N "namespace" NS "rules" RULES). */}}
{{- define "psu.role" -}}
{{- $kind := empty .namespace | ternary "ClusterRole" "Role" -}}
{{- $name := printf "%s-%s" (include "psu.prefix" .root) .name -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . | quote }}
  {{- end }}
  {{- include "psu.metadata" (dict "root" .root) | nindent 2 }}
rules:
  {{- toYaml .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . | quote }}
  {{- end }}
  {{- include "psu.metadata" (dict "root" .root) | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: {{ $kind }}, name: {{ $name }}}
subjects:
{{ include "psu.subject" .root }}
{{- end }}
