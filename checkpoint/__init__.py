"""Checkpoints in and out: references, headers, lazy reading, checking, saving, cards, pushing.

Imports no other folder of isthmus. `loading` opens a checkpoint, `check` compares several from headers alone,
`optimizer_evidence` reads which optimizer trained one, `saving` writes a directory whole or not at all, `push` uploads
one to the Hub, `errors` has every exception.
"""
