// Curves over rounds, one line a site, drawn as SVG by attributes alone.
"use strict";
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 6, DASHES = 3;

function svg(tag, attributes, ...inner) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...inner.filter((one) => one !== null));
  return made;
}

// The classes of a site's line: its colour, and beyond six sites its dashes.
function look(place) {
  const dash = Math.floor(place / COLOURS) % DASHES;
  return `c${(place % COLOURS) + 1}${dash ? ` d${dash}` : ""}`;
}

function swatch(place) {
  const line = svg("line", { x1: 1, y1: 5, x2: 23, y2: 5, class: look(place) });
  return svg("svg", { class: "swatch", viewBox: "0 0 24 10", "aria-hidden": "true" }, line);
}

function niceStep(span, count) {
  const rough = span / count, power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 2.5, 5, 10].find((one) => one * power >= rough) || 10);
}

function ticks(low, high, count) {
  const step = niceStep(high - low || 1, count), found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(at);
  return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (step / 10 ** Math.floor(Math.log10(step)) === 2.5 ? 1 : 0)) };
}

// A figure of `curves` ({site: [[round, value], ...]}); `places` gives each site its colour. `bounds`: of the values;
// without, from 0 to the highest. It is drawn again when its room changes, so that letters keep their size.
function chart(title, curves, places, rounds, bounds) {
  const sites = Object.keys(curves).filter((site) => curves[site].length);
  const values = sites.flatMap((site) => curves[site].map((point) => point[1]));
  const read = h("span", { class: "read" });
  const drawing = svg("svg", { class: "chart", role: "img", "aria-label": described(title, curves, sites) });
  const highest = Math.max(...values, 1e-6), step = niceStep(highest, 4);
  const [low, high] = bounds || [0, Math.ceil(highest / step - 1e-9) * step];
  new ResizeObserver(() => plot(drawing, { curves, sites, places, rounds, low, high, read })).observe(drawing);
  return h("figure", {}, h("figcaption", {}, h("span", {}, title), read), drawing);
}

function plot(drawing, { curves, sites, places, rounds, low, high, read }) {
  const width = drawing.clientWidth, height = drawing.clientHeight;
  if (!width) return; // it was taken off the page
  const letters = parseFloat(getComputedStyle(drawing).fontSize);
  const [left, right, top, bottom] = [letters * 3, letters, letters * 0.7, letters * 1.9];
  const last = Math.max(rounds, 2);
  const x = (round) => left + ((round - 1) / (last - 1)) * (width - left - right);
  const y = (value) => top + (1 - (value - low) / (high - low)) * (height - top - bottom);
  const up = ticks(low, high, 4), inner = [];
  for (const at of up.found) {
    inner.push(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(at), y2: y(at) }));
    inner.push(svg("text", { x: left - letters * 0.5, y: y(at) + letters * 0.35, "text-anchor": "end" }, at.toFixed(up.digits)));
  }
  for (const at of roundTicks(last)) inner.push(svg("text", { x: x(at), y: height - letters * 0.3, "text-anchor": "middle" }, String(at)));
  if (!sites.length) inner.push(svg("text", { x: (left + width) / 2, y: height / 2 - letters, "text-anchor": "middle" }, "nothing yet"));
  for (const site of sites) {
    const points = curves[site].map(([round, value]) => [x(round), y(Math.min(Math.max(value, low), high))]);
    const path = points.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join(" ");
    if (points.length > 1) inner.push(svg("polyline", { class: `curve ${look(places[site])}`, points: path }));
    const [px, py] = points[points.length - 1];
    inner.push(svg("circle", { class: look(places[site]), cx: px, cy: py, r: letters * 0.3 }));
  }
  const guide = svg("line", { class: "guide", y1: top, y2: height - bottom, visibility: "hidden" });
  drawing.replaceChildren(...inner, guide);
  drawing.onpointermove = (event) => {
    const at = event.clientX - drawing.getBoundingClientRect().left;
    const nearest = nearestRound(curves, sites, Math.round(1 + ((at - left) / (width - left - right)) * (last - 1)));
    if (nearest === null) return;
    guide.setAttribute("x1", x(nearest)); guide.setAttribute("x2", x(nearest)); guide.setAttribute("visibility", "visible");
    const shown = sites.map((site) => [site, valueAt(curves[site], nearest)]).filter(([, value]) => value !== null);
    read.textContent = `round ${nearest}: ${shown.map(([site, value]) => `${site} ${value.toFixed(3)}`).join("  ")}`;
    read.title = read.textContent;
  };
  drawing.onpointerleave = () => { guide.setAttribute("visibility", "hidden"); read.textContent = ""; };
}

function roundTicks(last) {
  const step = Math.max(1, niceStep(last, 6)), found = [1];
  for (let at = Math.ceil(step); at < last - step / 2; at += Math.ceil(step)) if (at > 1) found.push(at);
  return [...found, last];
}

function valueAt(points, round) {
  const found = points.find((point) => point[0] === round);
  return found ? found[1] : null;
}

function nearestRound(curves, sites, round) {
  const known = sites.flatMap((site) => curves[site].map((point) => point[0]));
  return known.length ? known.reduce((best, one) => (Math.abs(one - round) < Math.abs(best - round) ? one : best)) : null;
}

function described(title, curves, sites) {
  if (!sites.length) return `${title}: nothing yet`;
  const newest = sites.map((site) => `${site} ${curves[site][curves[site].length - 1][1].toFixed(3)}`);
  return `${title} over the rounds, by site; the newest: ${newest.join(", ")}`;
}
