"""In and out: references, headers, lazy reading, checking, saving, cards.

Imports nothing else of isthmus. `loading` opens a checkpoint, `check` compares several from headers alone, `saving`
writes a directory whole or not at all, `errors` holds every exception.
"""
