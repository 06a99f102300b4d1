"""The commands of `python -m vllm_service`, one module each: `run(arguments) -> exit code`."""
