"""`make serve`: an emulated RunPod with the demo model, two emulated hosted providers, the gateway, and some traffic.

Everything runs on this machine until Ctrl-C. Nothing is sent elsewhere, and nothing is billed.
"""
