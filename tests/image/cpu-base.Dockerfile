# Stands in for vllm/vllm-openai where no image can be pulled: Debian's Python with vLLM for CPUs, and the same entrypoint.
FROM localhost/worker-test-debian
RUN rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
COPY torch.lock base.lock /build/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip install --no-deps -r /build/torch.lock -r /build/base.lock
ENTRYPOINT ["vllm", "serve"]
