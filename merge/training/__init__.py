"""Training along paths: of bends, and of an alignment; resumable."""
