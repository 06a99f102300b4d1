# The gateway. Build it from the repository root (docs/deploy.md, "The gateway in a container"):
#   docker build -f service.Dockerfile -t YOU/vllm-service:0.1.0 .
# Another BASE_IMAGE needs Python 3.11 or newer as `python`, with pip.
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}

# true, for a release: refuse a base that is named by its tag alone, which may be moved (docs/deploy.md).
ARG REQUIRE_DIGEST=false
ARG BASE_IMAGE
RUN case "${REQUIRE_DIGEST}:${BASE_IMAGE}" in \
        false:*|true:*@sha256:*) ;; \
        *) echo "BASE_IMAGE=${BASE_IMAGE} has no digest: name it NAME:TAG@sha256:..., or run make lock-images" >&2; exit 1 ;; \
    esac

ENTRYPOINT []
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin service

WORKDIR /app

# Copied, not mounted: podman 4 does not look into mounts for what it has cached, and would keep packages of an older lock.
COPY requirements/service.lock requirements/tools.lock scripts/image/write_sbom.py supply/

# pip_conf: where packages come from, if not from pip's default. It is gone when the step ends, like the cache.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --no-deps --require-hashes --disable-pip-version-check -r supply/service.lock

# What is installed in this image, for scanners. The tools are gone when the step ends.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --quiet --no-deps --require-hashes --disable-pip-version-check --target /tmp/tools \
        -r supply/tools.lock \
    && python supply/write_sbom.py /tmp/tools sbom.cdx.json \
    && rm -rf /tmp/tools

COPY scripts/image/service_healthcheck.py ./
COPY vllm_service/ vllm_service/
# /config: providers.yaml and models.yaml, to be mounted. /data: SQLite's files, where there is no DATABASE_URL.
# Group 0 may write too: a user without a name, whom a platform or `docker run --user` chooses, is in it.
# Keys come in the environment when the container starts; nothing secret is built in.
RUN python -m compileall -q vllm_service && install -d -o service -g 0 -m 775 /config /data
ENV CONFIG_DIR=/config \
    DATA_DIR=/data \
    SERVICE_HOST=0.0.0.0 \
    SERVICE_PORT=8090 \
    REQUIRE_KEYS=true \
    LOG_FORMAT=json

ARG VERSION=0.1.0
ARG SOURCE_REVISION=unknown
LABEL org.opencontainers.image.title="vllm-service gateway" \
      org.opencontainers.image.description="One OpenAI-compatible address in front of your endpoint and hosted providers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${SOURCE_REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

# service, by number: platforms that refuse root look for one.
USER 10001
EXPOSE 8090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 CMD ["python", "/app/service_healthcheck.py"]
CMD ["python", "-u", "-m", "vllm_service", "serve"]
