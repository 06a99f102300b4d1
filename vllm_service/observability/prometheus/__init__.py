"""The Prometheus families, as tables over the measurements."""
