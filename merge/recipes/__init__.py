"""Recipes: which operator, which models, which parameters; read from options or from files as mergekit writes them."""
