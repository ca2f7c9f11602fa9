"""Addresses of Redis are what their writers expect, and their mistakes are told without their secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_cache.redis_address import TIMEOUT_S, RedisAddress, parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://cache", RedisAddress(kind="server", nodes=(("cache", 6379),))),
        ("redis://cache:7000/3", RedisAddress(kind="server", nodes=(("cache", 7000),), database=3)),
        ("redis://[::1]:7000", RedisAddress(kind="server", nodes=(("::1", 7000),))),
        (
            "rediss://ann:secret@cache:7000/0?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false&timeout=500ms",
            RedisAddress(
                kind="server",
                nodes=(("cache", 7000),),
                is_tls=True,
                timeout_s=0.5,
                username="ann",
                password="secret",
                tls={"ssl_ca_certs": "/etc/ca.pem", "ssl_check_hostname": False},
            ),
        ),
        (
            "redis+cluster://:p%40ss@a:1,b:2,c",
            RedisAddress(kind="cluster", nodes=(("a", 1), ("b", 2), ("c", 6379)), password="p@ss"),
        ),
        ("rediss+cluster://a:1/0", RedisAddress(kind="cluster", nodes=(("a", 1),), is_tls=True)),
        (
            "redis+sentinel://s1,s2:7/mymaster/2?sentinel_username=u&sentinel_password=p%26q",
            RedisAddress(
                kind="sentinel",
                nodes=(("s1", 26379), ("s2", 7)),
                service="mymaster",
                database=2,
                sentinel_username="u",
                sentinel_password="p&q",
            ),
        ),
    ],
)
def test_each_form_says_what_it_says(text: str, expected: RedisAddress) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["redis://h?timeout=250ms", "redis://h"])
def test_silence_is_short_unless_asked_otherwise(text: str) -> None:
    assert parse_address(text).timeout_s == TIMEOUT_S == 0.25


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http://h", "expected redis://HOST"),
        ("redis://", "HOST:PORT"),
        ("redis://h:99999", "HOST:PORT"),
        ("redis://a,b", "redis\\+cluster"),
        ("redis://h/zero", "number of a database"),
        ("redis+cluster://h/1", "only database 0"),
        ("redis+sentinel://h", "name of a master"),
        ("redis+sentinel://h/m/x", "number of a database"),
        ("redis://h?ssl_ca_certs=/ca", "begins with rediss"),
        ("redis://h?sentinel_password=x", "sentinel://"),
        ("redis://h?decode_responses=true", "decode_responses"),
        ("redis://h?timeout=250", "250ms or 1s"),
        ("redis://h?timeout=0s", "250ms or 1s"),
        ("rediss://h?ssl_cert_reqs=maybe", "required or none"),
    ],
)
def test_a_mistake_is_told_with_what_was_expected(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_address(text)


PASSWORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4).map(
    lambda text: text.replace("%", "%25")
)


@given(PASSWORDS, st.sampled_from(["redis", "redis+cluster"]))
def test_a_password_needs_no_escapes_but_for_the_percent_sign(written: str, scheme: str) -> None:
    address = parse_address(f"{scheme}://ann:{written}@h:1/0?timeout=1s")

    assert address.password == written.replace("%25", "%")
    assert (address.username, address.nodes) == ("ann", (("h", 1),))
    without = repr(parse_address(f"{scheme}://ann:----@h:1/0?timeout=1s"))
    assert repr(address) == without  # compared whole: a password may be a word of it, such as None
    assert address.password not in address.masked(f"cannot log in with {address.password}")


@pytest.mark.parametrize(
    "text", ["redis://:{}@h:1:2", "redis://:{}@h/x", "redis+sentinel://:{}@h", "redis://h?password={}"]
)
def test_no_mistake_shows_a_password(text: str) -> None:
    with pytest.raises(ValueError, match="expected") as raised:
        parse_address(text.format("open-sesame"))

    assert "open-sesame" not in str(raised.value)
