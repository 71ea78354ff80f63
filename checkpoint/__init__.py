"""In and out: references, headers, lazy reading, checking, provenance, saving, cards, pushing.

Imports nothing else of isthmus. `loading` opens a checkpoint, `check` compares several from headers alone, `provenance`
reads who trained one, `saving` writes a directory whole or not at all, `push` brings one to the Hub, `errors` holds
every exception.
"""
