"""The weights of a merge, found on text: one model at a time, along the loss's gradient, or by evolution."""
