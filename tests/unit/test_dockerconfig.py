"""Docker configs are read as the kubelet reads them, and what isn't ours keeps its bytes."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core import dockerconfig
from controller.core.dockerconfig import (
    EMPTY,
    Unreadable,
    broken_hosts,
    canonical_key,
    credentials,
    fingerprint,
    merge,
    normalise,
    parse,
)
from controller.core.jwt import jwt_claim, jwt_instant
from testing.dockerconfigs import CASES, Read
from tests.unit.fakes import encode_segment, entry, jwt

HUB = "https://index.docker.io/v1/"


def config(**auths: Any) -> bytes:
    return json.dumps({"auths": auths}).encode()


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# Reading.


@pytest.mark.parametrize("content", [b"", b"null", b"{}", b" {} ", b'{"auths":null}', b'{"auths":{}}', b"\n\tnull"])
def test_empty_comes_in_many_forms(content: bytes) -> None:
    assert parse(content).auths == ()
    assert parse(content).hosts == ()
    assert parse(content).plain


@pytest.mark.parametrize(
    "content",
    [
        *(b"[]", b"7", b'"x"', b"true", b"{", b"{}{}", b"hello", b"\xff\xfe", b"\xef\xbb\xbf{}", b"{'auths':{}}"),
        *(b'{"auths":[]}', b'{"auths":""}', b'{"auths":0}', b'{"auths":false}', b'{"auths":{}}\xff'),
        *(b'{"auths":{"a":NaN}}', b'{"auths":{"a":01}}', b'{"auths":{"a":{"x":"\\q"}}}', b'{"auths":{"a\n":1}}'),
        *(b"[" * 200_000, b'{"a":' * 200_000, b'{"auths":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ],
)
def test_what_is_no_docker_config_is_unreadable_and_nothing_else(content: bytes) -> None:
    with pytest.raises(Unreadable) as caught:
        parse(content)
    assert str(caught.value) == "not a JSON object"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
almost_configs = st.one_of(
    st.binary(),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(["auths", "a"]), json_values).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({"auths": st.dictionaries(st.text(), json_values)}).map(lambda v: json.dumps(v).encode()),
)


@given(almost_configs, st.data())
def test_whatever_the_bytes_they_are_read_or_unreadable(content: bytes, data: st.DataObject) -> None:
    cut = content[: data.draw(st.integers(0, len(content)))]
    for piece in (content, cut):
        try:
            read = parse(piece)
        except Unreadable:
            continue
        broken_hosts(read)
        fingerprint(credentials(read, read.hosts))
        parse(merge(read, entries={"cgr.dev": ("u", "p")}))


@pytest.mark.parametrize(("content", "read"), CASES.values(), ids=CASES.keys())
def test_a_config_is_read_as_the_kubelet_reads_it(content: bytes, read: Read) -> None:
    try:
        config = parse(content)
    except Unreadable:
        assert read is None
        return
    assert bool(config.unreadable) is (read is None)
    pairs = {entry.member.key: entry.credential for entry in config.auths}
    assert read is None or pairs == {key: (_text(user), _text(password)) for key, (user, password) in read.items()}


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def test_of_a_key_that_is_given_twice_the_later_counts_as_for_the_kubelet() -> None:
    twice = b'{"auths":{"a":{"username":"x"}},"auths":{"b":{"username":"y"},"b":{"username":"z"}}}'
    assert credentials(parse(twice), ["a", "b"]) == {"a": ("x", ""), "b": ("z", "")}


@pytest.mark.parametrize("broken", ["CGR.dev", "https://cgr.dev/v1/"])
def test_an_unreadable_entry_in_another_spelling_counts_as_no_credential(broken: str) -> None:
    """Else the token beside it would count as valid, and no kubelet would read it."""
    read = parse(config(**{broken: {"auth": "!"}, "cgr.dev": entry("u", "p")}))
    assert credentials(read, ["cgr.dev"]) == {"cgr.dev": ("", "")}


def test_what_no_kubelet_can_decode_is_named() -> None:
    entries = {"https://B.example/v1/": {"auth": "!"}, "a.example": 7, "c.example": {}, "d.example": {"auth": "dTpw"}}
    content = json.dumps({"auths": entries, "HttpHeaders": {"X": 1}}).encode()
    assert parse(content).unreadable == ("HttpHeaders", "a.example", "b.example")


@pytest.mark.parametrize("number", [0, 1, 2, 10_000])
def test_up_to_ten_thousand_entries_are_read(number: int) -> None:
    assert len(parse(config(**{f"{each:x}": {} for each in range(number)})).auths) == number


@pytest.mark.parametrize("spelling", [b"x", b"auths", b"AUTHS"])
def test_more_than_ten_thousand_entries_are_unreadable(spelling: bytes) -> None:
    """80,000 fit into a Secret, and its editor would stop the controller for half a second with each edit."""
    one, other = (b",".join(b'"%d":{}' % each for each in range(first, first + 5001)) for first in (0, 5001))
    with pytest.raises(Unreadable):
        parse(
            b'{"auths":{%s,%s}}' % (one, other)
            if spelling == b"x"
            else b'{"auths":{%s},"%s":{%s}}' % (one, spelling, other)
        )


def test_a_very_deep_foreign_entry_is_unreadable_or_kept_but_never_an_error() -> None:
    deep = b'{"auths":{"a":' + b'{"x":' * 900 + b"1" + b"}" * 900 + b"}}"
    merged = merge(parse(deep), entries=dict.fromkeys(["b"], ("u", "p")))
    assert deep[len(b'{"auths":{') : -2] in merged


# Keys.


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("cgr.dev", "cgr.dev"),
        ("CGR.dev", "cgr.dev"),
        ("https://cgr.dev", "cgr.dev"),
        ("HTTPS://cgr.dev/", "cgr.dev"),
        ("http://cgr.dev", "cgr.dev"),
        ("cgr.dev/", "cgr.dev"),
        ("cgr.dev/v1", "cgr.dev"),
        ("cgr.dev/v1/", "cgr.dev"),
        ("https://cgr.dev/v2/", "cgr.dev"),
        ("cgr.dev/v3/", "cgr.dev/v3"),
        ("cgr.dev/v1x/y", "cgr.dev/v1x/y"),
        ("cgr.dev/v2/Org/Image/", "cgr.dev/Org/Image"),
        ("cgr.dev/Org", "cgr.dev/Org"),
        (" cgr.dev ", "cgr.dev"),
        ("reg.example:5000", "reg.example:5000"),
        ("reg.example:443", "reg.example:443"),
        ("*.example.com", "*.example.com"),
        ("docker.io", "index.docker.io"),
        ("https://docker.io/", "index.docker.io"),
        ("index.docker.io", "index.docker.io"),
        ("registry-1.docker.io", "index.docker.io"),
        (HUB, "index.docker.io"),
        ("docker.io/library", "index.docker.io/library"),
        ("docker.io.example", "docker.io.example"),
        ("", ""),
    ],
)
def test_a_key_means_the_registry_that_the_kubelet_takes_it_for(key: str, host: str) -> None:
    assert normalise(key) == host


@given(st.text())
def test_any_key_can_be_normalised(key: str) -> None:
    normalise(key)


def test_docker_hub_is_written_under_the_key_that_every_reader_knows() -> None:
    assert canonical_key("index.docker.io") == HUB
    assert canonical_key("cgr.dev") == "cgr.dev"
    merged = merge(EMPTY, entries=dict.fromkeys(["index.docker.io"], ("u", "p")))
    assert list(json.loads(merged)["auths"]) == [HUB]


# What is in it.


@pytest.mark.parametrize(
    ("content", "plain"),
    [
        (b'{"auths":{"cgr.dev":{}}}', True),
        (b'{"auths":{"cgr.dev":{},"https://index.docker.io/v1/":{}}}', True),
        (b'{"auths":{"https://cgr.dev":{}}}', False),
        (b'{"auths":{"CGR.dev":{}}}', False),
        (b'{"auths":{"cgr.dev":{},"cgr.dev/":{}}}', False),
        (b'{"auths":{"docker.io":{}}}', False),
        (b'{"auths":{},"credsStore":"x"}', False),
        (b'{"credHelpers":{}}', False),
    ],
)
def test_plain_means_that_it_can_be_rendered_from_tokens_alone(content: bytes, plain: bool) -> None:
    assert parse(content).plain is plain


def test_hosts_are_normalised_sorted_and_each_once() -> None:
    keys = ["z.example", "https://cgr.dev/v1/", "cgr.dev", "docker.io"]
    assert parse(config(**{key: {} for key in keys})).hosts == ("cgr.dev", "index.docker.io", "z.example")


def test_an_entry_that_is_no_object_is_broken_and_null_is_empty() -> None:
    content = b'{"auths":{"a": [1] ,"b":"x","c": {},"d": null ,"https://E/":7,"f":true}}'
    assert broken_hosts(parse(content)) == ("a", "b", "e", "f")


NO_CREDENTIAL = ("", "")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, NO_CREDENTIAL, id="nothing"),
        pytest.param(None, NO_CREDENTIAL, id="null"),
        pytest.param({"username": "u", "password": "p"}, ("u", "p"), id="the pair alone"),
        pytest.param({"username": "u", "password": "p", "auth": ""}, ("u", "p"), id="an empty auth counts as none"),
        pytest.param({"username": "u", "password": "p", "auth": b64("v:q")}, ("v", "q"), id="auth wins over the pair"),
        pytest.param({"auth": b64("u:p")}, ("u", "p"), id="auth alone"),
        pytest.param({"auth": b64("user:p").rstrip("=")}, ("user", "p"), id="unpadded"),
        pytest.param({"auth": b64("u:p:q")}, ("u", "p:q"), id="split at the first colon"),
        pytest.param({"auth": b64(":p")}, ("", "p"), id="an empty user"),
        pytest.param({"auth": b64("u:")}, ("u", ""), id="an empty password"),
        pytest.param({"auth": b64("u:pä")}, ("u", "pä"), id="UTF-8"),
        pytest.param({"auth": b64("no colon")}, NO_CREDENTIAL, id="without a colon"),
        pytest.param({"auth": "_-_-"}, NO_CREDENTIAL, id="URL-safe alphabet"),
        pytest.param({"auth": "!!!!"}, NO_CREDENTIAL, id="no base64"),
        pytest.param({"auth": b64("u:p") + "="}, NO_CREDENTIAL, id="too much padding"),
        pytest.param({"auth": b64("u:pq")[:-1]}, NO_CREDENTIAL, id="too little padding"),
        pytest.param({"auth": "="}, NO_CREDENTIAL, id="padding alone"),
        pytest.param({"auth": base64.b64encode(b"\xff\xfe:p").decode()}, ("\udcff\udcfe", "p"), id="not UTF-8"),
        pytest.param({"auth": 7, "username": "u"}, NO_CREDENTIAL, id="a number"),
        pytest.param([], NO_CREDENTIAL, id="no object"),
        pytest.param({"username": "u", "password": "p", "identitytoken": "t", "x": 1}, ("u", "p"), id="unknown fields"),
    ],
)
def test_an_entry_is_decoded_as_the_kubelet_decodes_it(fields: Any, expected: tuple[str, str]) -> None:
    assert credentials(parse(config(h=fields)), ["h"]) == {"h": expected}


def test_only_the_wanted_hosts_are_decoded_whatever_their_key_looks_like() -> None:
    read = parse(config(**{"https://CGR.dev/v1/": entry("u", "p"), "b.example": entry("v", "q")}))
    assert credentials(read, ["cgr.dev", "c.example"]) == {"cgr.dev": ("u", "p")}


# The fingerprint.

pairs = st.dictionaries(st.text(max_size=8), st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=4)


@given(pairs, st.randoms(use_true_random=False))
def test_the_fingerprint_does_not_depend_on_the_order(entries: dict[str, tuple[str, str]], random: Any) -> None:
    shuffled = list(entries.items())
    random.shuffle(shuffled)
    assert fingerprint(dict(shuffled)) == fingerprint(entries)


@given(st.text(min_size=1).filter(lambda user: ":" not in user), st.text())
def test_the_fingerprint_survives_reformatting(username: str, password: str) -> None:
    loaded = json.loads(merge(EMPTY, entries={"cgr.dev": (username, password)}))
    entry_ = loaded["auths"].pop("cgr.dev")
    entry_.pop("username")
    entry_["email"] = "x@example.com"
    loaded["auths"]["https://CGR.dev/v1/"] = dict(reversed(entry_.items()))
    reformatted = json.dumps(loaded, indent=3, ensure_ascii=True).encode()
    assert fingerprint(credentials(parse(reformatted), ["cgr.dev"])) == fingerprint({"cgr.dev": (username, password)})


@given(pairs, pairs)
def test_other_credentials_have_another_fingerprint(one: Any, other: Any) -> None:
    assert (fingerprint(one) == fingerprint(other)) is (one == other)


def test_a_fingerprint_is_sixteen_hex_and_the_same_in_every_release() -> None:
    assert fingerprint({"cgr.dev": ("_token", "a-password")}) == "0b0f77e5ab6cd611"


# Merging.

foreign_keys = st.text(max_size=12).filter(lambda key: normalise(key) not in ("cgr.dev", "old.example"))
foreign_entries = st.dictionaries(foreign_keys, json_values, max_size=5)
our_keys = st.lists(
    st.sampled_from(["cgr.dev", "https://cgr.dev", "CGR.DEV/", "cgr.dev/v1/", "http://cgr.dev/v2/"]), unique=True
)


def _raw(fields: dict[str, Any], *, indent: int | None) -> bytes:
    return json.dumps(fields, ensure_ascii=False, indent=indent).encode()


@given(foreign_entries, our_keys, st.dictionaries(foreign_keys, json_values, max_size=3), st.data())
@settings(max_examples=60)
def test_foreign_entries_keep_their_bytes_and_their_order(
    foreign: dict[str, Any], ours: list[str], top: dict[str, Any], data: st.DataObject
) -> None:
    keys = data.draw(st.permutations([*foreign, *ours, "old.example"]))
    auths = {key: foreign.get(key, entry("old", "old")) for key in keys}
    content = _raw(
        {**{k: v for k, v in top.items() if k != "auths"}, "auths": auths}, indent=data.draw(st.none() | st.just(2))
    )
    try:
        before = parse(content)
    except Unreadable:  # a number that is none in JSON (NaN)
        return

    merged = merge(before, entries=dict.fromkeys(["cgr.dev"], ("_token", "new")), remove=["old.example"])

    after = parse(merged)
    theirs = [e.member for e in before.auths if e.host not in ("cgr.dev", "old.example")]
    assert [member.key for member in theirs] == [key for key in keys if key in foreign]
    assert [e.member for e in after.auths if e.host != "cgr.dev"] == theirs
    assert [member for member in after.top if member.key != "auths"] == [m for m in before.top if m.key != "auths"]
    assert credentials(after, ["cgr.dev", "old.example"]) == {"cgr.dev": ("_token", "new")}
    assert merge(after, entries={"cgr.dev": ("_token", "new")}) == merged


def test_keys_that_mean_one_of_our_hosts_become_one_in_the_place_of_the_first() -> None:
    keys = ["a.example", "https://cgr.dev/", "b.example", "CGR.dev", "cgr.dev"]
    merged = merge(parse(config(**dict.fromkeys(keys, entry()))), entries={"cgr.dev": ("u", "p")})
    assert list(json.loads(merged)["auths"]) == ["a.example", "cgr.dev", "b.example"]
    assert credentials(parse(merged), ["cgr.dev"]) == {"cgr.dev": ("u", "p")}


@pytest.mark.parametrize("key", ["docker.io", "https://index.docker.io/v1/", "registry-1.docker.io", "index.docker.io"])
def test_every_name_of_docker_hub_becomes_the_one_that_works(key: str) -> None:
    merged = merge(parse(config(**{key: entry()})), entries=dict.fromkeys(["index.docker.io"], ("u", "p")))
    assert json.loads(merged) == {"auths": {HUB: entry("u", "p")}}


def test_other_registries_are_kept() -> None:
    other = b'{ "auths" : { "z.example" : {"auth" : "eDp5", "x":1.50}, "a.example":{} }, "HttpHeaders": { "A" : "b" } }'
    assert merge(parse(other), entries={"cgr.dev": ("u", "p")}) == (
        b'{"auths":{"z.example":{"auth" : "eDp5", "x":1.50},"a.example":{},'
        b'"cgr.dev":{"auth":"dTpw","password":"p","username":"u"}},"HttpHeaders":{ "A" : "b" }}'
    )


def test_a_host_that_no_claim_names_any_more_is_removed_in_any_spelling() -> None:
    before = parse(config(**{"https://old.example/v1/": entry(), "OLD.example": entry(), "b.example": {}}))
    merged = merge(before, entries=dict.fromkeys(["cgr.dev"], ("u", "p")), remove=["old.example"])
    assert list(json.loads(merged)["auths"]) == ["b.example", "cgr.dev"]


def test_a_host_that_is_both_written_and_removed_is_written() -> None:
    merged = merge(EMPTY, entries=dict.fromkeys(["cgr.dev"], ("u", "p")), remove=["cgr.dev"])
    assert list(json.loads(merged)["auths"]) == ["cgr.dev"]


def test_the_same_credential_gives_the_same_bytes_whatever_order_the_hosts_have() -> None:
    hosts = [f"{letter}.example" for letter in "hgfedcba"]
    one = merge(EMPTY, entries=dict.fromkeys(hosts, ("u", "p")))
    assert one == merge(EMPTY, entries=dict.fromkeys(reversed(hosts), ("u", "p")))
    assert list(json.loads(one)["auths"]) == sorted(hosts)
    assert merge(parse(one), entries=dict.fromkeys(hosts, ("u", "p"))) == one


def test_all_three_fields_are_written() -> None:
    merged = merge(EMPTY, entries={"cgr.dev": ("_token", "eyJ.a.b")})
    expected = {"username": "_token", "password": "eyJ.a.b", "auth": "X3Rva2VuOmV5Si5hLmI="}
    assert json.loads(merged) == {"auths": {"cgr.dev": expected}}


@pytest.mark.parametrize(
    ("content", "merged"),
    [
        (b'{"a":"\xff","auths":{"b":{"x":"\xfe"}}}', b'{"a":"\xff","auths":{"b":{"x":"\xfe"},%s}}'),
        (b'{"\xff":1,"auths":{"\xfe":{}}}', b'{"\xff":1,"auths":{"\xfe":{},%s}}'),
        (b'{"auths":{"\\ud800":{"x":"\\udfff"}}}', b'{"auths":{"\\ud800":{"x":"\\udfff"},%s}}'),
        (b'{"auths":{"b":1,"b":2},"x":3,"x":4}', b'{"auths":{"b":1,"b":2,%s},"x":3,"x":4}'),
        (b'{"AUTHS":{"b":1},"x":3,"auths":{"c":2}}', b'{"auths":{"b":1,"c":2,%s},"x":3}'),
        (b'{"auths":{"b":1},"auths":null,"auths":{"c":2}}', b'{"auths":{"c":2,%s}}'),
    ],
)
def test_what_is_not_ours_keeps_its_bytes_even_if_they_are_no_utf_8(content: bytes, merged: bytes) -> None:
    ours = b'"cgr.dev":{"auth":"dTpw","password":"p","username":"u"}'
    assert merge(parse(content), entries={"cgr.dev": ("u", "p")}) == merged % ours


def test_auths_that_is_null_becomes_an_object_in_its_place() -> None:
    merged = merge(parse(b'{"a":1,"auths":null,"b":2}'), entries={"cgr.dev": ("u", "p")})
    assert list(msgspec.json.decode(merged)) == ["a", "auths", "b"]


# JWTs.


BAD_PAYLOADS = [
    *(b"[1]", b"null", b"\xff\xfe\xfd", b"[" * 200_000),
    b"{" + b"1" * 9000 + b"}",
    b'{"exp":' + b"1" * 9000 + b"}",
]


@pytest.mark.parametrize(
    "token",
    [
        *("", "a", "a.b", "a.b.c.d", "..", "a.!.c", "a.ä.c", "a.a.c"),
        *(f"a.{encode_segment(payload)}.c" for payload in BAD_PAYLOADS),
    ],
    ids=range(14),
)
def test_what_is_no_jwt_has_no_claims(token: str) -> None:
    assert jwt_claim(token, "exp") is None
    assert jwt_instant(token, "exp") is None


@pytest.mark.parametrize("padding", range(4))
def test_a_payload_of_any_length_is_read(padding: int) -> None:
    assert jwt_claim(jwt(aud="cgr.dev", x="y" * padding), "aud") == "cgr.dev"


def test_a_payload_is_read_in_the_alphabet_of_jwts() -> None:
    token = jwt(sub="~~~>>>???")
    assert {"-", "_"} & set(token)
    assert jwt_claim(token, "sub") == "~~~>>>???"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1767323045, 1767323045),
        (1767323045.9, 1767323045),
        (0, 0),
        (True, None),
        ("1767323045", None),
        (None, None),
        ([1], None),
        (float("nan"), None),
        (float("inf"), None),
    ],
)
def test_a_numeric_date_is_a_number(value: object, expected: int | None) -> None:
    assert jwt_instant(jwt(exp=value), "exp") == expected


@pytest.mark.parametrize("digits", [400, 4000])
def test_an_instant_that_no_clock_can_show_is_none(digits: int) -> None:
    """Who converts it to a float would fail, and whoever can edit a Secret could so stop the controller."""
    assert jwt_instant(jwt(exp=10**digits), "exp") is None


@given(st.text())
def test_no_text_is_an_error_to_the_jwt_reader(text: str) -> None:
    jwt_instant(text, "exp")
    jwt_instant(f"a.{text}.c", "exp")
    jwt_instant(f"a.{encode_segment(text.encode(errors='replace'))}.c", "exp")


def test_the_limit_is_that_of_kubernetes() -> None:
    assert dockerconfig.MAX_BYTES == 1048576
