"""A table of methods for some models, with the weights of each searched for under one budget."""
