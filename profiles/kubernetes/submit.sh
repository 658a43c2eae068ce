#!/bin/sh
# Submit a job script as a Kubernetes Job and print its name.
#
#   submit.sh CORES MEMORY_MB GPUS SCRIPT
#
# The pod mounts the volume at the path where this machine has it, so all paths are the same in it.
set -eu

image=${BRIDGE_IMAGE:?the container image with this environment, e.g. registry.example/bridge:0.1.0}
claim=${BRIDGE_CLAIM:?the name of the PersistentVolumeClaim (ReadWriteMany) that holds this folder}
mount=${BRIDGE_MOUNT:?the path at which it is mounted, here and in the pods, e.g. /bridge}

cores=$1 memory_mb=$2 gpus=$3 script=$4
name=bridge-$(date +%s)-$(od -An -N4 -tx4 /dev/urandom | tr -d ' ')
# Snakemake removes its script with its temporary folder; a pod that starts again still needs it.
kept=.snakemake/kubernetes/$name.sh
mkdir -p "$(dirname "$kept")"
cp "$script" "$kept"

# restartPolicy Never with a backoffLimit: each life is a pod of its own, and its log stays readable.
kubectl create -f - >/dev/null <<MANIFEST
apiVersion: batch/v1
kind: Job
metadata: {name: $name, labels: {app: bridge}}
spec:
  backoffLimit: 6
  ttlSecondsAfterFinished: 86400
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 180
      containers:
        - name: bridge
          image: $image
          workingDir: $(pwd)
          command: [/bin/sh, $(pwd)/$kept]
          resources:
            requests: {cpu: "$cores", memory: "${memory_mb}M"}
            limits: {memory: "${memory_mb}M", nvidia.com/gpu: "$gpus"}
          volumeMounts:
            - {name: shared, mountPath: $mount}
            - {name: memory, mountPath: /dev/shm}
      volumes:
        - {name: shared, persistentVolumeClaim: {claimName: $claim}}
        - {name: memory, emptyDir: {medium: Memory}}
MANIFEST
echo "$name"
