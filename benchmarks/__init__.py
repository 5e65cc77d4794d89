"""Measurements of the sidecar beside the plainest thing that could stand in its place; see README.md."""
