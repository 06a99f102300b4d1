"""Emulated hosted providers: OpenAI's API with settable speed, prices and faults, a bill, and exact counts."""

from runpod_emulator.hosted.answers import count_tokens, expected_answer, prompt_text
from runpod_emulator.hosted.faults import HostedFaults
from runpod_emulator.hosted.server import HostedProviders
from runpod_emulator.hosted.settings import HostedModel, HostedSettings, read_config

__all__ = [
    "HostedFaults",
    "HostedModel",
    "HostedProviders",
    "HostedSettings",
    "count_tokens",
    "expected_answer",
    "prompt_text",
    "read_config",
]
