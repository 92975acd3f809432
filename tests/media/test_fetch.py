"""Fetching from an allowed site on loopback, and refusals."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpcore
import pytest

from app.errors import Cancelled, FetchError
from app.media.fetch import MAX_REDIRECTS, Unreachable, _CheckedBackend, _Watch, open_url
from tests.site import Site, picture


def body(site: Site, url: str, **how: object) -> bytes:
    with open_url(url, {}, hosts=site.urls.media_hosts, **how) as answer:  # type: ignore[arg-type]
        return b"".join(answer.parts)


def refused(site: Site, url: str, **how: object) -> str:
    with pytest.raises(FetchError) as caught:
        body(site, url, **how)
    return caught.value.message


def test_redirect_is_followed(site: Site):
    site.put("/cat.png", picture("blue"))
    site.redirect("/old", "/newer")
    site.redirect("/newer", site.url("/cat.png?size=large"))
    assert body(site, site.url("/old")) == picture("blue")
    assert site.asked == ["/old", "/newer", "/cat.png?size=large"]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254 is not a public address."),
        ("http://127.0.0.1/", "127.0.0.1 is not a public address."),
        ("http://localhost/", "'localhost' is not the name of a public server."),
        ("http://jenkins/", "'jenkins' is not the name of a public server."),
        ("http://nas.local/", "'nas.local' is not the name of a public server."),
        ("http://127.1/", "'127.1' is not the name of a public server."),
        ("file:///etc/passwd", "'file:' is not fetched"),
        ("http://u:p@example.com/", "a user or a password"),
    ],
)
def test_every_redirect_is_checked_again(site: Site, target: str, reason: str):
    message = refused(site, site.redirect("/cat.png", target))
    assert reason in message
    assert site.url("/cat.png") in message


def test_endless_redirects_are_refused(site: Site):
    site.redirect("/round", "/round")
    assert "more than 5 times" in refused(site, site.url("/round"))
    assert len(site.asked) == MAX_REDIRECTS + 1


def test_silent_answer_times_out(site: Site):
    hold = threading.Event()
    site.put("/slow", write=lambda _send: hold.wait(10))
    assert "nothing came for 0.3 seconds" in refused(site, site.url("/slow"), silent_s=0.3)
    hold.set()


def test_slow_answer_times_out(site: Site):
    site.put("/drip", write=_endless(b"."))
    assert "it takes too long" in refused(site, site.url("/drip"), whole_s=0.5)


def test_unwanted_fetch_is_cancelled(site: Site):
    stopped = threading.Event()

    def write(send: Callable[[bytes], object]) -> None:
        stopped.set()
        _endless(b".")(send)

    site.put("/drip", write=write)
    with pytest.raises(Cancelled):
        body(site, site.url("/drip"), stopped=stopped.is_set)


def test_missing_server_is_reported(site: Site):
    with site.gone(), pytest.raises(Unreachable) as caught:
        body(site, site.url("/cat.png"))
    assert "could not be fetched" in caught.value.message
    assert "Is there a network?" in caught.value.hint


def test_unknown_name_is_reported(site: Site):
    message = refused(site, "https://no-such-host.example/cat.png")
    assert "the name 'no-such-host.example' leads to no public address" in message


def test_local_name_is_reported_like_unknown_name(
    caplog: pytest.LogCaptureFixture,
):
    """This machine's own name stands for one of a local network."""
    backend = _CheckedBackend((), _Watch(time.monotonic() + 60, 60, lambda: False))
    for host in ("localhost", "no-such-host.example"):
        with pytest.raises(
            httpcore.ConnectError, match=f"^the name '{host}' leads to no public address$"
        ):
            backend.connect_tcp(host, 80)
    assert "The name 'localhost' leads to" in caplog.text


def test_non_http_answer_is_reported(site: Site):
    def greet(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"220 mail.example ESMTP\r\n")

    with _listening(greet) as port:
        url = f"http://127.0.0.1:{port}/"
        with (
            pytest.raises(Unreachable, match="the answer breaks off"),
            open_url(url, {}, hosts=[f"127.0.0.1:{port}"]),
        ):
            pass


def test_untrusted_certificate_is_refused(tmp_path: Path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt",
         "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def shake_hands(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            context.wrap_socket(client, server_side=True).close()

    with _listening(shake_hands) as port:
        url = f"https://127.0.0.1:{port}/"
        with (
            pytest.raises(Unreachable, match="certificate is not valid"),
            open_url(url, {}, hosts=[f"127.0.0.1:{port}"]),
        ):
            pass


def _endless(content: bytes) -> Callable[[Callable[[bytes], object]], None]:
    def write(send: Callable[[bytes], object]) -> None:
        while True:
            send(content)

    return write


@contextlib.contextmanager
def _listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Opens a port of loopback where each client gets this answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client:
                        answer(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)
