"""The client at an emulated endpoint: emulator, worker process and real vLLM, with nothing faked between."""
