"""What several papers share: canvas, windows, attention, gradients, tokens."""
