"""The mailbox: every accepted call is made, every caller is answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from app.engine.mailbox import Mailbox
from app.errors import EngineClosed
from tests.engine.bench import PATIENCE_S


@pytest.fixture
def served() -> Iterator[Mailbox]:
    """A mailbox with a thread that makes its calls."""
    mailbox, over = Mailbox(), threading.Event()

    def serve() -> None:
        while not over.is_set():
            if (call := mailbox.take(None)) is not None:
                call()

    thread = threading.Thread(target=serve)
    thread.start()
    yield mailbox
    mailbox.post(over.set)
    thread.join()


@pytest.mark.parametrize("error", [TimeoutError, KeyError, KeyboardInterrupt, EngineClosed])
def test_ask_raises_what_the_function_raises(served: Mailbox, error: type[BaseException]):
    """A TimeoutError too, which an unresponsive network folder raises."""

    def function() -> None:
        raise error("no")

    with ThreadPoolExecutor() as pool:
        answer = pool.submit(served.ask, function)
        with pytest.raises(error):
            answer.result(PATIENCE_S)
    assert served.ask(lambda: 7) == 7


def test_close_returns_remaining_calls_and_refuses_new_ones():
    mailbox, made = Mailbox(), []
    assert mailbox.post(lambda: made.append(1))
    for call in mailbox.close():
        call()
        assert not mailbox.post(lambda: made.append(2))
    assert made == [1]
    with pytest.raises(EngineClosed):
        mailbox.ask(lambda: None)
    answer: Future[int] = Future()
    mailbox.answer(answer, lambda: answer.set_result(1))
    assert isinstance(answer.exception(0), EngineClosed)


def test_take_returns_none_after_timeout():
    assert Mailbox().take(0.0) is None
