"""What `python -m vllm_service COMMAND` runs: one module each, with `run(arguments) -> exit code`."""
