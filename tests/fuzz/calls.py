"""Hypothesis strategies for calls of the API: plausible ones, and every kind of nonsense.

Bodies are made as JSON text rather than as values, because much of what breaks a server (lone
surrogates, NaN, thousands of nested lists, repeated keys) is not a value that `json.dumps` makes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from hypothesis import strategies as st

PREFIX = "/gradio_api"
WORKFLOWS = ("text-to-image", "variations", "inpaint", "draw-then-outline")
SHORT_RUN = {"prompt": "a red circle on a white background", "steps": 2}
"""A run that takes a fraction of a second."""


@dataclass(frozen=True)
class Call:
    """One request. `stream` is where its answer is read from, with the event's id appended."""

    path: str
    body: bytes
    stream: str = ""
    content_type: str = "application/json"
    method: str = "POST"
    dropped_after_bytes: int | None = None
    """Where the reader of the stream goes away; None: it reads to the end."""

    def __str__(self) -> str:
        body = self.body
        shown = f"{body!r}" if len(body) <= 600 else f"{body[:300]!r} … {body[-300:]!r}"
        return f"{self.method} {self.path} {shown} ({len(body)} bytes)"


def _array(parts: list[str]) -> str:
    return f"[{','.join(parts)}]"


def _object(entries: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{key}:{value}" for key, value in entries) + "}"


def _nested(depth: int) -> str:
    return "[" * depth + "1" + "]" * depth


def _nested_objects(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


_odd_texts = st.sampled_from(
    [
        r'"a\ud800b"', r'"\u0000"', r'"\u202egnp.exe"', r'"a\nb\r\n[2026-01-01] forged"', '""',
        '"NaN"', '"variable:prompt"', '"previous_result:draw.image"', '"constant:os.environ"',
        '"/etc/passwd"', '"../../../../etc/passwd"', '"file:///etc/passwd"', '"http://127.0.0.1:1/"',
        '"https://localhost/x.png"', '"con"', '"%0a%0d"', '"<script>alert(1)</script>"',
        '"builtin:describe_image.json"', '"stabilityai/stable-diffusion-xl-base-1.0"',
    ]
)  # fmt: skip
_odd_numbers = st.sampled_from(
    ["NaN", "Infinity", "-Infinity", "1e999", "-0", "0.1", "1234567890123456789", "9" * 400,
     "-1", "2147483648", "9007199254740993", "1e308"]
)  # fmt: skip
_files = st.sampled_from(
    [
        '{"path":"/etc/passwd","meta":{"_type":"gradio.FileData"}}',
        '{"path":"/etc/passwd"}',
        '{"path":"pyproject.toml","meta":{"_type":"gradio.FileData"},"orig_name":"a.png"}',
        '{"path":"http://127.0.0.1:1/a.png","meta":{"_type":"gradio.FileData"}}',
        '{"path":"a\\u0000b","meta":{"_type":"gradio.FileData"}}',
        '{"path":null,"url":"file:///etc/passwd","meta":{"_type":"gradio.FileData"}}',
        '{"background":"/etc/passwd","layers":["/etc/passwd"],"composite":null}',
    ]
)
_scalars = st.one_of(
    st.sampled_from(["null", "true", "false"]),
    _odd_numbers,
    _odd_texts,
    _files,
    st.text(max_size=20).map(json.dumps),
    st.integers().map(str),
)
_keys = st.one_of(_odd_texts, st.text(max_size=8).map(json.dumps))
_huge = st.one_of(
    st.integers(20, 3000).map(_nested),
    st.integers(20, 3000).map(_nested_objects),
    st.integers(10_000, 400_000).map(lambda length: json.dumps("x" * length)),
    st.integers(1000, 20_000).map(lambda count: _array(["0"] * count)),
    st.integers(1000, 20_000).map(
        lambda count: _object([(f'"k{number}"', "0") for number in range(count)])
    ),
)
nonsense: st.SearchStrategy[str] = st.one_of(
    _scalars,
    _huge,
    st.recursive(
        _scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4).map(_array),
            st.lists(st.tuples(_keys, inner), max_size=4).map(_object),
        ),
        max_leaves=8,
    ),
)
"""Any JSON text, and some that is none (NaN)."""


def _or_nonsense(*plausible: object) -> st.SearchStrategy[str]:
    """Mostly one of these values, else nonsense."""
    right = st.sampled_from([json.dumps(value) for value in plausible])
    return st.one_of(right, right, right, nonsense)


