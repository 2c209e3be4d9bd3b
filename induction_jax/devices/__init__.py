"""Devices and processes: meshes, keys, memory limits."""
