"""Training: one loop for all networks, with checkpoints that resume."""
