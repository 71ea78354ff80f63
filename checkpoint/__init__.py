"""In and out: references, headers, lazy reading, checking, saving, cards."""
