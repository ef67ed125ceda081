"""Values of .dockerconfigjson, and what the kubelet makes of them.

`CASES` say it in literal values; tests/e2e/test_kubelet_rules.py holds them against the kubelet's own code, and
tests/unit/test_dockerconfig.py ours. `configs` draws more.
"""

import base64
import json
from typing import Any

from hypothesis import strategies as st

Read = dict[str, tuple[bytes, bytes]] | None
"""(user, password) by key as it is given; None if the kubelet reads nothing of the Secret."""


def b64(text: str | bytes) -> str:
    """Standard base64, padded."""
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def _of(entry: Any) -> bytes:
    return json.dumps({"auths": {"a": entry}}).encode()


def _auth(auth: str) -> bytes:
    return _of({"auth": auth})


_NOTHING: Read = {"a": (b"", b"")}
_UP: Read = {"a": (b"u", b"p")}

CASES: dict[str, tuple[bytes, Read]] = {
    # The whole.
    "nothing": (b"", {}),
    "an empty object": (b"{}", {}),
    "null": (b"null", {}),
    "space around it": (b" \t\r\n{ } ", {}),
    "auths is null": (b'{"auths":null}', {}),
    "auths is empty": (b'{"auths": { } }', {}),
    "a list": (b"[]", None),
    "a number": (b"7", None),
    "a text": (b'"{}"', None),
    "two objects": (b"{}{}", None),
    "half an object": (b'{"auths":', None),
    "a byte order mark": (b"\xef\xbb\xbf{}", None),
    "only space": (b" ", None),
    "apostrophes": (b"{'auths':{}}", None),
    "a comma too many": (b'{"auths":{},}', None),
    "auths is a list": (b'{"auths":[]}', None),
    "auths is false": (b'{"auths":false}', None),
    "auths in another case": (b'{"AUTHS":{"a":{}}}', _NOTHING),
    "auths with a long s": ('{"auth\u017f":{"a":{}}}'.encode(), _NOTHING),
    "auths in two spellings": (b'{"auths":{"a":{}},"Auths":{"b":{}}}', {"a": (b"", b""), "b": (b"", b"")}),
    "auths twice": (b'{"auths":{"a":{"username":"x"}},"auths":{"a":{"username":"u","password":"p"}}}', _UP),
    "auths and then null": (b'{"auths":{"b":{}},"auths":null,"auths":{"a":{}}}', _NOTHING),
    "a broken entry and then null": (b'{"auths":{"b":1},"auths":null}', None),
    "HttpHeaders of texts": (b'{"auths":{"a":{}},"HttpHeaders":{"X":"y","Z":null}}', _NOTHING),
    "HttpHeaders is null": (b'{"auths":{"a":{}},"HttpHeaders":null}', _NOTHING),
    "HttpHeaders with a number": (b'{"auths":{"a":{}},"HttpHeaders":{"X":1}}', None),
    "HttpHeaders is a list": (b'{"auths":{"a":{}},"httpheaders":[]}', None),
    "anything else at the top": (b'{"auths":{"a":{}},"credsStore":7,"x":[1,{"y":null}],"auth":1}', _NOTHING),
    "a number of 5,000 digits": (b'{"auths":{"a":{}},"x":' + b"1" * 5000 + b"}", _NOTHING),
    "not a number": (b'{"auths":{"a":{}},"x":NaN}', None),
    "a number that begins with 0": (b'{"auths":{"a":{}},"x":01}', None),
    "an unknown escape": (b'{"auths":{"a":{}},"x":"\\q"}', None),
    "a line break in a text": (b'{"auths":{"a":{}},"x":"\n"}', None),
    # Bytes that are no UTF-8.
    "no UTF-8 in a text": (b'{"auths":{"a":{"x":"\xff"}}}', _NOTHING),
    "no UTF-8 outside of texts": (b'{"auths":{"a":{}}}\xff', None),
    "no UTF-8 as a key": (b'{"auths":{"\xff":{}}}', {"\ufffd": (b"", b"")}),
    "a character cut short": (b'{"auths":{"\xe2\x82":{}}}', {"\ufffd\ufffd": (b"", b"")}),
    "no UTF-8 as a key at the top": (b'{"auths":{"a":{}},"\xff":1}', _NOTHING),
    "no UTF-8 in a password": (
        b'{"auths":{"a":{"username":"u","password":"\xffp"}}}',
        {"a": (b"u", "\ufffdp".encode())},
    ),
    "no UTF-8 in auth": (b'{"auths":{"a":{"auth":"\xff"}}}', None),
    "half a surrogate pair as a key": (b'{"auths":{"\\ud800":{}}}', {"\ufffd": (b"", b"")}),
    "half a surrogate pair in a text": (b'{"auths":{"a":{"x":"\\udfff"}}}', _NOTHING),
    "a surrogate pair": (b'{"auths":{"\\ud83d\\ude00":{}}}', {"\U0001f600": (b"", b"")}),
    # An entry.
    "null entry": (_of(None), _NOTHING),
    "an entry that is a text": (_of("token"), None),
    "an entry that is a number": (_of(7), None),
    "an entry that is a list": (_of([]), None),
    "an entry that is true": (_of(True), None),
    "an entry without fields": (_of({}), _NOTHING),
    "the pair": (_of({"username": "u", "password": "p"}), _UP),
    "the pair in another case": (_of({"UserName": "u", "PASSWORD": "p"}), _UP),
    "a password with long s": (_of({"username": "u", "pa\u017fsword": "p"}), _UP),
    "a sharp s is another letter": (_of({"pa\u00dfword": 7}), _NOTHING),
    "a null user": (_of({"username": None, "password": "p"}), {"a": (b"", b"p")}),
    "a user twice": (b'{"auths":{"a":{"username":"x","username":"u","username":null,"password":"p"}}}', _UP),
    "a number as user": (_of({"username": 7}), None),
    "a number as user, then a text": (b'{"auths":{"a":{"username":7,"username":"u"}}}', None),
    "true as password": (_of({"password": True}), None),
    "an object as email": (_of({"email": {}}), None),
    "a list as auth": (_of({"auth": []}), None),
    "unknown fields of any type": (_of({"identitytoken": 7, "x": [], "username": "u", "password": "p"}), _UP),
    "a broken entry beside a good one": (b'{"auths":{"a":{"username":"u"},"b":{"username":1}}}', None),
    "a broken entry, then a good one": (b'{"auths":{"a":1,"a":{"username":"u","password":"p"}}}', None),
    "a good entry, then another": (b'{"auths":{"a":{"username":"x"},"a":{"password":"p"}}}', {"a": (b"", b"p")}),
    # auth.
    "auth": (_auth(b64("u:p")), _UP),
    "auth wins": (_of({"username": "x", "password": "y", "auth": b64("u:p")}), _UP),
    "an empty auth counts as none": (_of({"username": "u", "password": "p", "auth": ""}), _UP),
    "auth with two colons": (_auth(b64("u:p:q")), {"a": (b"u", b"p:q")}),
    "auth without user": (_auth(b64(":p")), {"a": (b"", b"p")}),
    "auth without password": (_auth(b64("u:")), {"a": (b"u", b"")}),
    "auth of one colon": (_auth(b64(":")), _NOTHING),
    "auth without colon": (_auth(b64("token")), None),
    "auth in plain text": (_auth("u:p"), None),
    "auth of one letter": (_auth("d"), None),
    "auth unpadded": (_auth(b64("us:p").rstrip("=")), {"a": (b"us", b"p")}),
    "auth padded": (_auth(b64("us:p")), {"a": (b"us", b"p")}),
    "auth with one = of two": (_auth(b64("us:p")[:-1]), None),
    "auth with a = too many": (_auth(b64("u:p") + "="), None),
    "auth with = in its middle": (_auth("dT=pw"), None),
    "auth of = alone": (_auth("="), None),
    "auth with a break in it": (_auth(b64("u:p")[:2] + "\r\n" + b64("u:p")[2:]), _UP),
    "auth with a break at its end": (_auth(b64("us:p") + "\n"), {"a": (b"us", b"p")}),
    "auth of a break alone": (_auth("\n"), None),
    "auth with a space at its end": (_auth(b64("u:p") + " "), None),
    "auth with = and a space at its end": (_auth(b64("us:p") + " "), None),
    "auth with a tab in it": (_auth("dT\tpw"), None),
    "auth in the alphabet of URLs": (_auth(base64.urlsafe_b64encode(b"u:\xfb\xff\xfe").decode()), None),
    "auth with bits that don't count": (_auth("dTp="), {"a": (b"u", b"")}),
    "auth of bytes that are no UTF-8": (_auth(b64(b"\xff:\xfe")), {"a": (b"\xff", b"\xfe")}),
}


