"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const NS = "http://www.w3.org/2000/svg";
const nats = (value) => (value === null ? "–" : value.toFixed(3));
const byId = (id) => document.getElementById(id);

function make(parent, name, attributes = {}, text = "") {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  parent.appendChild(node);
  return node;
}

/* A drawing as wide as its place, redrawn when that changes, so that letters keep their size on a phone. */
function drawing(place, tall, draw) {
  const svg = make(place, "svg", { role: "img", "aria-label": place.dataset.label });
  const redraw = () => {
    const width = Math.max(260, place.clientWidth), height = typeof tall === "function" ? tall(width) : tall;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.replaceChildren();
    draw(svg, width, height);
  };
  new ResizeObserver(redraw).observe(place);
  return redraw;
}

const scale = (from, to, start, end) => (value) => start + ((value - from) / (to - from || 1)) * (end - start);

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const marks = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) marks.push(value);
  return { marks, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

/* Axes with labels; returns the scales. */
function axes(svg, width, height, xs, ys, names) {
  const box = { left: 52, right: width - 14, top: 14, bottom: height - 42 };
  const x = scale(xs[0], xs[1], box.left, box.right), y = scale(ys[0], ys[1], box.bottom, box.top);
  const down = ticks(ys[0], ys[1], 5), across = ticks(xs[0], xs[1], width < 420 ? 4 : 8);
  for (const value of down.marks) {
    make(svg, "line", { class: "grid", x1: box.left, x2: box.right, y1: y(value), y2: y(value) });
    make(svg, "text", { x: box.left - 7, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(down.digits));
  }
  for (const value of across.marks)
    make(svg, "text", { x: x(value), y: box.bottom + 18, "text-anchor": "middle" }, value.toFixed(across.digits));
  make(svg, "text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, names[0]);
  const middle = (box.top + box.bottom) / 2;
  make(svg, "text", { x: 13, y: middle, "text-anchor": "middle", transform: `rotate(-90 13 ${middle})` }, names[1]);
  return { x, y, box };
}

const line = (points, x, y) => points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");

/* Loss along the path: every profile with its band, for the mean or for one text. */
function lossChart() {
  const place = byId("loss-chart"), label = byId("loss-label"), out = byId("loss-read");
  let shown = [], scales = null;
  const pick = (row) => (label.value === "" ? [row.loss, row.stderr] : [row.losses[label.value], row.stderrs[label.value]]);
  const redraw = drawing(place, 340, (svg, width, height) => {
    shown = data.profiles.map((profile) => ({
      ...profile,
      points: profile.points.map((row) => [row.t, ...pick(row)]),
    }));
    const ensemble = label.value === "" ? data.ensemble.loss : data.ensemble.losses[label.value];
    const values = shown.flatMap((profile) => profile.points.map((point) => point[1])).concat(ensemble);
    const low = Math.min(...values), high = Math.max(...values), room = 0.06 * (high - low) || 0.1;
    scales = axes(svg, width, height, [0, 1], [low - room, high + room], ["t   (0 = A, 1 = B)", `loss, ${data.unit}`]);
    const { x, y, box } = scales;
    make(svg, "line", { class: "ensemble", x1: box.left, x2: box.right, y1: y(ensemble), y2: y(ensemble) });
    for (const profile of shown) {
      const upper = profile.points.map(([t, loss, error]) => [t, loss + error]);
      const lower = profile.points.map(([t, loss, error]) => [t, loss - error]).reverse();
      make(svg, "path", { class: `band ${profile.kind}`, d: line(upper.concat(lower), x, y) + "Z" });
      make(svg, "path", { class: `curve ${profile.kind}`, d: line(profile.points, x, y) });
    }
    const merge = label.value === "" ? data.merge.loss : data.merge.losses[label.value];
    make(svg, "path", { class: "merge", d: `M${x(data.merge.t)} ${y(merge) - 7}l7 7l-7 7l-7 -7Z` });
  });
  const read = (t) => {
    const at = (points) => points.reduce((best, point) => (Math.abs(point[0] - t) < Math.abs(best[0] - t) ? point : best));
    const place = at(shown[shown.length - 1].points)[0];
    const parts = shown.map((profile) => {
      const [, loss, error] = at(profile.points);
      return `${profile.name} ${nats(loss)} ± ${nats(error)}`;
    });
    out.textContent = `t = ${place.toFixed(2)}: ${parts.join("; ")}`;
  };
  place.addEventListener("pointermove", (event) => {
    const { x, box } = scales, from = place.getBoundingClientRect().left;
    read((event.clientX - from - x(0)) / (box.right - box.left));
  });
  label.addEventListener("change", () => { redraw(); read(data.merge.t); });
  redraw();
  read(data.merge.t);
}

/* Singular values of one matrix: a histogram that slides with t, between those of A and B. */
function spectrumChart() {
  const place = byId("spectrum-chart"), matrix = byId("spectrum-matrix"), slider = byId("spectrum-t");
  const out = byId("spectrum-read");
  slider.max = data.spectra.t.length - 1;
  slider.value = data.spectra.t.indexOf(data.merge.t);
  const redraw = drawing(place, 280, (svg, width, height) => {
    const shown = data.spectra.matrices[matrix.value], last = data.spectra.t.length - 1;
    const highest = Math.max(...shown.shares.flat());
    const ends = [shown.edges[0], shown.edges[shown.edges.length - 1]];
    const { x, y } = axes(svg, width, height, ends, [0, highest * 1.05], ["log₁₀ σ", "share"]);
    const steps = (shares) =>
      shares.flatMap((share, i) => [[shown.edges[i], share], [shown.edges[i + 1], share]]);
    const now = shown.shares[slider.value];
    const floor = [[ends[1], 0], [ends[0], 0]];
    make(svg, "path", { class: "now", d: line(steps(now).concat(floor), x, y) + "Z" });
    make(svg, "path", { class: "curve end-a", d: line(steps(shown.shares[0]), x, y) });
    make(svg, "path", { class: "curve end-b", d: line(steps(shown.shares[last]), x, y) });
  });
  const update = () => {
    redraw();
    const t = data.spectra.t[slider.value], shown = data.spectra.matrices[matrix.value];
    const along = data.spectra.along[slider.value];
    const text = `t = ${t.toFixed(2)}: stable rank ${shown.stable_rank[slider.value].toFixed(1)} (A ${shown.stable_rank[0].toFixed(1)}, B ${shown.stable_rank.at(-1).toFixed(1)}); over all matrices, excess ${nats(along.excess)} nats, position ${along.position.toFixed(2)}`;
    out.textContent = text;
    slider.setAttribute("aria-valuetext", text);
  };
  for (const control of [matrix, slider]) control.addEventListener("input", update);
  update();
}

/* Stable rank of every layer along the path, for one kind of matrix. */
function rankChart() {
  const place = byId("rank-chart"), kind = byId("rank-kind");
  const redraw = drawing(place, 300, (svg, width, height) => {
    const names = Object.keys(data.spectra.matrices).filter((name) => name.endsWith("." + kind.value));
    const rows = names.map((name) => data.spectra.matrices[name].stable_rank);
    const high = Math.max(...rows.flat()) * 1.05;
    const { x, y } = axes(svg, width, height, [0, 1], [0, high], ["t   (0 = A, 1 = B)", "stable rank"]);
    rows.forEach((row, i) => {
      const depth = names.length > 1 ? i / (names.length - 1) : 0;
      const curve = make(svg, "path", { class: "curve", d: line(row.map((rank, j) => [data.spectra.t[j], rank]), x, y) });
      curve.style.stroke = `color-mix(in oklab, var(--b) ${100 * depth}%, var(--a))`;
      make(curve, "title", {}, names[i]);
    });
  });
  kind.addEventListener("change", redraw);
}

/* A grid with `times` as many cells along each side, linear between those measured. */
function upsampled({ x, y, loss }, times) {
  const between = (list) =>
    Array.from({ length: (list.length - 1) * times + 1 }, (_, k) => {
      const i = Math.min(Math.floor(k / times), list.length - 2), part = k / times - i;
      return list[i] + (list[i + 1] - list[i]) * part;
    });
  const asNaN = (row) => row.map((value) => (value === null ? NaN : value));
  const rows = loss.map((row) => between(asNaN(row)));
  const columns = rows[0].map((_, j) => between(rows.map((row) => row[j])));
  const cells = columns[0].map((_, i) => columns.map((column) => (Number.isNaN(column[i]) ? null : column[i])));
  return { x: between(x), y: between(y), loss: cells };
}

/* The loss on the plane through three models. */
function planeChart() {
  const place = byId("plane-chart"), out = byId("plane-read"), plane = data.plane;
  const all = plane.loss.flat().filter((value) => value !== null);
  const low = Math.min(...all), high = Math.min(Math.max(...all), low + 4);
  const fine = upsampled(plane, 4);
  const shade = (loss) => (loss === null ? 1 : Math.min(1, Math.sqrt(Math.max(0, loss - low) / (high - low || 1))));
  const stepX = fine.x[1] - fine.x[0], stepY = fine.y[1] - fine.y[0];
  const wide = fine.x.at(-1) - fine.x[0] + stepX, tall = fine.y.at(-1) - fine.y[0] + stepY;
  drawing(place, (width) => Math.min(620, Math.round((width * tall) / wide)), (svg, width, height) => {
    const unit = Math.min(width / wide, height / tall);
    const x = (value) => width / 2 + (value - (fine.x[0] + fine.x.at(-1)) / 2) * unit;
    const y = (value) => height / 2 - (value - (fine.y[0] + fine.y.at(-1)) / 2) * unit;
    fine.loss.forEach((row, i) =>
      row.forEach((loss, j) => {
        const cell = make(svg, "rect", {
          x: x(fine.x[j] - stepX / 2), y: y(fine.y[i] + stepY / 2), width: stepX * unit + 0.6, height: stepY * unit + 0.6,
        });
        cell.style.fill = `color-mix(in oklab, var(--high) ${(100 * shade(loss)).toFixed(0)}%, var(--low))`;
        cell.addEventListener("pointerenter", () => {
          out.textContent = `loss ${loss === null ? "is undefined" : nats(loss)} at (${fine.x[j].toFixed(2)}, ${fine.y[i].toFixed(2)})`;
        });
      })
    );
    if (plane.path.length) make(svg, "path", { class: "route", d: line(plane.path, x, y) });
    for (const model of plane.models) {
      make(svg, "circle", { class: "model", cx: x(model.x), cy: y(model.y), r: 5 });
      const left = x(model.x) > width / 2;
      make(svg, "text", {
        class: "halo", x: x(model.x) + (left ? -9 : 9), y: y(model.y) - 8, "text-anchor": left ? "end" : "start",
      }, model.name);
    }
  });
}

if (data.profiles.length) lossChart();
if (data.spectra) { spectrumChart(); rankChart(); }
if (data.plane) planeChart();
