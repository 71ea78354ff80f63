"""Two-layer ReLU networks: the sets that optimizers keep them in, and the solutions that are connected inside them."""
