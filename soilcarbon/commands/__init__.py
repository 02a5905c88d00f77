"""The sub-commands of `soilcarbon`, one module each."""
