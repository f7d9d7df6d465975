"""Other frameworks' detectors, run beside ours by tools/parity.py; never imported by the package."""
