"""The programs that worker.Dockerfile runs, or leaves in the image."""
