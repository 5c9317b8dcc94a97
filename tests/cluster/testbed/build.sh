#!/usr/bin/env bash
# build.sh LEVEL OUT: compile the programs that a level of the testbed runs into the folder OUT.
#   api      etcd, kube-apiserver, kubectl: definitions, validation, RBAC
#   control  and kube-controller-manager: garbage collection, namespaces that end, service accounts
#   node     and kube-scheduler, kubelet, kube-proxy, containerd, CoreDNS, pause: pods that run
set -euo pipefail
level=$1 out=$2
cd "$(dirname "$0")"

# The version that the module requires. Without it the programs call themselves v0.0.0 and kubectl warns of a skew.
version=$(awk '$1 == "k8s.io/kubernetes" { print $2; exit }' go.mod)
minor=${version#v1.} minor=${minor%%.*}
flags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$minor"
    flags+=" -X $package.gitTreeState=clean -X $package.buildDate=1970-01-01T00:00:00Z"
done

packages=(./cmd/hyperkube) tags=$level
if [ "$level" = node ]; then
    containerd=github.com/containerd/containerd/v2/cmd
    packages+=(./cmd/coredns ./cmd/pause "$containerd"/{containerd,containerd-shim-runc-v2,ctr})
    # Snapshots on other file systems than overlayfs.
    tags+=" no_btrfs no_zfs no_devmapper"
fi

export CGO_ENABLED=0
mkdir -p "$out"
# One go build for all keeps every core busy.
go build -trimpath -buildvcs=false -tags "$tags" -ldflags "$flags" -o "$out/" "${packages[@]}"
for program in $("$out/hyperkube" 2>&1 | sed 's/.*{\(.*\)}.*/\1/; s/|/ /g'); do ln -sf hyperkube "$out/$program"; done
