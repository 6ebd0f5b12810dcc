"""Styles behind one HTTP endpoint: ingress, keeper and engine replicas on Ray Serve."""
