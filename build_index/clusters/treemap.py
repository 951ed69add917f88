"""A tree map as SVG: areas by size, in the order given, so that what is near in a tree is near in the picture."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluate.picture import COLOURS, STYLE, shown

WIDTH, HEIGHT, TOP = 1200, 760, 36  # pixels
LINE = 15  # pixels of a line of text
LETTER = 7.2  # about so many pixels wide
Box = tuple[float, float, float, float]  # left, top, across, down


def boxes(sizes: Sequence[float], box: Box) -> list[Box]:
    """A box for each size inside of box, areas in proportion: halves of about equal sum, cut across the longer side."""
    if len(sizes) <= 1:
        return [box] * len(sizes)
    total, best, at, passed = sum(sizes), float("inf"), 1, 0.0
    for i in range(1, len(sizes)):
        passed += sizes[i - 1]
        if abs(total / 2 - passed) < best:
            best, at = abs(total / 2 - passed), i
    share = sum(sizes[:at]) / total if total else at / len(sizes)
    left, top, across, down = box
    if across >= down:
        first, second = (left, top, across * share, down), (left + across * share, top, across * (1 - share), down)
    else:
        first, second = (left, top, across, down * share), (left, top + down * share, across, down * (1 - share))
    return boxes(sizes[:at], first) + boxes(sizes[at:], second)


def treemap(areas: Sequence[tuple[int, str, Sequence[str]]], title: str) -> str:
    """SVG text. areas: (size, group, lines of a label) each; a group has a colour, labels show as far as they fit."""
    groups = list(dict.fromkeys(group for _, group, _ in areas))
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><style>{STYLE}</style>',
        f'<text class="title" x="4" y="24">{shown(title)}</text>',
    ]
    frames = boxes([size for size, _, _ in areas], (0, TOP, WIDTH, HEIGHT - TOP))
    for (size, group, lines), (left, top, across, down) in zip(areas, frames, strict=True):
        colour = COLOURS[groups.index(group) % len(COLOURS)]
        out.append(
            f'<g><rect x="{left:.1f}" y="{top:.1f}" width="{across:.1f}" height="{down:.1f}" fill="{colour}" '
            f'fill-opacity=".28" stroke="{colour}"/><title>{shown(f"{size:,}: " + "; ".join(lines))}</title>'
        )
        room = int((across - 8) / LETTER)
        for i, line in enumerate(lines[: int((down - 4) / LINE)] if room >= 4 else ()):
            cut = line if len(line) <= room else line[: room - 1] + "…"
            out.append(f'<text x="{left + 4:.1f}" y="{top + LINE * (i + 1):.1f}">{shown(cut)}</text>')
        out.append("</g>")
    return "\n".join([*out, "</svg>", ""])
