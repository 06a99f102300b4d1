"""One endpoint's state, without HTTP and without processes."""
