"""Operators: N tensors of one shape in, one out. Each is a pure function with its paper in its docstring.

An operator sees a tensor in blocks of rows, one after the other, the same rows of all N at once, and gives the merged
rows in the same order; what it needs to know of the whole (inner products, the k-th largest entry) it collects in
passes of its own over the blocks. So the largest tensor need not fit into memory, and what is in memory is a list of
one block. `registry` knows them by name.
"""
