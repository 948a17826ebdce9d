"""Draw the imports between the rooms of src/sieverl: `python tools/draw_house.py [--out docs/house.png]`.

A room is a folder of the package, or a file that stands directly in it. It stands above every room that it imports.
An arrow points from a room to one that it imports; arrows that others imply are left out. What must not be is red:
rooms that import each other, and rooms with files that do.
"""

from __future__ import annotations

import argparse
import sys
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from house import Graph, circles, imports, name_of, reached, room, rooms  # noqa: E402

HEIGHT, FLOOR, GAP = 0.42, 0.80, 0.16  # inches: of a room, from floor to floor, between two rooms
PULL = 0.8  # how strongly neighbours attract; the rest of 1 draws to the middle of the picture
FOLDER, FILE, LINE, GREY, WRONG = "#d6e4f5", "#f2f2f2", "#44546a", "#555555", "#d02020"
LEGEND = "blue: folders   grey: files   arrow: imports   (implied ones left out; circles and upward ones would be red)"


class Node(NamedTuple):
    """A room on its floor, or (`target` is set) the place where an arrow passes a floor on its way to `target`."""

    name: str
    floor: int
    target: str = ""


# --- the graph ------------------------------------------------------------------------------------------------


def floors_of(graph: Graph) -> dict[str, int]:
    """0 for a room that imports nothing, else one more than the highest floor below; circles are left aside."""
    below = {name: {o for o in others if name not in reached(o, graph)} for name, others in graph.items()}
    floors: dict[str, int] = {}

    def visit(name: str) -> int:
        if name not in floors:
            floors[name] = 1 + max(map(visit, below[name]), default=-1)
        return floors[name]

    for name in graph:
        visit(name)
    return floors


def arrows_of(graph: Graph) -> list[tuple[str, str]]:
    """The imports that no chain of other imports implies."""
    every = {name: reached(name, graph) for name in graph}

    def implied(name: str, other: str) -> bool:
        return any(other in every[third] and name not in every[third] for third in graph[name] - {other})

    return [(name, other) for name in sorted(graph) for other in sorted(graph[name]) if not implied(name, other)]


# --- where things stand ---------------------------------------------------------------------------------------


def chains(arrows: list[tuple[str, str]], floors: dict[str, int]) -> list[list[Node]]:
    """Each arrow that points down as the nodes that it goes through, one a floor."""
    out = []
    for name, other in arrows:
        between = [Node(name, floor, other) for floor in range(floors[name] - 1, floors[other], -1)]
        out.append([Node(name, floors[name]), *between, Node(other, floors[other])])
    return out


def ordered(nodes: list[Node], links: list[tuple[Node, Node]]) -> list[list[Node]]:
    """The nodes of each floor from left to right, with few crossings: each goes to the mean place of its neighbours."""
    rows = [[n for n in nodes if n.floor == floor] for floor in range(max(n.floor for n in nodes) + 1)]
    best, fewest = rows, crossings(rows, links)
    for sweep in range(60):
        direction = range(len(rows)) if sweep % 2 else range(len(rows) - 1, -1, -1)
        for floor in direction:
            place = {n: i / max(1, len(row) - 1) for row in rows for i, n in enumerate(row)}
            side = 0 if sweep % 2 else 1  # look at the floor below, or at the one above
            near = {n: [place[link[1 - side]] for link in links if link[side] == n] for n in rows[floor]}
            rows[floor] = sorted(rows[floor], key=lambda n: sum(near[n]) / len(near[n]) if near[n] else place[n])
        if (found := crossings(rows, links)) < fewest:
            best, fewest = [list(row) for row in rows], found
    return best


def crossings(rows: list[list[Node]], links: list[tuple[Node, Node]]) -> int:
    """How many pairs of links cross between two floors."""
    place = {n: i for row in rows for i, n in enumerate(row)}
    ends = [(a.floor, place[a], place[b]) for a, b in links]
    return sum(p[0] == q[0] and (p[1] - q[1]) * (p[2] - q[2]) < 0 for p, q in combinations(ends, 2))


def spread(rows: list[list[Node]], links: list[tuple[Node, Node]], width: dict[Node, float]) -> dict[Node, float]:
    """The middle of each node, in inches: near its neighbours, in the order of its floor, and not over another."""
    x = {n: 0.0 for row in rows for n in row}
    near = {n: [b if a == n else a for a, b in links if n in (a, b)] for n in x}
    for _ in range(200):
        for row in rows:
            wanted = [PULL * sum(x[m] for m in near[n]) / len(near[n]) if near[n] else x[n] for n in row]
            left, right = list(wanted), list(wanted)
            for i in range(1, len(row)):
                left[i] = max(left[i], left[i - 1] + (width[row[i]] + width[row[i - 1]]) / 2 + GAP)
            for i in range(len(row) - 2, -1, -1):
                right[i] = min(right[i], right[i + 1] - (width[row[i]] + width[row[i + 1]]) / 2 - GAP)
            x |= {n: (a + b) / 2 for n, a, b in zip(row, left, right, strict=True)}
    return x


