"""A load-balancing endpoint: requests go to its workers over HTTP, with no queue in between."""
