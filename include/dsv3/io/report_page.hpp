// SPDX-License-Identifier: MIT
// What a report page holds beside its figures: the style before them, the script that reads values after.
#pragma once

#include <dsv3/base/config.hpp>

#include <string_view>

namespace dsv3::inline DSV3_ABI::detail {

inline constexpr std::string_view report_head = R"page(<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<style>
:root{color-scheme:light dark;--page:#f5f4f1;--card:#fcfcfb;--text:#1c1c1a;--faint:#6b6a66;--edge:#e4e3df}
@media (prefers-color-scheme:dark){
:root{--page:#111110;--card:#1a1a19;--text:#f2f1ee;--faint:#a3a29c;--edge:#2e2e2b}}
body{margin:0 auto;padding:28px 24px 60px;max-width:1240px;background:var(--page);color:var(--text);
font:14px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:22px;margin:0 0 18px}h2{font-size:16px;margin:32px 0 12px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:12px;margin-bottom:16px}
.tile{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:12px 14px}
.tile span{display:block;color:var(--faint);font-size:12px}
.tile b{display:block;font-size:22px;font-weight:600}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr));gap:16px;
align-items:start}
figure{margin:0;background:var(--card);border:1px solid var(--edge);border-radius:8px;overflow:hidden}
svg{display:block;width:100%;height:auto}
table{border-collapse:collapse;width:100%;background:var(--card);border:1px solid var(--edge)}
td{padding:4px 14px;border-top:1px solid var(--edge);font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
td:first-child{color:var(--faint);width:40%}
#readout{position:fixed;display:none;pointer-events:none;background:var(--card);color:var(--text);
border:1px solid var(--edge);border-radius:6px;padding:6px 10px;font-size:12px;box-shadow:0 2px 10px #0003}
#readout i{display:inline-block;width:12px;height:3px;border-radius:2px;margin-right:6px;
vertical-align:middle}
#readout div{font-variant-numeric:tabular-nums}
</style>
)page";

/// Positions are read back from the drawing itself, so the page carries every number once.
inline constexpr std::string_view report_tail = R"page(<div id="readout"></div>
<script>
'use strict';
const readout = document.getElementById('readout');
const numbers = text => text.split(' ').map(Number);
const shown = value => Number(value.toPrecision(4)).toString();

function readLine(svg) {
  const [x0, x1, left, right] = numbers(svg.dataset.x), [y0, y1, bottom, top] = numbers(svg.dataset.y);
  const toX = at => x0 + (x1 - x0) * (at - left) / (right - left);
  const toY = at => {
    const share = (at - bottom) / (top - bottom);
    return svg.dataset.log === '1' ? y0 * Math.pow(y1 / y0, share) : y0 + (y1 - y0) * share;
  };
  const curves = [...svg.querySelectorAll('path[data-name]')].map(path => ({
    name: path.dataset.name, colour: path.style.stroke,
    points: path.getAttribute('d').split(/[ML]/).slice(1).map(numbers)}));
  const cross = document.createElementNS('http://www.w3.org/2000/svg', 'line');
  cross.setAttribute('class', 'axis');
  cross.setAttribute('y1', top), cross.setAttribute('y2', bottom);
  cross.style.display = 'none';
  svg.append(cross);
  return (x, y) => {
    cross.style.display = 'none';
    if (x < left - 4 || x > right + 4 || y < top - 8 || y > bottom + 8) return null;
    const nearest = curves.map(curve => {
      let low = 0, high = curve.points.length - 1;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (curve.points[middle][0] < x) low = middle; else high = middle;
      }
      const before = curve.points[low], after = curve.points[high];
      const point = x - before[0] < after[0] - x ? before : after;
      return {curve, point, distance: Math.abs(point[0] - x)};
    }).filter(hit => hit.distance < 14).sort((a, b) => a.distance - b.distance);
    if (nearest.length === 0) return null;
    const at = nearest[0].point[0];
    cross.setAttribute('x1', at), cross.setAttribute('x2', at);
    cross.style.display = '';
    nearest.sort((a, b) => curves.indexOf(a.curve) - curves.indexOf(b.curve));
    return [[null, 'step ' + Math.round(toX(at))],
            ...nearest.map(hit => [hit.curve.colour, shown(toY(hit.point[1])) + '  ' + hit.curve.name])];
  };
}

function readHeat(svg) {
  const [left, top, right, bottom] = numbers(svg.dataset.box), rows = Number(svg.dataset.rows);
  const facts = svg.querySelector('desc').dataset, steps = numbers(facts.x), cells = numbers(facts.cells);
  return (x, y) => {
    const column = Math.floor((x - left) / (right - left) * steps.length);
    const row = Math.floor((y - top) / (bottom - top) * rows);
    if (column < 0 || column >= steps.length || row < 0 || row >= rows) return null;
    return [[null, 'step ' + steps[column] + ', expert ' + row],
            [null, shown(cells[row * steps.length + column]) + ' of the mean load']];
  };
}

for (const svg of document.querySelectorAll('svg.dsv3-plot')) {
  const read = svg.dataset.kind === 'heat' ? readHeat(svg) : readLine(svg);
  svg.addEventListener('pointermove', event => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const lines = read(point.x, point.y);
    readout.style.display = lines ? 'block' : 'none';
    if (!lines) return;
    readout.replaceChildren(...lines.map(([colour, text]) => {
      const line = document.createElement('div');
      if (colour) line.append(Object.assign(document.createElement('i'), {style: 'background:' + colour}));
      line.append(text);
      return line;
    }));
    // Colours are variables of the figure; here they need its values.
    const style = getComputedStyle(svg);
    for (const mark of readout.querySelectorAll('i'))
      mark.style.background = style.getPropertyValue(mark.style.background.replace(/var\((.*)\)/, '$1'));
    readout.style.left = Math.min(event.clientX + 14, innerWidth - readout.offsetWidth - 8) + 'px';
    readout.style.top = Math.min(event.clientY + 14, innerHeight - readout.offsetHeight - 8) + 'px';
  });
  svg.addEventListener('pointerleave', () => { read(-1, -1); readout.style.display = 'none'; });
}
</script></body></html>
)page";

}  // namespace dsv3::inline DSV3_ABI::detail