# --- the picture ----------------------------------------------------------------------------------------------


def draw(package: Path, out: Path) -> None:
    """Draw the rooms of `package` into `out` (PNG)."""
    files = imports(package)
    graph = rooms(files)
    floors, arrows, sizes = floors_of(graph), arrows_of(graph), lines_of(package)
    down = chains([(a, b) for a, b in arrows if floors[a] > floors[b]], floors)
    links = [link for chain in down for link in pairwise(chain)]
    home = {name: Node(name, floor) for name, floor in floors.items()}
    nodes = sorted({*home.values(), *(n for link in links for n in link)})
    width = {n: 0.02 if n.target else 0.30 + 0.085 * max(len(label(n.name)), 9) for n in nodes}
    rows = ordered(nodes, links)
    x = spread(rows, links, width)
    left, right = min(x[n] - width[n] / 2 for n in x), max(x[n] + width[n] / 2 for n in x)
    figure = Figure(figsize=(right - left + 0.4, FLOOR * len(rows) + 0.35), dpi=120)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(left - 0.2, right + 0.2), ylim=(-0.75, FLOOR * len(rows) - 0.40))
    axes.axis("off")
    for chain in down:
        axes.add_patch(arrow(curve([(x[n], n.floor * FLOOR) for n in chain]), LINE))
    for name, other in arrows:
        if floors[name] <= floors[other]:
            axes.add_patch(arrow(Curve([(x[home[n]], floors[n] * FLOOR) for n in (name, other)]), WRONG))
    wrong = {room(name) for circle in circles(files) for name in circle}
    for name, node in home.items():
        color = FOLDER if (package / name.rpartition(".")[2]).is_dir() else FILE
        middle = (x[node], node.floor * FLOOR)
        draw_room(axes, middle, width[node], (label(name), sizes[name]), (color, WRONG if name in wrong else LINE))
    axes.text((left + right) / 2, -0.55, LEGEND, fontsize=8.5, ha="center", color=GREY)
    figure.savefig(out, metadata={"Software": None})


def draw_room(
    axes: Axes, middle: tuple[float, float], width: float, text: tuple[str, int], colors: tuple[str, str]
) -> None:
    """One box; `text` are its name and its lines of code, `colors` those of its face and its edge."""
    (x, y), (name, lines), (face, edge) = middle, text, colors
    corner, round_ = (x - width / 2, y - HEIGHT / 2), "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch(corner, width, HEIGHT, round_, facecolor=face, edgecolor=edge, zorder=3))
    weight = "bold" if face == FOLDER else "normal"
    axes.text(x, y + 0.08, name, fontsize=10, weight=weight, ha="center", va="center", zorder=4)
    axes.text(x, y - 0.10, f"{lines:,} lines", fontsize=8, color=GREY, ha="center", va="center", zorder=4)


def lines_of(package: Path) -> dict[str, int]:
    """Lines of Python in each room."""
    sizes: dict[str, int] = {}
    for path in package.rglob("*.py"):
        name = room(name_of(path, package))
        sizes[name] = sizes.get(name, 0) + len(path.read_text(encoding="utf-8").splitlines())
    return sizes


def label(name: str) -> str:
    """The name in the picture: without the package, which itself is its `__init__`."""
    return name.partition(".")[2] or "__init__"


def arrow(path: Curve, color: str) -> FancyArrowPatch:
    """An arrow along a path, behind the rooms."""
    return FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=10, color=color, linewidth=1.1, zorder=1)


def curve(points: list[tuple[float, float]]) -> Curve:
    """A smooth line from the foot of the first room to the top of the last, upright at each floor."""
    (x, y), *rest = points
    vertices, codes = [(x, y - HEIGHT / 2)], [Curve.MOVETO]
    for i, (to_x, to_y) in enumerate(rest):
        from_x, from_y = vertices[-1]
        end = to_y + HEIGHT / 2
        middle = (from_y + end) / 2
        vertices += [(from_x, middle), (to_x, middle), (to_x, end)]
        codes += [Curve.CURVE4] * 3
        if i < len(rest) - 1:  # straight down past a floor on which the arrow only passes
            vertices.append((to_x, to_y - HEIGHT / 2))
            codes.append(Curve.LINETO)
    return Curve(vertices, codes)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the imports between the rooms of the package.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "house.png")
    draw(ROOT / "src" / "sieverl", parser.parse_args().out)


if __name__ == "__main__":
    main()
