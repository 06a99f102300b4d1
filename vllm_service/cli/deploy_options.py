"""The arguments of the deploy verbs that specify a deployment: deploy.yaml, and one argument for each of its keys."""

from __future__ import annotations

import argparse
from pathlib import Path

from vllm_service.deployment.spec import DeploymentSpec
from vllm_service.deployment.spec_file import CHOICE_KEYS, KEYS, MAPPING_KEYS, flag, read_spec

#: The file that is read where it is there and none is named.
DEFAULT_FILE = Path("deploy.yaml")
_HELP = {
    "name": "the endpoint's name at RunPod (default: the model's name)",
    "model": "the model to serve: ORGANISATION/NAME of the hub, or a directory of the worker",
    "revision": "a branch, tag or commit of the model (default: the main branch)",
    "image": "the worker's image, with a tag or digest",
    "min_cuda_version": "the lowest CUDA version of a host, or `any` (default: 13.0)",
    "registry_id": "RunPod's id of the credentials for a private registry",
    "network_volume": "the name of a network volume, which is made where there is none (default: none)",
    "data_center": "RunPod's id of the data centre, such as EU-RO-1 (default: RunPod chooses)",
    "kv_cache_dtype": "vLLM's type of the KV cache, such as fp8 (default: auto)",
    "quantization": "vLLM's method of quantisation (default: what the model's files say)",
    "gpus_per_worker": "GPUs of one worker, among which the model is sharded (default: 1)",
    "workers_min": "workers that run all the time (default: 0)",
    "workers_max": "workers at most (default: 3)",
    "idle_timeout_seconds": "how long a worker waits for the next request before it stops (default: 10)",
    "execution_timeout_seconds": "the longest a request may take (default: 600)",
    "disk_gb": "the container's disk (default: RunPod's)",
    "network_volume_gb": "the size of a volume that is made (default: 100)",
    "context_length": "tokens of the longest conversation (default: the model's own)",
    "concurrency": "conversations of that length for which the KV cache has room (default: 1)",
    "endpoint_type": "how requests reach workers (default: queue)",
    "scaler": "the signal for more workers (default: queue_delay; request_count without a queue)",
    "flashboot": "RunPod's faster starts (default: flashboot)",
    "container": "where image and variables stand: in the endpoint or in a template (default: inline)",
    "scaler_value": "seconds of waiting, or requests per worker, before a worker is added (default: 4)",
    "gpu_pools": "RunPod's GPU pools in the order of preference, with commas (default: cheapest)",
    "lora_modules": "adapters, each NAME=PATH",
    "environment": "variables of the worker, each NAME=VALUE",
    "secrets": "secret variables of the worker, each NAME=LOCAL_VARIABLE, or NAME where both have one name",
}


def add_spec_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --file, and one argument for each key of deploy.yaml, which wins over the file."""
    parser.add_argument(
        "--file", type=Path, metavar="FILE", help=f"the specification (default: {DEFAULT_FILE}, where it is there)"
    )
    group = parser.add_argument_group("the specification", "each wins over the file's key of the same name")
    for key in KEYS:
        if key in MAPPING_KEYS:
            group.add_argument(flag(key), nargs="+", action="extend", metavar="NAME=VALUE", help=_HELP[key])
        elif key in CHOICE_KEYS:
            choices = [choice.value.lower() for choice in CHOICE_KEYS[key]]
            group.add_argument(flag(key), choices=choices, help=_HELP[key])
        else:
            group.add_argument(flag(key), metavar="VALUE", help=_HELP[key])


def spec_of(options: argparse.Namespace) -> DeploymentSpec:
    """Returns the specification of the file and the arguments. Raises ConfigurationError with every mistake."""
    file = options.file
    if file is None and DEFAULT_FILE.is_file():
        file = DEFAULT_FILE
    given = {key: getattr(options, key) for key in KEYS}
    return read_spec(file, {key: value for key, value in given.items() if value is not None})
