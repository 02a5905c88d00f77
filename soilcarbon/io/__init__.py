"""Untrusted files read safely, files written atomically, tables of points and horizons, patch arrays."""
