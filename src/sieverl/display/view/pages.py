"""The pages of the viewer. Every state has an address; all that a model or a file says is escaped by the templates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from sieverl.display.view import curves, find
from sieverl.display.view.groups import COLUMNS, SHOW, Filter, Group, groups, numbers, overview
from sieverl.display.view.store import Store
from sieverl.display.view.tokens import COLOURS, coloured
from sieverl.errors import SieveRLError
from sieverl.run_dir.rollouts import PART, Kind
from sieverl.run_dir.saved import SavedRun
from sieverl.text import printable, storable
from sieverl.verify.explain import ALWAYS, explain

PAGE = 40  # groups on a page
LONGEST = 20_000  # characters of a response that are shown at once
CUT = 300  # characters of a prompt in a list
KINDS: dict[str, Kind] = {"step": "step", "eval": "eval"}

TEMPLATES = Environment(
    loader=PackageLoader("sieverl.display.view"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
TEMPLATES.filters["shown"] = lambda text: printable(str(text))
TEMPLATES.filters["short"] = lambda text: short(printable(str(text)), CUT)
TEMPLATES.filters["long"] = lambda text: short(printable(str(text)), LONGEST)
TEMPLATES.filters["percent"] = lambda x: "" if x is None or math.isnan(x) else f"{x:.1%}"
TEMPLATES.filters["number"] = lambda x: "" if x is None else f"{x:.4g}"
TEMPLATES.globals["address"] = lambda base, **query: Markup(
    f"{base}?{urlencode({k: v for k, v in query.items() if v not in (None, '')})}"
)


def short(text: str, most: int) -> str:
    """The beginning of a text, with a note of how much is left out.

    >>> short("abcdef", 4)
    'abcd… (2 more characters)'
    """
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most:,} more characters)"


def page(name: str, request: Request, status: int = 200, **values: Any) -> HTMLResponse:
    """A page of a template."""
    return HTMLResponse(TEMPLATES.get_template(f"{name}.html.j2").render(path=request.url.path, **values), status)


def store_of(request: Request) -> Store:
    """What the viewer keeps."""
    found: Store = request.app.state.store
    return found


def run_of(request: Request, name: str | None = None) -> SavedRun:
    """The run that the address names."""
    name = name or request.path_params["run"]
    found = store_of(request).run(name)
    if found is None:
        raise HTTPException(404, f"there is no run {short(name, 80)} in {store_of(request).folder}")
    return found


def integer(request: Request, name: str, default: int | None = None) -> int | None:
    """A whole number of the query; the default where it is none."""
    text = request.query_params.get(name, "")
    return int(text) if text.isdigit() and text.isascii() and len(text) < 10 else default


def problem(request: Request, error: Exception) -> Response:
    """A page that says what is not there."""
    detail, code = getattr(error, "detail", "not found"), getattr(error, "status_code", 404)
    return page("problem", request, code, detail=detail)


# --- runs -------------------------------------------------------------------------------------------


def index(request: Request) -> Response:
    """All runs."""
    store = store_of(request)
    found = [run for name in store.names() if (run := store.run(name)) is not None]
    return page("index", request, folder=store.folder, runs=[curves.in_short(run) for run in found])


def run(request: Request) -> Response:
    """One run: its curves, its steps, and what it was made with."""
    found = run_of(request)
    tag = f'"{abs(hash(str(store_of(request).stamp(found.path))))}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304)
    answer = page(
        "run",
        request,
        run=found,
        short=curves.in_short(found),
        charts=curves.charts(found),
        settings=curves.settings(found.recipe),
    )
    answer.headers["ETag"] = tag
    return answer


# --- steps and groups -------------------------------------------------------------------------------


def table_of(request: Request) -> tuple[SavedRun, Kind, int, Any]:
    """The run, the kind and number of the step, and its responses."""
    found, kind, number = run_of(request), KINDS.get(request.path_params["kind"]), request.path_params["step"]
    if kind is None:
        raise HTTPException(404, "an address has /step/ or /eval/ before its number")
    table = store_of(request).responses(found, number, kind)
    if table is None:
        why = next((text for text in reversed(found.problems) if f"{kind}-{number:06d}" in text), "it has no file")
        logged = ", ".join(map(str, find.nearest(found.logged[kind], number)))
        raise HTTPException(
            404, f"the responses of {kind} {number} cannot be shown: {why}; there are {logged or 'none'}"
        )
    return found, kind, number, table


def filter_of(request: Request) -> Filter:
    """The filter that the query asks for."""
    query = request.query_params
    show = query.get("show", "all")
    text = storable(query.get("q", ""))[:200]
    return Filter(show if show in SHOW else "all", text, integer(request, "shortest"), integer(request, "longest"))


def step(request: Request) -> Response:
    """The groups of one step."""
    found, kind, number, table = table_of(request)
    wanted, first = filter_of(request), integer(request, "first", 0) or 0
    chosen = numbers(table, wanted)
    return page(
        "step",
        request,
        run=found,
        kind=kind,
        step=number,
        around=find.around(found.logged[kind], number),
        wanted=wanted,
        show=SHOW,
        counts=overview(table),
        chosen=len(chosen),
        first=first,
        size=PAGE,
        groups=groups(table, chosen[first : first + PAGE]),
        rewards=curves.reward_distribution(table),
        row=next((row for row in found.rows if row["step"] == number), {}),
    )


def group(request: Request) -> Response:
    """One group: its responses side by side."""
    found, kind, number, table = table_of(request)
    name, wanted = request.path_params["group"], filter_of(request)
    rows = found.responses(number, None, kind, [("group", "=", name)])
    if rows is None or not rows.num_rows:
        raise HTTPException(404, f"{kind} {number} has no group {name}")
    responses = rows.to_pylist()
    colour = request.query_params.get("colour", "")
    tokenizer = store_of(request).tokenizer(found) if colour in COLOURS else None
    return page(
        "group",
        request,
        run=found,
        kind=kind,
        step=number,
        group=groups(rows.select(COLUMNS), [name])[0],
        around=find.around(numbers(table, wanted), name),
        wanted=wanted,
        responses=responses,
        parts=[name.removeprefix(PART) for name in rows.column_names if name.startswith(PART)],
        part=PART,
        colours=COLOURS,
        colour=colour,
        pieces=[coloured(tokenizer, row, colour) if tokenizer else None for row in responses],
        has_tokenizer=store_of(request).tokenizer(found) is not None,
        rules=rules_of(found),
    )


def rules_of(found: SavedRun) -> list[str]:
    """The rules by which a response can be verified again; the run's own first."""
    name = found.setting("verify.name", "math")
    own = isinstance(name, str) and name in ("math", "number", "choice", "string")
    return [*(["as in this run"] if own else []), *ALWAYS]


