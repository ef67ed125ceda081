{{- define "psu.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "psu.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "psu.name" .) .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name (include "psu.name" .) | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "psu.namespace" -}}
{{ default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- /* Begins the name of everything that isn't in a namespace, so that no two releases share one. */}}
{{- define "psu.prefix" -}}
{{ printf "%s-%s" (include "psu.namespace" .) (include "psu.fullname" .) }}
{{- end }}

{{- define "psu.serviceAccountName" -}}
{{ default (include "psu.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "psu.selector" -}}
app.kubernetes.io/name: {{ include "psu.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Labels and annotations of every object; takes (dict "root" $ "labels" {} "annotations" {}). The object's own labels win over
ours, and ours over those for all, since the monitors select by ours. */}}
{{- define "psu.metadata" -}}
{{- $root := .root -}}
{{- $ours := include "psu.selector" $root | fromYaml -}}
{{- $_ := set $ours "app.kubernetes.io/version" $root.Chart.AppVersion -}}
{{- $_ := set $ours "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $ours "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") -}}
labels:
  {{- mergeOverwrite (dict) $root.Values.commonLabels $ours (default dict .labels) | toYaml | nindent 2 }}
{{- with mergeOverwrite (dict) $root.Values.commonAnnotations (default dict .annotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "psu.subject" -}}
- {kind: ServiceAccount, name: {{ include "psu.serviceAccountName" . | quote }}, namespace: {{ include "psu.namespace" . | quote }}}
{{- end }}

{{- /* The controller's file: `config` as it is, and what only the chart knows. */}}
{{- define "psu.config" -}}
{{- $own := dict "requirePolicies" .Values.policies.enabled "policyPrefix" (include "psu.prefix" .) -}}
{{ toYaml (mergeOverwrite $own (deepCopy .Values.config)) }}
{{- end }}

{{- define "psu.scope" -}}{{ default "name" .Values.config.scope }}{{- end }}

{{- define "psu.secretNames" -}}{{ toJson (default (list "pull-secret") .Values.config.secretNames) }}{{- end }}

{{- /* Names and identities of the targets; `exact` if every namespace is named exactly, so that none has to be watched. */}}
{{- define "psu.targets" -}}
{{- $secrets := list -}}{{- $identities := list -}}{{- $namespaces := list -}}{{- $accounts := list -}}{{- $exact := true -}}{{- $proven := false -}}
{{- range .Values.config.targets -}}
{{- $secrets = append $secrets (default "pull-secret" .secretName) -}}
{{- $identities = append $identities (empty .provider | ternary .identity (printf "%s:%s" (toString .provider) .identity)) -}}
{{- $accounts = concat $accounts (default list .serviceAccounts) -}}
{{- if .serviceAccount -}}{{- $proven = true -}}{{- end -}}
{{- range concat (default list .namespaces) (default list .exclude) -}}
{{- if or .selector (not .names) -}}{{- $exact = false -}}{{- end -}}
{{- range .names -}}
{{- if regexMatch "[*?]" . -}}{{- $exact = false -}}{{- end -}}
{{- $namespaces = append $namespaces . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $asking := default dict .Values.config.serviceAccounts -}}
{{- $asks := eq (toString (default false $asking.enabled)) "true" -}}
{{- if $asks -}}
{{- $accounts = concat $accounts (default (list "pull-secret") $asking.names) -}}
{{- $secrets = concat $secrets (include "psu.secretNames" . | fromJsonArray) -}}
{{- $exact = false -}}
{{- end -}}
{{ toJson (dict "any" (or $asks (gt (len $identities) 0)) "asks" $asks "secrets" ($secrets | uniq | sortAlpha) "identities" ($identities | uniq | sortAlpha) "namespaces" ($namespaces | uniq | sortAlpha) "accounts" ($accounts | uniq | sortAlpha) "exact" $exact "proven" $proven "targets" (gt (len (default list .Values.config.targets)) 0)) }}
{{- end }}

{{- /* Whether tokens of tenants' ServiceAccounts are requested, and of which. */}}
{{- define "psu.proof" -}}
{{- $targets := include "psu.targets" . | fromJson -}}
{{- $names := list -}}
{{- $needed := or $targets.asks $targets.proven -}}
{{- range .Values.config.targets -}}{{- with .serviceAccount -}}{{- $names = append $names . -}}{{- end -}}{{- end -}}
{{- if $targets.asks -}}{{- $names = concat $names (default (list "pull-secret") (default dict .Values.config.serviceAccounts).names) -}}{{- end -}}
{{- range $name, $provider := default dict .Values.config.providers -}}
{{- if eq (toString $provider.proof) "serviceAccount" -}}{{- $needed = true -}}{{- end -}}
{{- end -}}
{{ toJson (dict "needed" $needed "names" (default (list "pull-secret") ($names | uniq | sortAlpha))) }}
{{- end }}

{{- /* The projected tokens that the providers present: a list of {directory, file, audience}, each file once. What is below
/var/run/secrets/ comes from a webhook of the cloud, as with IRSA, EKS Pod Identity and Azure's workload identity. */}}
{{- define "psu.proofs" -}}
{{- $proofs := dict -}}
{{- range $name, $p := default dict .Values.config.providers -}}
{{- $file := toString (default "" $p.tokenFile) -}}{{- $audience := toString (default "" $p.audience) -}}
{{- if eq (toString $p.type) "chainguard" -}}
{{- $file = default "/var/run/chainguard/oidc/oidc-token" $file -}}{{- $audience = default "issuer.enforce.dev" $audience -}}
{{- else if eq (toString $p.type) "quay" -}}
{{- $file = default "/var/run/quay/oidc/oidc-token" $file -}}{{- $audience = default "quay.io" $audience -}}
{{- else if eq (toString $p.type) "acr" -}}{{- $audience = default "api://AzureADTokenExchange" $audience -}}
{{- else if has (toString $p.type) (list "ecr" "ecr-public") -}}{{- $audience = default (eq (toString $p.credentials) "podIdentity" | ternary "pods.eks.amazonaws.com" "sts.amazonaws.com") $audience -}}
{{- else if eq (toString $p.type) "google" -}}
{{- $pool := toString (default "" $p.workloadIdentityProvider) -}}
{{- $audience = default (hasPrefix "identitynamespace:" $pool | ternary (regexReplaceAll "^identitynamespace:([^:]*):.*$" $pool "${1}") (printf "https://iam.googleapis.com/%s" (trimPrefix "/" $pool))) $audience -}}
{{- end -}}
{{- if and $file $audience (ne (toString $p.proof) "serviceAccount") (not (hasPrefix "/var/run/secrets/" $file)) -}}
{{- $_ := set $proofs $file (dict "directory" (dir $file) "file" (base $file) "audience" $audience "provider" $name) -}}
{{- end -}}
{{- end -}}
{{ toJson (values $proofs) }}
{{- end }}

{{- define "psu.image" -}}
{{- $name := empty .Values.image.registry | ternary .Values.image.repository (printf "%s/%s" .Values.image.registry .Values.image.repository) -}}
{{- if .Values.image.digest -}}
{{ printf "%s@%s" $name .Values.image.digest }}
{{- else -}}
{{ printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) }}
{{- end -}}
{{- end }}

{{- /* The files that providers read, by directory: a list of {name, path, sources}. */}}
{{- define "psu.directories" -}}
{{- $found := dict -}}
{{- range include "psu.proofs" . | fromJsonArray -}}
{{- $source := dict "serviceAccountToken" (dict "path" .file "audience" .audience "expirationSeconds" 7200) -}}
{{- $_ := set $found .directory (append (default list (get $found .directory)) $source) -}}
{{- end -}}
{{- $root := . -}}
{{- range .Values.credentials -}}
{{- $provider := get (default dict $root.Values.config.providers) .provider -}}
{{- $secret := .existingSecret -}}
{{- range $key, $where := .keys -}}
{{- $file := include "psu.credentialFile" (dict "provider" $provider "where" $where "key" $key) -}}
{{- $source := dict "secret" (dict "name" $secret "items" (list (dict "key" $key "path" (base $file)))) -}}
{{- $_ := set $found (dir $file) (append (default list (get $found (dir $file))) $source) -}}
{{- end -}}
{{- end -}}
{{- $all := list -}}
{{- range $index, $path := keys $found | sortAlpha -}}
{{- $all = append $all (dict "name" (printf "files-%d" $index) "path" $path "sources" (get $found $path)) -}}
{{- end -}}
{{ toJson $all }}
{{- end }}

{{- /* Where a provider looks for a key: at the path in its own configuration, or at its default. */}}
{{- define "psu.credentialFile" -}}
{{- $value := .provider -}}
{{- range splitList "." .where -}}{{- $value = kindIs "map" $value | ternary (get (default dict $value) .) "" -}}{{- end -}}
{{- if kindIs "map" $value -}}{{- $value = default "" $value.file -}}{{- end -}}
{{- default (printf "/var/run/%s/%s" (toString .provider.type) .key) $value -}}
{{- end }}

{{- /* The kinds of the Prometheus operator that are switched on, whose CRD isn't there, and which crdCheck leaves out. */}}
{{- define "psu.skipped" -}}
{{- $root := . -}}
{{- $skipped := list -}}
{{- if ne .Values.metrics.crdCheck "none" -}}
{{- range $kind, $key := dict "ServiceMonitor" "serviceMonitor" "PodMonitor" "podMonitor" "PrometheusRule" "rules" -}}
{{- if and (get $root.Values.metrics $key).enabled (not ($root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" $kind))) -}}
{{- $skipped = append $skipped $kind -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ toJson $skipped }}
{{- end }}
