"""Simulated worlds whose true soil carbon is known."""
