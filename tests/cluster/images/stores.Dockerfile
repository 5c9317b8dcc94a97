# PostgreSQL, Redis, SeaweedFS and Prometheus for a trial of manifests/overlays/standalone where nothing can be pulled:
# Debian's packages, a program of this project's own environment, and the testbed's Prometheus, for Debian's cannot ask an
# API server for pods. build.sh makes it. The account has the number that the overlay runs PostgreSQL and Redis as.
ARG BASE=localhost/serinus-base:bookworm
FROM ${BASE}
RUN echo 'postgres:x:999:999::/var/lib/postgresql:/bin/sh' >> /etc/passwd && echo 'postgres:x:999:' >> /etc/group \
    && echo 'exit 101' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d \
    && apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends postgresql-15 redis-server \
    && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/15 /usr/sbin/policy-rc.d
COPY weed prometheus /usr/bin/
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
USER 999:999
