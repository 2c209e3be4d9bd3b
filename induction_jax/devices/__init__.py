"""Devices and processes: meshes, collectives, and the machine's limits."""
