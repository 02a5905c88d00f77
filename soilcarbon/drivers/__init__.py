"""Drivers of soil carbon in observations and models: importance, responses, mismatch, report."""
