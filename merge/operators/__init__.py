"""Operators: N tensors of one shape in, one out. Each is a pure function with its paper in its docstring.

An operator gets a tensor in blocks of rows, the same rows of all N at once, and yields the merged rows in the same
order. What it needs of the whole tensor (inner products, the k-th largest entry) it collects in passes of its own over
the blocks, so that only one block has to fit into memory. `registry` lists them by name.
"""
