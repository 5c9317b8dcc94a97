#!/bin/sh
# SeaweedFS: an S3 of one process. What is inside it, which asks nobody for a password, listens on loopback alone, but for
# one port that the NetworkPolicy shuts. The bucket is made as soon as it can be, and the pod is ready once it is there.
set -eu
rm -f /tmp/bucket
{
    until echo s3.bucket.list | weed shell -master=127.0.0.1:9333 -filer=127.0.0.1:8888 2> /dev/null | grep -qw serinus
    do
        sleep 1
        echo s3.bucket.create -name serinus | weed shell -master=127.0.0.1:9333 -filer=127.0.0.1:8888 || true
    done > /dev/null 2>&1
    touch /tmp/bucket
} &
# Volumes grow to 256 MB and come seven at a time: as many as the disk has room for.
exec weed -logtostderr=true server -dir=/data -ip=127.0.0.1 -ip.bind=127.0.0.1 \
    -master.telemetry=false -master.volumeSizeLimitMB=256 -volume.max=0 -volume.port=8081 \
    -volume.preStopSeconds=1 \
    -filer -filer.localSocket=/tmp/filer.sock \
    -s3 -s3.ip.bind=0.0.0.0 -s3.port=8333 -s3.localSocket=/tmp/s3.sock -s3.autoCreateBucket=false \
    -s3.iam=false -s3.port.iceberg=0 -s3.port.lance=0