async def verify(request: Request) -> Response:
    """Verify a response again, and say how."""
    found, kind, number, _ = table_of(request)
    name, sample = request.path_params["group"], request.path_params["sample"]
    rules = parse_qs((await request.body())[:1000].decode(errors="replace")).get("rules", [""])[0]
    if rules not in rules_of(found):
        raise HTTPException(400, f"the rules can be {', '.join(rules_of(found))}")
    rows = found.responses(number, None, kind, [("group", "=", name), ("sample", "=", sample)])
    if rows is None or not rows.num_rows:
        raise HTTPException(404, f"{kind} {number} has no response {sample} in group {name}")
    row = rows.to_pylist()[0]
    own = {k: v for k, v in found.recipe.get("verify", {}).items() if k not in LIMITS}
    spec = ALWAYS.get(rules, own)
    try:
        told = await run_in_threadpool(explain, spec, row["response"], {"answer": row["answer"]})
    except SieveRLError as error:
        raise HTTPException(400, str(error)) from error
    return page("verdict", request, run=found, kind=kind, step=number, row=row, rules=rules, told=told)


LIMITS = ("workers", "timeout_s", "memory_mb", "network", "environment", "graded")  # of a recipe's [verify] table


# --- across steps and runs --------------------------------------------------------------------------


def prompt(request: Request) -> Response:
    """The same prompt in every step that sampled it."""
    found, number = run_of(request), request.path_params["prompt"]
    return stream("prompt", request, find.of_prompt(found, number), run=found, prompt=number)


def search(request: Request) -> Response:
    """The responses of the whole run that contain a text, as they are found."""
    found, text = run_of(request), storable(request.query_params.get("q", ""))[:200]
    hits: Iterator[tuple[Kind, int, Group]] = find.containing(found, text) if text else iter(())
    return stream("search", request, hits, run=found, text=text)


def stream(name: str, request: Request, hits: Iterator[tuple[Kind, int, Group]], **values: Any) -> StreamingResponse:
    """A page that grows while it is read."""
    template = TEMPLATES.get_template(f"{name}.html.j2")
    parts = template.generate(path=request.url.path, hits=hits, most=find.MOST, **values)
    return StreamingResponse(parts, media_type="text/html; charset=utf-8")


def compare(request: Request) -> Response:
    """Two runs on the prompts that both were evaluated on."""
    names = store_of(request).names()
    chosen = [request.query_params.get(key, "") for key in ("a", "b")]
    if not all(chosen):
        return page("compare", request, names=names, chosen=chosen, pairs=None, runs=None, steps=None)
    runs = [run_of(request, name) for name in chosen]
    steps = [integer(request, key) for key in ("step_a", "step_b")]
    pairs, steps = find.shared(runs, steps)
    return page("compare", request, names=names, chosen=chosen, pairs=pairs, runs=runs, steps=steps)
