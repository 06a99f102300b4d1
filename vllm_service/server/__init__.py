"""The gateway's process: wires the parts together, runs, reloads, drains and supervises them."""
