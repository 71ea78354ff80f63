"""Tasks: what models are asked, and how often they are right, by lm-evaluation-harness or a user's own questions."""
