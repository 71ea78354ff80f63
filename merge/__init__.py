"""Joining: plans, one pipeline for any number of models, paths and their training, operators, recipes, results."""
