#!/bin/sh
# Print whether a Kubernetes Job is running, success or failed.
set -eu
said=$(kubectl get job "$1" -o 'jsonpath={range .status.conditions[?(@.status=="True")]}{.type} {end}') ||
    { echo running; exit 0; } # the server did not answer; ask again
case " $said " in
*" Complete "*) echo success ;;
*" Failed "*) echo failed ;;
*) echo running ;;
esac
