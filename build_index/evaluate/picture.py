"""Curves as a small SVG text, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from ..plain import plain

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 64, 230, 44, 52  # margins in pixels; labels of lines stand in the right one
PANEL, PANEL_GAP = 250, 56  # pixels of a small plot, and between two
LABEL_GAP = 17  # pixels between two labels
COLOURS = ("#8a8f98", "#c9831a", "#2f7fd1", "#2a9d62", "#d1495b", "#8e62c9", "#1d9aa6", "#b5651d", "#c2559d", "#6b8e23")
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-size: 15px; font-weight: 600 }
.grid { stroke: #8a8f98; stroke-opacity: .25 } .frame { stroke: #8a8f98; fill: none }
.line { fill: none; stroke-width: 2 } .lead { stroke-opacity: .5; stroke-width: 1 }
@media (prefers-color-scheme: dark) { text { fill: #d7dce2 } }
"""


def shown(text: str) -> str:
    """A text of data as the contents of an element: XML has no escape for control characters."""
    return escape(plain(text))


@dataclass(frozen=True)
class Axis:
    """An axis from low to high; what lies outside is cut off. log: by the logarithm, low above 0."""

    label: str
    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """0 at low, 1 at high."""
        low, high, here = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (here - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values: 1, 2 and 5 times powers of ten where log, about six equal steps where linear."""
        if self.log:
            tens = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [m * 10.0**e for e in tens for m in (1, 2, 5)]
        else:
            rough = (self.high - self.low) / 6
            ten = 10.0 ** math.floor(math.log10(rough))
            step = next(m * ten for m in (1, 2, 5, 10) if m * ten >= rough * 0.999)
            first = math.ceil(self.low / step - 1e-9)
            values = [(first + i) * step for i in range(int((self.high - self.low) / step + 1e-9) + 1)]
        slack = 1e-9
        return [v for v in values if -slack <= self.at(v) <= 1 + slack]


@dataclass(frozen=True)
class Box:
    """Where the frame of a plot stands: its left upper corner and its size, in pixels."""

    left: float
    top: float
    across: float
    down: float

    def at(self, point: tuple[float, float], x: Axis, y: Axis) -> tuple[float, float]:
        """The pixel of a point (x, y)."""
        return self.left + self.across * x.at(point[0]), self.top + self.down * (1 - y.at(point[1]))


def _open(width: float, height: float, left: float, title: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"><style>{STYLE}</style>',
        f'<text class="title" x="{left}" y="24">{shown(title)}</text>',
    ]


def _frame(box: Box, x: Axis, y: Axis) -> list[str]:
    """Grid, numbers at the ticks, frame and the label below."""
    out = []
    for tick in x.ticks():
        at = box.left + box.across * x.at(tick)
        out.append(f'<path class="grid" d="M{at:.1f} {box.top}v{box.down}"/>')
        out.append(f'<text x="{at:.1f}" y="{box.top + box.down + 18}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks():
        at = box.top + box.down * (1 - y.at(tick))
        out.append(f'<path class="grid" d="M{box.left} {at:.1f}h{box.across}"/>')
        out.append(f'<text x="{box.left - 8}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>')
    out.append(f'<rect class="frame" x="{box.left}" y="{box.top}" width="{box.across}" height="{box.down}"/>')
    below = box.top + box.down + BOTTOM - 12
    out.append(f'<text x="{box.left + box.across / 2}" y="{below}" text-anchor="middle">{shown(x.label)}</text>')
    return out


def _beside(box: Box, y: Axis) -> str:
    """The label of the y axis, at the left edge of the picture."""
    middle = box.top + box.down / 2
    turned = f'text-anchor="middle" transform="rotate(-90 18 {middle})"'
    return f'<text x="18" y="{middle}" {turned}>{shown(y.label)}</text>'


def _pixels(points: Sequence[tuple[float, float]], x: Axis, y: Axis, box: Box) -> list[tuple[float, float]]:
    """Pixels of the points inside of both axes."""
    inside = [(px, py) for px, py in points if x.low <= px <= x.high and y.low <= py <= y.high]
    return [box.at(point, x, y) for point in inside]


def _line(pixels: Sequence[tuple[float, float]], colour: str) -> str:
    steps = "L".join(f"{px:.1f} {py:.1f}" for px, py in pixels)
    return f'<path class="line" stroke="{colour}" d="M{steps}"/>'


def curves(series: Mapping[str, Sequence[tuple[float, float]]], x: Axis, y: Axis, title: str) -> str:
    """SVG text of lines through points (x, y) by rising x, each named at its end. What lies outside is left out."""
    box = Box(LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
    out = [*_open(WIDTH, HEIGHT, LEFT, title), *_frame(box, x, y), _beside(box, y)]
    ends = []
    for i, (name, points) in enumerate(series.items()):
        pixels = _pixels(points, x, y, box)
        if not pixels:
            continue
        colour = COLOURS[i % len(COLOURS)]
        out.append(_line(pixels, colour))
        ends.append((pixels[-1][1], pixels[-1][0], colour, name))
    ends.sort()
    labels = [end[0] for end in ends]
    bottom, right = box.top + box.down, box.left + box.across
    for i in range(1, len(labels)):  # downwards, then back up from the bottom
        labels[i] = max(labels[i], labels[i - 1] + LABEL_GAP)
    for i in reversed(range(len(labels))):
        labels[i] = min(labels[i], bottom - LABEL_GAP * (len(labels) - 1 - i))
    for label, (py, px, colour, name) in zip(labels, ends, strict=True):
        out.append(f'<path class="lead" stroke="{colour}" d="M{px:.1f} {py:.1f}L{right + 14} {label:.1f}"/>')
        out += _name(right + 14, label, colour, name)
    return "\n".join([*out, "</svg>", ""])


def panels(plots: Sequence[tuple[Axis, Mapping[str, Sequence[tuple[float, float]]]]], y: Axis, title: str) -> str:
    """SVG text of small plots side by side over one y axis, each (its x axis, its lines), points marked.

    The lines of a plot are named above it. What lies outside of the axes is left out.
    """
    width = LEFT + len(plots) * (PANEL + PANEL_GAP)
    top = TOP + LABEL_GAP
    out = _open(width, top + PANEL + BOTTOM, LEFT, title)
    for i, (x, series) in enumerate(plots):
        box = Box(LEFT + i * (PANEL + PANEL_GAP), top, PANEL, PANEL)
        out += [*_frame(box, x, y), *([] if i else [_beside(box, y)])]
        for j, (name, points) in enumerate(series.items()):
            pixels, colour = _pixels(points, x, y, box), COLOURS[(j + 2) % len(COLOURS)]
            if pixels:
                out.append(_line(pixels, colour))
            out += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in pixels]
            out += _name(box.left + j * PANEL / len(series), top - LABEL_GAP / 2, colour, name)
    return "\n".join([*out, "</svg>", ""])


def _name(left: float, middle: float, colour: str, name: str) -> list[str]:
    return [
        f'<rect x="{left}" y="{middle - 4:.1f}" width="8" height="8" fill="{colour}"/>',
        f'<text x="{left + 13}" y="{middle + 4:.1f}">{shown(name)}</text>',
    ]
