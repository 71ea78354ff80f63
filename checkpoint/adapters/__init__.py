"""Adapters of peft: a base model and the few tensors that were trained beside it, read as one model.

The weights are those that peft itself merges, module by module, each verified against peft's forward pass of it.
"""
