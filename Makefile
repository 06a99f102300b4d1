# Everything runs from .venv, made by `make setup` from the lock files; nothing is installed twice.
# Commands are `python -m ...`, never .venv/bin/NAME: scripts there hold absolute paths and break in a copied checkout.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PY := $(VENV)/bin/python
LOCKS := requirements/torch-cpu.lock requirements/dev.lock
INSTALLED := $(VENV)/installed-$(shell cat $(LOCKS) | cksum | cut -d ' ' -f 1)
LOCKED := --no-deps --require-hashes
TOOLS := build/tools-$(shell cksum < requirements/tools.lock | cut -d ' ' -f 1)
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

# How many processes the tests run in; tests/groups.py divides them.
PROCESSES := 2

.DEFAULT_GOAL := help
.PHONY: help setup run serve deploy-demo emulator bench-worker bench-cold-start bench-client bench-gateway bench-isolation bench-affinity bench-against bench-linear entered-files test test-image lint-image check audit sbom lock-images lock train-demo-model clean

help:  ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

setup: $(INSTALLED)  ## make .venv with everything that run and test need (empties an older .venv first)

$(INSTALLED): | $(LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	@test ! -L $(VENV) || { echo "$(VENV) is a link, and what it names would be emptied. Remove the link, then run make again."; exit 1; }
	@echo "== making $(VENV) (once; a few minutes, about 2.5 GB)"
	$(PYTHON) -m venv --clear $(VENV)
	@echo "== installing PyTorch for CPUs, from where pip is configured to look, else from PyTorch's own index"
	$(PY) -m pip install $(LOCKED) --progress-bar on -r requirements/torch-cpu.lock || \
	$(PY) -m pip install $(LOCKED) --progress-bar on --index-url $(TORCH_CPU_INDEX) -r requirements/torch-cpu.lock
	@echo "== installing the locked packages"
	$(PY) -m pip install $(LOCKED) --progress-bar on -r requirements/dev.lock
	@touch $@

run: setup  ## answer test_input.json once with vLLM and print the result (MODEL_NAME=... for a real model)
	@$(PY) handler.py --test_input

serve: setup  ## run gateway, emulated RunPod with the demo model and emulated hosted provider, with a page to try them
	@$(PY) -m scripts.try_gateway

deploy-demo: setup  ## plan, apply, answer, status and destroy of `deploy`, with a real worker on an emulated RunPod
	@$(PY) -m scripts.deploy_demo

emulator: setup  ## run a local RunPod on port 8000 that starts workers when jobs come (MODEL_NAME=... for a real model)
	MODEL_NAME=$${MODEL_NAME:-$(CURDIR)/demo_model} $(PY) -m runpod_emulator --worker "$(PY) handler.py" --max-workers 2

bench-worker: setup  ## measure the job loop's cost, against the same upstream called directly
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -m benchmarks.worker

bench-cold-start: setup  ## measure process start to first token, against vLLM as a polled server
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -m benchmarks.cold_start

bench-client: setup  ## measure the cost of a client's call, against the openai SDK alone
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -m benchmarks.client

bench-gateway: setup  ## measure the cost of a request through the gateway, beside nginx, vllm-router and LiteLLM
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -m benchmarks.gateway

bench-isolation: setup  ## measure one good organisation beside each attacker: answers, p99, memory, health
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -m benchmarks.isolation

bench-affinity: setup  ## measure the cached share of prompts: conversations kept on their workers, against not
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -m benchmarks.affinity

bench-linear: setup  ## measure CPU per byte of every parser and relay, by the size of message and pieces
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -m benchmarks.linear

bench-against: setup  ## measure CPU of gateway, LLMRouter and worker beside another checkout's: make bench-against BASE=path
	@test -n "$(BASE)" || { echo "another checkout of this repository is needed: make bench-against BASE=path"; exit 2; }
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -m benchmarks.against $(BASE)

entered-files: setup  ## count the files that one request, one job and one call of LLMRouter enter
	@env -u PYTHONDONTWRITEBYTECODE $(PY) -m scripts.entered_files

test: check  ## run every check and every test, in two processes (PROCESSES=0: in one, in the order of the files)
	$(PY) -m pytest -n $(PROCESSES)

test-image: setup lint-image  ## build both Dockerfiles on a base of Debian packages and run them (podman, mmdebstrap; root)
	@for tool in podman runc mmdebstrap; do command -v $$tool >/dev/null || { echo "$$tool is needed: see docs/deploy.md"; exit 1; }; done
	$(PY) -m pytest tests/image -o python_files='check_*.py' --timeout 3600 -v

lint-image: $(TOOLS)  ## run hadolint on both Dockerfiles
	$(TOOLS)/bin/hadolint worker.Dockerfile service.Dockerfile

# uv, hadolint, and what writes an SBOM; beside the environment, not in it.
$(TOOLS): | setup
	$(PY) -m pip install --quiet $(LOCKED) --target $@ -r requirements/tools.lock

sbom: $(TOOLS)  ## write a bill of materials (CycloneDX, JSON) of each lock file into build/sbom
	@$(PY) -m scripts.sbom --tools $(TOOLS) build/sbom

lock-images: setup  ## write the digests of the base images into the Dockerfiles (docker or skopeo, and a network)
	@$(PY) -m scripts.lock_images

check: setup  ## run formatter, linter and type checker
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

audit: setup  ## look up every locked package in the vulnerability database (AUDIT_OFFLINE=ok: no failure without one)
	@$(PY) -m scripts.audit --offline "$(AUDIT_OFFLINE)" $(AUDIT_OPTIONS)

lock: $(TOOLS)  ## resolve pyproject.toml anew into requirements/*.lock, with hashes
	PYTHONPATH=$(TOOLS) $(PY) -m scripts.lock

train-demo-model: setup  ## train demo_model/ again from its pairs
	$(PY) -m scripts.train_demo_model

clean:  ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
