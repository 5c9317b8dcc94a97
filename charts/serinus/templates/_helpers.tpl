{{/* A file of manifests/ as it is, in the release's namespace. */}}
{{- define "serinus.file" -}}
{{- $text := .root.Files.Get .path -}}
{{- if not $text }}{{ fail (printf "the chart lacks %s" .path) }}{{ end -}}
{{- $text | replace "serinus-system" .root.Release.Namespace -}}
{{- end -}}

{{- define "serinus.image" -}}
{{- printf "%s%s:%s" .root.Values.images.prefix .name (.root.Values.images.tag | default .root.Chart.AppVersion) -}}
{{- end -}}

{{- define "serinus.password" -}}
{{- $known := lookup "v1" "Secret" .Release.Namespace "serinus-stores" -}}
{{- if .Values.standalone.password -}}
{{- .Values.standalone.password -}}
{{- else if $known -}}
{{- index $known.data "password" | b64dec -}}
{{- else -}}
{{- randAlphaNum 24 -}}
{{- end -}}
{{- end -}}

{{- define "serinus.settings" -}}
SERINUS_GATEWAY: {{ printf "%s/%s" (.Values.gateway.namespace | default .Release.Namespace) .Values.gateway.name | quote }}
SERINUS_DOMAIN: {{ .Values.gateway.domain | quote }}
SERINUS_PROMETHEUS_URL: {{ .Values.prometheus.url | default (printf "http://prometheus.%s.svc:9090" .Release.Namespace) | quote }}
SERINUS_NAMESPACES: {{ join "," .Values.operator.namespaces | quote }}
SERINUS_PIPELINES_URL: {{ .Values.pipelines.url | quote }}
{{- if .Values.pipelines.multiUser }}
SERINUS_PIPELINES_MULTI_USER: "true"
SERINUS_PIPELINES_TOKEN_FILE: /var/run/secrets/kubeflow/pipelines/token
{{- end }}
{{- with .Values.pipelines.serviceAccount }}
SERINUS_PIPELINES_ACCOUNT: {{ . | quote }}
{{- end }}
SERINUS_SCRAPE_INTERVAL: {{ .Values.prometheus.scrapeInterval | default (ternary "1s" (ternary "5s" "15s" .Values.monitoring.enabled) .Values.standalone.enabled) | quote }}
{{- end -}}
