"""The multi-branch convolutional network: specification, preprocessing, layers, checkpoints."""
