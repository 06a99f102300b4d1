"""`make deploy-demo`: plan, apply, answer, status and destroy, as a user types them, on an emulated RunPod.

A real worker with the demo model runs on this machine. No account is needed, nothing is sent elsewhere, nothing is
billed.
"""
