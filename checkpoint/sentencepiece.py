"""The vocabulary of a SentencePiece model, read from its file (a protocol buffer) without the library."""

from __future__ import annotations

from collections.abc import Iterator

_PIECES, _TEXT = 1, 1  # field numbers: ModelProto.pieces, SentencePiece.piece
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


def read_pieces(content: bytes) -> list[str]:
    """The vocabulary in the order of its ids. Raises ValueError if the bytes are not a SentencePiece model."""
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
    """The numbers and contents of the fields in a message that hold bytes."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        kind = key & 7
        if kind == _VARINT:
            _, position = _varint(content, position)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            position += 8 if kind == _EIGHT_BYTES else 4
        elif kind == _BYTES:
            size, position = _varint(content, position)
            if position + size > len(content):
                raise ValueError("the file is cut off")
            yield key >> 3, content[position : position + size]
            position += size
        else:
            raise ValueError("this is not a protocol buffer")


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(content) or shift > 63:
            raise ValueError("the file is cut off")
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
