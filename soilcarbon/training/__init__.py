"""Training of the network: run, loop, optimiser, distillation, uncertainty, run log, distributed training."""
