"""Curves as a small SVG text: for the pictures of docs/, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 64, 230, 44, 52  # margins in pixels; labels of lines stand in the right one
LABEL_GAP = 17  # pixels between two labels
COLOURS = ("#8a8f98", "#c9831a", "#2f7fd1", "#2a9d62", "#d1495b", "#8e62c9", "#1d9aa6", "#b5651d", "#c2559d", "#6b8e23")
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-size: 15px; font-weight: 600 }
.grid { stroke: #8a8f98; stroke-opacity: .25 } .frame { stroke: #8a8f98; fill: none }
.line { fill: none; stroke-width: 2 } .lead { stroke-opacity: .5; stroke-width: 1 }
@media (prefers-color-scheme: dark) { text { fill: #d7dce2 } }
"""


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


def curves(series: Mapping[str, Sequence[tuple[float, float]]], x: Axis, y: Axis, title: str) -> str:
    """SVG text of lines through points (x, y) by rising x, each named at its end. What lies outside is left out."""
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><style>{STYLE}</style>',
        f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>',
    ]
    for tick in x.ticks():
        at = LEFT + across * x.at(tick)
        out.append(f'<path class="grid" d="M{at:.1f} {TOP}v{down}"/>')
        out.append(f'<text x="{at:.1f}" y="{TOP + down + 18}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks():
        at = TOP + down * (1 - y.at(tick))
        out.append(f'<path class="grid" d="M{LEFT} {at:.1f}h{across}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>')
    out.append(f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{across}" height="{down}"/>')
    out.append(f'<text x="{LEFT + across / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x.label)}</text>')
    middle = TOP + down / 2
    out.append(
        f'<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">{escape(y.label)}</text>'
    )
    ends = []
    for i, (name, points) in enumerate(series.items()):
        inside = [(px, py) for px, py in points if x.low <= px <= x.high and y.low <= py <= y.high]
        if not inside:
            continue
        place = [(LEFT + across * x.at(px), TOP + down * (1 - y.at(py))) for px, py in inside]
        colour = COLOURS[i % len(COLOURS)]
        steps = "L".join(f"{px:.1f} {py:.1f}" for px, py in place)
        out.append(f'<path class="line" stroke="{colour}" d="M{steps}"/>')
        ends.append((place[-1][1], place[-1][0], colour, name))
    ends.sort()
    labels = [end[0] for end in ends]
    for i in range(1, len(labels)):  # downwards, then back up from the bottom
        labels[i] = max(labels[i], labels[i - 1] + LABEL_GAP)
    for i in reversed(range(len(labels))):
        labels[i] = min(labels[i], TOP + down - LABEL_GAP * (len(labels) - 1 - i))
    for label, (py, px, colour, name) in zip(labels, ends, strict=True):
        out.append(f'<path class="lead" stroke="{colour}" d="M{px:.1f} {py:.1f}L{LEFT + across + 14} {label:.1f}"/>')
        out.append(f'<rect x="{LEFT + across + 14}" y="{label - 4:.1f}" width="8" height="8" fill="{colour}"/>')
        out.append(f'<text x="{LEFT + across + 27}" y="{label + 4:.1f}">{escape(name)}</text>')
    return "\n".join([*out, "</svg>", ""])
