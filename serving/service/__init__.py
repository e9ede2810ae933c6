"""The HTTP service on Ray Serve."""
