"""The multi-branch convolutional network: specification and preprocessing, layers, checkpoints."""
