"""Where keys are sent: addresses that two parsers could read in two ways are refused, http but for this machine too."""

from __future__ import annotations

import pytest

from build_index.bucket.endpoint import endpoint_of
from build_index.ingest.formats.address import _store
from vantage.errors import InputError

ACCOUNT = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("https://s3.example.com", "https://s3.example.com"),
        ("HTTPS://S3.Example.com/", "https://s3.example.com"),
        ("https://s3.example.com:9000", "https://s3.example.com:9000"),
        ("https://example.com/storage/v1/s3/", "https://example.com/storage/v1/s3"),
        (f"https://{ACCOUNT}.eu.r2.cloudflarestorage.com", f"https://{ACCOUNT}.eu.r2.cloudflarestorage.com"),
        ("https://10.0.0.7:443", "https://10.0.0.7:443"),
        ("https://[2001:db8::1]:9000", "https://[2001:db8::1]:9000"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://localhost:9000/", "http://localhost:9000"),
        ("http://LOCALHOST", "http://localhost"),
        ("http://[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_plain_addresses(given: str, wanted: str) -> None:
    assert endpoint_of("s3", {"AWS_ENDPOINT_URL": given}) == wanted == endpoint_of("r2", {"AWS_ENDPOINT_URL_S3": given})


@pytest.mark.parametrize(
    "given",
    [
        "http://evil.com\\@127.0.0.1", "https://evil.com\\@127.0.0.1", "http://127.0.0.1\\@evil.com",
        "http:\\\\127.0.0.1",
        "ftp://127.0.0.1", "file:///etc/passwd", "file://localhost/x", "gopher://localhost", "javascript:alert(1)",
        "localhost",
        "//localhost", "localhost:9000", "http:localhost", "http:/localhost", "http:///localhost", "https://", "http://",
        "http://evil.com", "http://10.0.0.1", "http://0.0.0.0", "http://localhost.evil.com", "http://127.0.0.1.evil.com",
        "http://127.1", "http://2130706433", "http://0x7f000001", "http://0177.0.0.1", "http://[::ffff:10.0.0.1]",
        "http://user@127.0.0.1", "http://user:secret@localhost", "https://key:secret@s3.example.com", "https://@s3.example.com",
        "http://127.0.0.1 ", " http://127.0.0.1", "http://127.0.0.1\n", "http://127.0.0.1\t.evil.com", "http://127.0.0.1\x00",
        "http://127.0.0.1\r\nHost: evil.com", "https://s3.example.com?x=1", "https://s3.example.com#x", "http://localhost#@evil.com",
        "http://localhost?@evil.com", "https://s3.example.com/../x", "https://s3.example.com/a/./b", "https://s3.example.com//x",
        "https://s3.example.com:0", "https://s3.example.com:65536", "https://s3.example.com:99999999", "https://s3.example.com:",
        "https://s3.example.com:9a", "https://s3.example.com:-1", "https://s3.example.com:９", "https://[::1", "https://::1",
        "https://[zz]", "https://[1.2.3.4.5]", "https://exämple.com", "https://ⓔxample.com", "http://ｌocalhost", "http://loc\u00adalhost",
        "http://127。0。0。1", "https://-a.com", "https://a..com", "https://.a.com", "https://a.com.", "http://localhost.",
        "https://a.com/%2e%2e", "https://a.com/x y", "https://" + "a" * 300,
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_other_addresses_are_refused(given: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("s3", "r2"):
        with pytest.raises(InputError) as refused:
            endpoint_of(scheme, {name: given, "CLOUDFLARE_ACCOUNT_ID": ACCOUNT})
        assert "secret" not in str(refused.value) and str(refused.value).isprintable()
    if "\x00" not in given:
        monkeypatch.setenv(name, given)
        with pytest.raises(InputError):
            _store("s3")  # a source


@pytest.mark.parametrize(
    "account", ["", "x", ACCOUNT.upper(), ACCOUNT + "\n", ACCOUNT + "/", f"evil.com/{ACCOUNT[:23]}"]
)
def test_an_account_is_32_hex_digits(account: str) -> None:
    with pytest.raises(InputError, match="account"):
        endpoint_of("r2", {"CLOUDFLARE_ACCOUNT_ID": account})
    assert endpoint_of("s3", {"CLOUDFLARE_ACCOUNT_ID": account}) is None
    assert endpoint_of("r2", {"CLOUDFLARE_ACCOUNT_ID": ACCOUNT}) == f"https://{ACCOUNT}.r2.cloudflarestorage.com"