def _members(keys: st.SearchStrategy[str], values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """JSON objects whose keys may be given twice."""
    members = st.tuples(keys, values).map(lambda pair: json.dumps(pair[0]).encode() + b":" + pair[1])
    return st.lists(members, max_size=4).map(lambda written: b"{" + b",".join(written) + b"}")


_SCALARS = st.sampled_from([b"null", b"true", b"7", b"-1.5e3", b'""', b'"x"', b"[]", b"{}", b'"\xff"', b'"\\udc00"'])
_AUTHS = st.one_of(
    st.binary(max_size=8).map(b64),
    st.binary(max_size=8).map(lambda credential: b64(b"u:" + credential)),
    st.text(alphabet="dTpw=+/-_ \n\r", max_size=8),
).map(lambda auth: json.dumps(auth).encode())
_FIELDS = st.sampled_from(["username", "password", "auth", "email", "USERNAME", "Auth", "pa\u017f\u017fword", "x"])
_ENTRIES = st.one_of(_members(_FIELDS, _SCALARS), _members(st.just("auth"), _AUTHS), _SCALARS)
_HOSTS = st.sampled_from(["a", "a", "https://a/", "cgr.dev", "\ud800", "ä", ""])
_ALL_AUTHS = st.one_of(_members(_HOSTS, _ENTRIES), st.just(b"null"))
_TOP = st.sampled_from(["auths", "auths", "Auths", "auth\u017f", "HttpHeaders", "credsStore"])


def _changed(value: bytes, at: int, byte: bytes) -> bytes:
    at %= len(value) + 1
    return value[:at] + byte + value[at + 1 :]


_configs = _members(_TOP, st.one_of(_ALL_AUTHS, _ALL_AUTHS, _ALL_AUTHS, _SCALARS))
configs: st.SearchStrategy[bytes] = st.one_of(
    _configs, _configs, st.builds(_changed, _configs, st.integers(0, 200), st.binary(min_size=1, max_size=1))
)
"""Docker configs that a kubelet may or may not read, some with one byte that is wrong."""
