"""A local RunPod: queue API, real worker processes, scale to zero, a billing meter and injected faults."""

from runpod_emulator.billing.bill import Bill, BillLine
from runpod_emulator.billing.rates import BillingRates
from runpod_emulator.emulator import Emulator
from runpod_emulator.endpoint.faults import Faults
from runpod_emulator.hosted import HostedFaults, HostedModel, HostedProviders, HostedSettings
from runpod_emulator.settings import NO_RATE_LIMITS, EndpointSettings, RateLimit
from runpod_emulator.workers.fleet import WorkerCommand

__all__ = [
    "NO_RATE_LIMITS",
    "Bill",
    "BillLine",
    "BillingRates",
    "Emulator",
    "EndpointSettings",
    "Faults",
    "HostedFaults",
    "HostedModel",
    "HostedProviders",
    "HostedSettings",
    "RateLimit",
    "WorkerCommand",
]
