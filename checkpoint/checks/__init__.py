"""What a check looks at, one module each: configuration, tokenizers, weights, repositories, cost.

Each gives findings (`finding.Finding`) on one model or on two; `isthmus.checkpoint.check` puts them together.
"""
