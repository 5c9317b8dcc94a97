# A project's own pipeline image, as docs/install.md says to make one: the tiny project, for tests on a cluster.
ARG PIPELINE
FROM ${PIPELINE}
COPY tests/projects/tiny /project
