{{- define "kryton.name" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end }}

{{- define "kryton.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "kryton.name" .) .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "kryton.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "kryton.secretName" -}}
{{- .Values.env.existingSecret | default (printf "%s-secret" (include "kryton.fullname" .)) -}}
{{- end }}

{{- define "kryton.claimName" -}}
{{- .Values.persistence.existingClaim | default (printf "%s-data" (include "kryton.fullname" .)) -}}
{{- end }}

{{- define "kryton.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "kryton.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{- define "kryton.postgresql.fullname" -}}
{{- .Values.postgresql.fullnameOverride | default (printf "%s-postgresql" .Release.Name) -}}
{{- end }}

{{- define "kryton.postgresql.secretName" -}}
{{- .Values.postgresql.auth.existingSecret | default (include "kryton.postgresql.fullname" .) -}}
{{- end }}

{{- define "kryton.postgresql.claimName" -}}
{{- .Values.postgresql.primary.persistence.existingClaim | default (printf "data-%s-0" (include "kryton.postgresql.fullname" .)) -}}
{{- end }}

{{- define "kryton.postgresql.image" -}}
{{- with .Values.postgresql.image -}}
{{- if .registry }}{{ .registry }}/{{ end }}{{ .repository }}:{{ .tag -}}
{{- end -}}
{{- end }}

{{/* Labels that selectors use. They cannot change in an upgrade. */}}
{{- define "kryton.selectorLabels" -}}
app.kubernetes.io/name: {{ include "kryton.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kryton.labels" -}}
{{ include "kryton.selectorLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | regexFind "^[^@]+" | trunc 63 | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* A ConfigMap's or Secret's value. Helm reads 1000000 as a float, and would print 1e+06. */}}
{{- define "kryton.text" -}}
{{- if kindIs "float64" . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end }}

{{/* A key of a Secret of this release as the cluster has it, or nothing: dict "root" $ "secret" name "key" key */}}
{{- define "kryton.kept" -}}
{{- $secret := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- index ($secret.data | default dict) .key | default "" | b64dec -}}
{{- end }}

{{/* A key of the bundled database's Secret: dict "root" $ "key" key "given" value. What the database was made with stays. */}}
{{- define "kryton.postgresql.credential" -}}
{{- $secret := include "kryton.postgresql.fullname" .root -}}
{{- $kept := include "kryton.kept" (dict "root" .root "secret" $secret "key" .key) -}}
{{- if and $kept .given (ne $kept .given) -}}
{{- fail (printf "postgresql.auth: the value given for %s is not what the database was made with. Change the database first (ALTER ROLE, ALTER DATABASE), then the Secret %s." .key $secret) -}}
{{- end -}}
{{- $kept | default .given | default (randAlphaNum 32) -}}
{{- end }}

{{- define "kryton.postgresql.isUsed" -}}
{{- if and .Values.postgresql.enabled (not .Values.env.secret.POSTGRES_URL) }}yes{{ end -}}
{{- end }}
