# Three images from one file: `pipeline` trains, `serving` predicts, `operator` decides.
#
#   docker build --target serving --tag serinus-serving .          (or buildah, podman; make images builds all three)
#
# What serving and pipeline have in common, PyTorch above all, is one layer, made once. The project itself comes last, so
# that a change of code is a layer of 4 MB. Nothing that builds is in a final image: uv is mounted
# while it installs and gone afterwards, and what it installs is in the hashed files of requirements/.
#
#   BASE           a Debian or Ubuntu with Python 3.11. Pin yours: BASE=...@sha256:...
#   TORCH_INDEX    a package index with another build of the same PyTorch, such as that for processors alone
#   SSL_CERT_FILE  certificates that installers trust, where a proxy has its own; a path inside the build
#   REVISION       of the source, for the label
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# -- what builds ------------------------------------------------------------------------------------------------------
FROM ${BASE} AS tools
ARG SSL_CERT_FILE
COPY requirements/uv.txt requirements/build.txt /tmp/
RUN python3 -m venv /opt/tools \
    && PIP_CERT="${SSL_CERT_FILE:-}" /opt/tools/bin/python -m pip install --quiet --disable-pip-version-check \
        --no-cache-dir --require-hashes -r /tmp/uv.txt \
    && /opt/tools/bin/uv pip install --quiet --no-cache --python /opt/tools/bin/python --require-hashes \
        -r /tmp/build.txt

# The project in an environment of its own at its final path: copied over one with its dependencies, it adds itself. uv
# notes the time of the file that it installed, which would be the layer's only difference between two builds.
FROM tools AS project
COPY requirements/image.sh /opt/
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY pipelines pipelines
COPY components components
COPY serving serving
RUN SOURCE_DATE_EPOCH=1577836800 /opt/tools/bin/python -m hatchling build --target wheel --directory /wheels \
    && /opt/image.sh /opt/tools --no-deps --no-index --find-links /wheels serinus \
    && cd /opt/serinus/lib/python3.11/site-packages/serinus-*.dist-info \
    && rm uv_cache.json && sed -i '/uv_cache.json/d' RECORD

# -- what runs --------------------------------------------------------------------------------------------------------
FROM ${BASE} AS runtime
# The account is written as text: useradd also writes the day, a backup and two logs. Some bases bring a pip.
RUN echo 'serinus:x:65532:65532::/tmp:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'serinus:x:65532:' >> /etc/group \
    && mkdir -p /work /var/run/serinus && chown 65532:65532 /work /var/run/serinus \
    && if python3 -m pip --version > /dev/null 2>&1; then \
        python3 -m pip uninstall --quiet --yes --root-user-action=ignore pip setuptools wheel; fi
# Nothing can be written but /tmp where the root file system is read-only: libraries keep their caches there.
ENV PATH=/opt/serinus/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /work

FROM runtime AS common
ARG SSL_CERT_FILE
ARG TORCH_INDEX=
COPY requirements/image.sh requirements/common.txt /opt/serinus/pins/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/tmp/tools \
    TORCH_INDEX="${TORCH_INDEX}" sh /opt/serinus/pins/image.sh /tmp/tools -r /opt/serinus/pins/common.txt

# Kubeflow Pipelines gives the command of each step, and keeps what steps hand on in one of three folders of the root.
FROM common AS pipeline
RUN mkdir /gcs /minio /s3 && chown 65532:65532 /gcs /minio /s3
ARG SSL_CERT_FILE
ARG TORCH_INDEX=
COPY requirements/train.txt /opt/serinus/pins/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/tmp/tools \
    TORCH_INDEX="${TORCH_INDEX}" sh /opt/serinus/pins/image.sh /tmp/tools -r /opt/serinus/pins/train.txt
COPY --from=project /opt/serinus /opt/serinus
USER 65532:65532
ARG REVISION=unknown
LABEL org.opencontainers.image.title="serinus-pipeline" \
    org.opencontainers.image.description="Steps of Serinus' training pipelines; its MLflow also serves as registry." \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="${REVISION}"

FROM common AS serving
ARG SSL_CERT_FILE
ARG TORCH_INDEX=
COPY requirements/serve.txt /opt/serinus/pins/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/tmp/tools \
    TORCH_INDEX="${TORCH_INDEX}" sh /opt/serinus/pins/image.sh /tmp/tools -r /opt/serinus/pins/serve.txt
COPY --from=project /opt/serinus /opt/serinus
USER 65532:65532
EXPOSE 8080 8081 9109
ENTRYPOINT ["serinus"]
CMD ["pod"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title="serinus-serving" \
    org.opencontainers.image.description="One version of a model: TorchServe behind Envoy, features from Feast." \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="${REVISION}"

FROM runtime AS operator
ARG SSL_CERT_FILE
COPY requirements/image.sh requirements/operator.txt /opt/serinus/pins/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/tmp/tools \
    sh /opt/serinus/pins/image.sh /tmp/tools -r /opt/serinus/pins/operator.txt
COPY --from=project /opt/serinus /opt/serinus
USER 65532:65532
EXPOSE 8080 9090
ENTRYPOINT ["serinus"]
CMD ["operator", "--address=0.0.0.0"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title="serinus-operator" \
    org.opencontainers.image.description="Rolls out model versions and runs continuous training." \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="${REVISION}"
