"""What worker.Dockerfile runs, and leaves in the image."""
