"""Which URLs media may come from, checked before any connection."""

from __future__ import annotations

import pytest

from app.media.urls import RefusedURLError, checked_url, is_public, is_url


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("file:///etc/passwd", "'file:' is not fetched; http and https are."),
        ("ftp://example.com/cat.png", "'ftp:' is not fetched; http and https are."),
        ("data:image/png;base64,AAAA", "'data:' is not fetched; http and https are."),
        ("http://", "The URL names no host."),
        ("http:///cat.png", "The URL names no host."),
        ("https://me:secret@example.com/cat.png", "The URL holds a user or a password"),
        ("https://token@example.com/cat.png", "The URL holds a user or a password"),
        ("https://example.com/a cat.png", "The URL holds a blank"),
        ("https://example.com\\@127.0.0.1/", "a backslash"),
        ("https://example.com:8443/cat.png", "Port 8443 is not allowed for media."),
        ("https://example.com:22/", "Port 22 is not allowed"),
        ("http://localhost/cat.png", "'localhost' is not the name of a public server."),
        ("http://localhost./cat.png", "'localhost.' is not the name of a public server."),
        ("http://a.localhost/cat.png", "is not the name of a public server."),
        ("http://jenkins/cat.png", "'jenkins' is not the name of a public server."),
        ("http://NAS.Local/cat.png", "'nas.local' is not the name of a public server."),
        ("http://vault.corp.internal/", "is not the name of a public server."),
        ("http://router.lan/", "is not the name of a public server."),
        ("http://tv.home.arpa/", "is not the name of a public server."),
        ("http://api.default.svc.cluster.local/", "is not the name of a public server."),
        ("http://127.1/cat.png", "'127.1' is not the name of a public server."),
        ("http://2130706433/", "'2130706433' is not the name of a public server."),
        ("http://0x7f000001/", "'0x7f000001' is not the name of a public server."),
        ("http://0x7f.1/", "'0x7f.1' is not the name of a public server."),
        ("http://127.0.0.1/cat.png", "127.0.0.1 is not a public address."),
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254 is not a public address."),
        ("http://[::1]/cat.png", "::1 is not a public address."),
        ("http://[::ffff:10.0.0.1]/cat.png", "is not a public address."),
        ("http://10.1.2.3/cat.png", "10.1.2.3 is not a public address."),
        ("http://[/cat.png", "The URL is malformed"),
        (f"https://example.com/{'a' * 8000}", "8020 characters; 8000 fit."),
    ],
)  # fmt: skip
def test_non_public_url_is_refused(url: str, sentence: str):
    with pytest.raises(RefusedURLError) as caught:
        checked_url(url)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/cat.png",
        "HTTPS://EXAMPLE.com/cat",
        "http://example.com:80/cat.png?size=large&format=jpg",
        "https://bücher.example/Käse.png",
        "http://93.184.215.14/cat.png",
        "https://[2606:2800:220:1:248:1893:25c8:1946]/cat.png",
    ],
)
def test_public_url_is_allowed(url: str):
    assert checked_url(url).host


def test_listed_server_is_allowed_on_its_port_only():
    assert checked_url("http://nas.home:8080/a.png", ["NAS.home:8080"]).port == 8080
    for other in ("http://nas.home:8081/a.png", "http://127.0.0.1/a.png"):
        with pytest.raises(RefusedURLError):
            checked_url(other, ["nas.home:8080"])


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("::ffff:93.184.215.14", True),
        ("64:ff9b::5db8:d70e", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
        ("2001:0:4136:e378:8000:63bf:80ff:fffe", False),
    ],
)
def test_wrapped_address_is_public_only_if_inner_is(address: str, public: bool):
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://example.com/cat.png", True),
        ("HTTP://example.com", True),
        ("file:///etc/passwd", True),
        ("data:image/png;base64,AAAA", True),
        ("cat.png", False),
        ("a:b.png", False),
        ("previous_result:draw", False),
        ("folder/http://x", False),
        ("", False),
        (None, False),
    ],
)
def test_url_is_distinguished_from_path(text: object, url: bool):
    assert is_url(text) is url
