"""Looks for credentials where none may be: in logs, Events and metrics, after everything else has run.

Found is: the canary that each minted token carries, anything that looks like the beginning of a JWT or of a docker
config in base64, and any piece of 24 characters of any token that was ever issued in this run.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain

PIECE = 24
LOOKS_LIKE = re.compile(r"(?<!continue=)eyJ[A-Za-z0-9_-]{8,}|X3Rva2Vu[A-Za-z0-9+/]{4,}")
"""`{"` of a JWT's header or a docker config, and `_token` of an `auth`, in base64; but not a list's continue token."""
WORD = re.compile(rf"[A-Za-z0-9_+/=-]{{{PIECE},}}")


def find(texts: Iterable[tuple[str, str]], *, tokens: Iterable[str], canary: str) -> list[str]:
    """Where something was found, as `source: what kind`; `texts` are (source, text). Never repeats what it found."""
    pieces = set(chain.from_iterable(_pieces(token) for token in tokens))
    return [f"{source}: {kind}" for source, text in texts for kind in _kinds(text, pieces=pieces, canary=canary)]


def _kinds(text: str, *, pieces: set[str], canary: str) -> Iterator[str]:
    if canary in text:
        yield "the canary of a minted token"
    if LOOKS_LIKE.search(text):
        yield "the beginning of a JWT or docker config"
    words = (match.group() for match in WORD.finditer(text))
    if any(word[i : i + PIECE] in pieces for word in words for i in range(len(word) - PIECE + 1)):
        yield "a part of a token"


def _pieces(token: str) -> Iterator[str]:
    """Disjoint pieces of payload and signature; the header is the same for all tokens of a key and no secret.

    Whatever part of 47 characters or more is printed holds one of them whole.
    """
    for part in token.split(".")[1:]:
        yield from (part[i : i + PIECE] for i in range(0, len(part) - PIECE + 1, PIECE))


def events_as_texts(events: Iterable[dict[str, object]]) -> Iterator[tuple[str, str]]:
    """For `find`."""
    return ((f"Event {event.get('reason')}", json.dumps(event)) for event in events)
