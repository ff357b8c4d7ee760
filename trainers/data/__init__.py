"""Volumes: how they are read, oriented and written."""
