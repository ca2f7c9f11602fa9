#!/bin/sh
# Prints deploy/rules as PrometheusRules: what Prometheus reads from files elsewhere, for Prometheus Operator.
#   sh deploy/kubernetes/prometheus-rules.sh | kubectl apply -n penstock -f -
# An argument becomes the label `release`, by which kube-prometheus-stack chooses its rules.
set -eu
for file in "$(dirname "$0")"/../rules/*.yml; do
  cat <<HEAD
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: $(basename "$file" .yml)
  labels: {app.kubernetes.io/part-of: penstock${1:+, release: $1}}
spec:
HEAD
  sed 's/^/  /' "$file"
done
