"""The parts of a check: configuration, tokenizers, weights, repositories, cost.

Each returns findings (`finding.Finding`) about one model or two; `isthmus.checkpoint.check` collects them.
"""
