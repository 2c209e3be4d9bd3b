"""Findings and figures of a run, from its directory alone."""
