"""The HTTP server: ingress, engine and shared-state deployments on Ray Serve."""
