"""Two-layer ReLU networks: the sets that optimizers keep them in, and which solutions are connected inside them."""
