"""The pieces of a SentencePiece model, read from its file without the library: a protocol buffer, of which only the
vocabulary is looked at."""

from __future__ import annotations

from collections.abc import Iterator

_PIECES, _TEXT = 1, 1  # field numbers: ModelProto.pieces, SentencePiece.piece
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


def read_pieces(content: bytes) -> list[str]:
    """The vocabulary in the order of its ids. Raises ValueError for what is no SentencePiece model."""
    pieces = []
    for number, value in _fields(content):
        if number == _PIECES:
            text = next((inner for field, inner in _fields(value) if field == _TEXT), None)
            if text is None:
                raise ValueError("a piece has no text")
            pieces.append(text.decode("utf-8"))
    if not pieces:
        raise ValueError("there are no pieces")
    return pieces


def _fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of the fields of a message that hold bytes."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        kind = key & 7
        if kind == _VARINT:
            _, place = _varint(content, place)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if kind == _EIGHT_BYTES else 4
        elif kind == _BYTES:
            size, place = _varint(content, place)
            if place + size > len(content):
                raise ValueError("the file is cut off")
            yield key >> 3, content[place : place + size]
            place += size
        else:
            raise ValueError("this is no protocol buffer")


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(content) or shift > 63:
            raise ValueError("the file is cut off")
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
