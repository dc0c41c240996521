"""The drawing of the session machine in a browser: each state and arrow can be pointed at, and says what it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

from harness.browser import Browser

from lsps2fast_plugin.tools import machine_picture

FINDS = """(() => {
  const found = [];
  for (const group of document.querySelectorAll('.arrow, .state')) {
    const line = group.querySelector('.line');
    const box = group.querySelector('rect');
    const point = document.documentElement.createSVGPoint();
    const steps = line ? [0.5, 0.35, 0.65, 0.2, 0.8].map(share => line.getPointAtLength(line.getTotalLength() * share))
      : [{x: +box.getAttribute('x') + box.getAttribute('width') / 2,
          y: +box.getAttribute('y') + box.getAttribute('height') / 2}];
    for (const step of steps) {
      Object.assign(point, {x: step.x, y: step.y});
      const at = point.matrixTransform(group.getScreenCTM());
      if (document.elementFromPoint(at.x, at.y)?.closest('g') === group) {
        found.push([group.querySelector('title').textContent, at.x, at.y]);
        break;
      }
    }
  }
  return found;
})()"""
LIT = "getComputedStyle([...document.querySelectorAll('g')].find(g => g.querySelector('title').textContent === {!r})"
LIT += ".querySelector('.line, rect')).stroke === 'rgb(217, 72, 15)'"


async def test_each_state_and_arrow_answers_the_pointer(browser: Browser, tmp_path: Path) -> None:
    """None lies under another, and what is pointed at is lit; a state lights the arrows that lead away from it."""
    drawing = tmp_path / "machine.svg"
    await asyncio.to_thread(drawing.write_text, machine_picture.svg())
    tab = await browser.open(drawing.as_uri(), width=1_200, height=700)
    found = await tab.value(FINDS)
    assert len(found) == len(machine_picture.ARROWS) + len(machine_picture.PLACES)
    for title, x, y in found:
        await tab.call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})
        await tab.until(LIT.format(title))
    opening = next(row for row in found if row[0].startswith("OPENING\n"))
    await tab.call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": opening[1], "y": opening[2]})
    leaves = [title for title, *_ in found if title.startswith("OPENING to ")]
    assert len(leaves) == sum(name[0] == "O" for name in machine_picture.ARROWS)
    for title in leaves:
        await tab.until(LIT.format(title))
    assert tab.faults == []
