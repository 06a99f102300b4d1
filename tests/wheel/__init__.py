"""The wheel, built from this tree and installed into environments of its own."""
