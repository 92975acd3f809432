"""Limits one guest's share of what Gradio has for all: places for calls, and visits' states."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.state_holder import SessionState, StateHolder

from app.api.people import current_person


def limit_calls(page: gr.Blocks, most: int) -> None:
    """Refuses further calls of a guest while this many of theirs wait or are answered."""
    queue: Any = page._queue
    push, person_of = queue.push, dict[str, str]()

    async def limited_push(*, body: Any, request: Any, username: str | None) -> Any:
        who = current_person.get()
        for over in person_of.keys() - queue.event_ids_to_events.keys():
            del person_of[over]
        if who and sum(each == who for each in person_of.values()) >= most:
            sentence = f"{most} of your calls are waiting already. Try again when some are done."
            return False, sentence, "queue_full"
        answer = await push(body=body, request=request, username=username)
        if answer[0]:
            person_of[answer[1]] = who
        return answer

    queue.push = limited_push


class Visits(StateHolder):
    """States of visits; a guest's newest replaces their oldest."""

    def __init__(self, most_per_guest: int) -> None:
        super().__init__()
        self._most = most_per_guest
        self._person_of: dict[str, str] = {}

    def __getitem__(self, session_id: str) -> SessionState:
        with self.lock:
            if session_id not in self.session_data:
                self._make_room(session_id, current_person.get())
        return super().__getitem__(session_id)

    def _make_room(self, session_id: str, who: str) -> None:
        kept = self.session_data
        self._person_of = {each: of for each, of in self._person_of.items() if each in kept}
        self._person_of[session_id] = who
        # In the order of their last use.
        own = [each for each in kept if who and self._person_of.get(each) == who]
        for each in own[: max(0, len(own) - self._most + 1)]:
            del kept[each]
            self.time_last_used.pop(each, None)


def limit_visits(page: gr.Blocks, app: Any, most_per_guest: int) -> None:
    """Makes the application keep its visits' states like this. Call before it answers."""
    visits = Visits(most_per_guest)
    visits.set_blocks(page)
    app.state_holder = visits