_variables = st.one_of(
    st.just(json.dumps(SHORT_RUN)),
    st.builds(
        lambda entries: _object([(json.dumps(k), json.dumps(v)) for k, v in SHORT_RUN.items()]
                                + entries),
        st.lists(
            st.tuples(
                st.one_of(
                    st.sampled_from(['"prompt"', '"pictures"', '"guidance_scale"', '"steps"',
                                     '"image"', '"mask_image"', '"strength"']),
                    _keys,
                ),
                nonsense,
            ),
            min_size=1,
            max_size=3,
        ),
    ),
    nonsense,
)  # fmt: skip
_pointers = st.one_of(
    st.sampled_from(
        [
            '"/steps/0/pipeline/arguments/prompt"', '"/steps/0/pipeline/arguments/width"',
            '"/steps/0/pipeline/arguments/num_images_per_prompt"', '"/steps/0/name"', '"/steps/9"',
            '"/steps/0/pipeline/from_pretrained_arguments/model_name"', '""', '"/"', '"steps"',
            '"/steps/0/result/content_type"', '"/id"', '"/steps/-1"', '"/steps/0/pipeline/~2"',
        ]
    ),
    _keys,
)  # fmt: skip
_changes = st.one_of(
    st.sampled_from(["null", "{}"]),
    st.lists(st.tuples(_pointers, nonsense), min_size=1, max_size=3).map(_object),
    nonsense,
)
_seeds = _or_nonsense(None, 1, 7, 2**53)
_run_ids = _or_nonsense("20260101-000000-abcdef", "", "../..")

ARGUMENTS: dict[str, tuple[tuple[str, st.SearchStrategy[str]], ...]] = {
    "generate": (
        ("workflow", _or_nonsense("text-to-image", "text-to-image", *WORKFLOWS)),
        ("variables", _variables),
        ("seed", _seeds),
        ("request_id", _or_nonsense(None, "mine")),
        ("fresh", _or_nonsense(True, False)),
        ("changes", _changes),
    ),
    "run_text_to_image": (
        ("prompt", _or_nonsense("a blue star")),
        ("pictures", _or_nonsense(1)),
        ("steps", _or_nonsense(1, 2)),
        ("guidance_scale", _or_nonsense(2.5)),
        ("seed", _seeds),
    ),
    "run_variations": (
        ("image", nonsense),
        ("prompt", _or_nonsense("a blue star")),
        ("strength", _or_nonsense(0.5)),
        ("pictures", _or_nonsense(1)),
        ("steps", _or_nonsense(2)),
        ("guidance_scale", _or_nonsense(2.5)),
        ("seed", _seeds),
    ),
    "list_workflows": (),
    "describe_workflow": (("name", _or_nonsense(*WORKFLOWS, "no-such", "../x")),),
    "cancel_job": (("job_id", _run_ids),),
    "status": (),
    "free_gpu": (("mode", _or_nonsense("when_idle", "cancel_and_free")),),
}
"""Every endpoint with its parameters, in order."""


_paths = st.one_of(
    st.sampled_from(
        ["file=pyproject.toml", "file=/etc/passwd", "file=..%2f..%2fetc/passwd", "file/etc/passwd",
         "file=http://127.0.0.1:1/", "proxy=http://127.0.0.1:1/", "upload", "config", "info",
         "openapi.json", "heartbeat/x", "queue/data", "queue/data?session_hash=x", "queue/status",
         "cancel", "component_server", "reset", "theme.css", "app_id", "%00", "%0a%0dforged"]
    ),
    st.text(max_size=20).map(lambda text: "".join(f"%{byte:02x}" for byte in text.encode())),
)  # fmt: skip
_others = st.one_of(
    st.builds(lambda path: Call(f"{PREFIX}/{path}", b"", method="GET"), _paths),
    st.builds(
        lambda path, body: Call(f"{PREFIX}/{path}", body.encode()),
        _paths.filter(lambda path: not path.startswith("queue/data")),
        nonsense,
    ),
    st.builds(
        lambda number, data: Call(
            f"{PREFIX}/queue/join",
            f'{{"data":{data},"fn_index":{number},"session_hash":"fuzz"}}'.encode(),
        ),
        st.integers(-1, 60),
        st.lists(nonsense, max_size=4).map(_array),
    ),
)
"""Other routes, and the page's own events, whose streams nobody opens."""


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """One call of one endpoint: queued, direct, or by names; sometimes not even JSON."""
    if draw(st.integers(0, 9)) == 0:
        return draw(_others)
    name = draw(st.sampled_from(["generate", "generate", "generate", *ARGUMENTS]))
    parameters = ARGUMENTS[name]
    values = [draw(strategy) for _, strategy in parameters]
    match draw(st.sampled_from(["right", "right", "right", "right", "count", "bytes"])):
        case "count":
            values = draw(st.lists(nonsense, max_size=8))
        case "bytes":
            body = draw(st.one_of(st.binary(max_size=200), st.just(b"{" * 5000), st.just(b"")))
            kind = draw(st.sampled_from(["application/json", "text/plain", "multipart/form-data"]))
            return Call(f"{PREFIX}/call/{name}", body, "", kind)
    data = _array(values)
    match draw(st.sampled_from(["call", "call", "run", "named"])):
        case "call":
            body = f'{{"data":{data}}}'
            drop = draw(st.sampled_from([None, None, None, 0, 200]))
            return Call(f"{PREFIX}/call/{name}", body.encode(), f"{PREFIX}/call/{name}/",
                        dropped_after_bytes=drop)  # fmt: skip
        case "run":
            return Call(f"{PREFIX}/run/{name}", f'{{"data":{data}}}'.encode())
    names = [json.dumps(each) for each, _ in parameters]
    body = _object(list(zip(names, values, strict=False)))
    return Call(f"{PREFIX}/call/v2/{name}", body.encode(), f"{PREFIX}/call/{name}/")
