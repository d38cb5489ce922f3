"""Watching a line: whether scores still come as they came."""
