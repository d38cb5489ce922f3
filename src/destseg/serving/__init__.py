"""Inspecting pictures as a service: over HTTP, from folders, on many machines."""
