"""The gateway's process: its parts wired together, run, reloaded, drained, supervised."""
