"""Detectors of other frameworks, run by tools/parity.py for comparison; never imported by the package."""
