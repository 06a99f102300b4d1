# The worker on vLLM's own image. Build it from the repository root (docs/deploy.md):
#   docker build -f worker.Dockerfile -t YOU/vllm-worker:0.1.0 .
# The tag is the release that pyproject.toml pins; a test holds them together.
ARG BASE_IMAGE=vllm/vllm-openai:v0.32.0
FROM ${BASE_IMAGE}

# true, for a release: refuse a base that is named by its tag alone, which may be moved (docs/deploy.md).
ARG REQUIRE_DIGEST=false
ARG BASE_IMAGE
RUN case "${REQUIRE_DIGEST}:${BASE_IMAGE}" in \
        false:*|true:*@sha256:*) ;; \
        *) echo "BASE_IMAGE=${BASE_IMAGE} has no digest: name it NAME:TAG@sha256:..., or run make lock-images" >&2; exit 1 ;; \
    esac

# The base starts vLLM's server; this image starts the worker. Its Python is `python3` only.
ENTRYPOINT []
RUN command -v python >/dev/null || ln -s "$(command -v python3)" /usr/local/bin/python
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin worker

WORKDIR /app

# Copied, not mounted: podman 4 does not look into mounts for what it has cached, and would keep packages of an older lock.
COPY pyproject.toml requirements/worker-gpu.lock requirements/overrides.txt requirements/tools.lock \
    scripts/image/install_on_base.py scripts/image/write_sbom.py supply/

# pip_conf: where packages come from, if not from pip's default. It is gone when the step ends, like the cache.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    python supply/install_on_base.py supply/pyproject.toml supply/worker-gpu.lock supply/overrides.txt

# What is installed in this image, for scanners. The tools are gone when the step ends.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --quiet --no-deps --require-hashes --target /tmp/tools -r supply/tools.lock \
    && python supply/write_sbom.py /tmp/tools sbom.cdx.json \
    && rm -rf /tmp/tools

# A volume is mounted over /runpod-volume; without one, the same paths are on the container's disk.
# The compile caches are not named here: the worker chooses them by GPU and model.
ENV BAKED_MODELS_DIR=/models \
    HF_HOME=/runpod-volume/huggingface-cache \
    XDG_CACHE_HOME=/runpod-volume/.cache
# Group 0 may write too: a user without a name, whom a platform or `docker run --user` chooses, is in it.
RUN install -d -o worker -g 0 -m 775 "${BAKED_MODELS_DIR}" /runpod-volume

COPY demo_model/ demo_model/
COPY scripts/image/healthcheck.py handler.py test_input.json ./
COPY handler/ handler/
RUN python -m compileall -q handler handler.py

# A model in the image: --build-arg MODEL_NAME=org/name, and for a gated one --secret id=HF_TOKEN,env=HF_TOKEN.
# The token is read from a mount that is in no layer; an ARG or ENV would stay in the image's history.
ARG MODEL_NAME=""
ARG MODEL_REVISION=""
ARG HF_ENDPOINT
# Declared above a RUN: podman 4 forgets arguments when it looks for a cached USER.
ARG RUN_AS=root
RUN --mount=type=secret,id=HF_TOKEN \
    if [ -n "${MODEL_NAME}" ]; then \
        if [ -s /run/secrets/HF_TOKEN ]; then HF_TOKEN="$(cat /run/secrets/HF_TOKEN)" && export HF_TOKEN; fi \
        && HF_HOME=/tmp/hub XDG_CACHE_HOME=/tmp/hub python -m handler download --directory "${BAKED_MODELS_DIR}" \
        && rm -rf /tmp/hub \
        && chmod -R a+rX "${BAKED_MODELS_DIR}"; \
    fi
ENV MODEL_NAME=${MODEL_NAME} \
    MODEL_REVISION=${MODEL_REVISION}

ARG VERSION=0.1.0
ARG SOURCE_REVISION=unknown
LABEL org.opencontainers.image.title="vllm-service worker" \
      org.opencontainers.image.description="A RunPod serverless worker that serves vLLM" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${SOURCE_REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

# RunPod documents no setting for the user and no owner of what it mounts at /runpod-volume. So the worker starts as root
# and becomes WORKER_USER where that user can write to the volume (docs/deploy.md, "Which user"); RUN_AS=worker is never root.
ENV WORKER_USER=worker
USER ${RUN_AS}

STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m --retries=3 CMD ["python", "/app/healthcheck.py"]
CMD ["python", "-u", "handler.py"]
