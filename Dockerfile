# hack/image builds this, with docker, podman or buildah.
#
# Both stages use BASE, the official image of Python 3.13.15 on Debian trixie. Any image with python3 (3.11 or later, with venv) and
# CA certificates will do.
ARG BASE=docker.io/library/python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# The locks have a hash of everything that is installed, and of setuptools, which builds it (taken from the development lock).
# /opt/pull-secret-updater goes into the image, and has no pip; `tools` stays behind in this stage.
COPY hack/requirements/runtime.txt hack/requirements/dev.txt ./
RUN python3 -m venv --without-pip /opt/pull-secret-updater && python3 -m venv tools \
 && sed -n '/^setuptools==/,/[^\\]$/p' dev.txt > tools.txt \
 && tools/bin/pip install --require-hashes -r tools.txt \
 && tools/bin/pip --python /opt/pull-secret-updater install --no-compile --require-hashes -r runtime.txt

# The time of all files in our wheel, in seconds since 1970; by default the oldest that a wheel can have.
ARG SOURCE_DATE_EPOCH=315532800
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY controller controller
# controller/kube/policies is a link to these.
COPY manifests/policies manifests/policies
# Compile now, since the root file system will be read-only; Python then uses the bytecode without checking the sources. -f: also what
# pip has imported, whose bytecode would depend on the time of the build.
RUN tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheels . \
 && tools/bin/pip --python /opt/pull-secret-updater install --no-compile --no-deps --no-index wheels/*.whl \
 && python3 -m compileall -qf --invalidation-mode unchecked-hash /opt/pull-secret-updater/lib

FROM ${BASE}
ARG BASE
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pull-secret-updater" \
      org.opencontainers.image.description="Keeps Kubernetes image pull Secrets filled with short-lived registry tokens" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=build /opt/pull-secret-updater /opt/pull-secret-updater
# On PATH for `kubectl exec deployment/controller -- pull-secret-updater status`.
ENV PATH=/opt/pull-secret-updater/bin:${PATH} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1
# A number, since `runAsNonRoot` can't resolve names.
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/opt/pull-secret-updater/bin/pull-secret-updater"]
CMD ["run"]
