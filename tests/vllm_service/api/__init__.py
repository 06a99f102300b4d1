"""Tests of what the gateway serves besides the chat path, over real sockets."""
