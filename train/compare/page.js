"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const sections = JSON.parse(document.getElementById("data").textContent);

  // Names reach the page as text and attributes only, never as markup.
  function add(parent, tag, attributes = {}, text) {
    const svg = parent.namespaceURI === SVG || tag === "svg";
    const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  }
  const paint = (model) => `var(--c${model.colour})`;
  const clear = (node) => node.replaceChildren();

  function swatch(parent, model) {
    const svg = add(parent, "svg", { class: "swatch", viewBox: "0 0 26 10", "aria-hidden": "true" });
    const line = { x1: 1, x2: 25, y1: 5, y2: 5, "stroke-width": 3, "stroke-dasharray": model.dash };
    add(svg, "line", line).style.stroke = paint(model);
  }

  // Numbers

  const isShare = (metric) => metric === "accuracy";
  function show(value, metric, low = value, high = value) {
    if (value === null || value === undefined) return "–";
    const half = Math.max(high - value, value - low);
    if (half > 0) {
      // One end may be further than the other.
      const cut = half > 1.25 * Math.min(high - value, value - low), digits = (v) => (100 * v).toFixed(1);
      if (!isShare(metric)) return `${show(value, metric)} ${cut ? `(${show(low)} to ${show(high)})` : `± ${+half.toPrecision(2)}`}`;
      return cut ? `${digits(value)} (${digits(low)} to ${digits(high)}) %` : `${digits(value)} ± ${digits(half)} %`;
    }
    if (isShare(metric)) return (100 * value).toFixed(1) + " %";
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : value.toPrecision(4);
  }
  function compact(value) {
    for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (Math.abs(value) >= size) return +(value / size).toPrecision(3) + unit;
    return String(+value.toPrecision(3));
  }

  // Scales

  function linear(low, high, from, to) {
    if (!(high > low)) { low -= 0.5 * Math.abs(low) || 0.5; high += 0.5 * Math.abs(high) || 0.5; }
    const scale = (v) => from + ((v - low) / (high - low)) * (to - from);
    scale.ticks = (count) => {
      const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
      const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw);
      const ticks = [];
      for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12) + 1e-12; i++) ticks.push(+(i * step).toPrecision(12));
      return ticks;
    };
    return scale;
  }
  function logarithmic(low, high, from, to) {
    if (!(high > low)) { low /= 2; high *= 2; }
    const scale = (v) => from + (Math.log(v / low) / Math.log(high / low)) * (to - from);
    scale.ticks = (count) => {
      for (const digits of [[1, 2, 5], [1, 3], [1]]) {
        const ticks = [];
        for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
          for (const d of digits) { const t = d * 10 ** e; if (t >= low * 0.999 && t <= high * 1.001) ticks.push(t); }
        if (ticks.length <= count + 1 || digits.length === 1) return ticks;
      }
      return [];
    };
    return scale;
  }

  // A frame with grid, axes and baselines; returns the place inside.
  function frame(box, height, left, label) {
    const width = Math.max(box.clientWidth, 240);
    clear(box);
    const svg = add(box, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
    return { svg, width, height, left, right: width - 18, top: 14, bottom: height - 38 };
  }
  function xAxis(f, scale, title, format) {
    for (const t of scale.ticks(Math.max(3, (f.right - f.left) / 70))) {
      const x = scale(t);
      add(f.svg, "line", { class: "grid", x1: x, x2: x, y1: f.top, y2: f.bottom });
      add(f.svg, "text", { x, y: f.bottom + 16, "text-anchor": "middle" }, format(t));
    }
    add(f.svg, "line", { class: "axis", x1: f.left, x2: f.right, y1: f.bottom, y2: f.bottom });
    add(f.svg, "text", { x: f.right, y: f.height - 5, "text-anchor": "end" }, title);
  }
  function yAxis(f, scale, format) {
    for (const t of scale.ticks(6)) {
      const y = scale(t);
      add(f.svg, "line", { class: "grid", x1: f.left, x2: f.right, y1: y, y2: y });
      add(f.svg, "text", { x: f.left - 7, y: y + 4, "text-anchor": "end" }, format(t));
    }
  }
  function baselinesAcross(f, section, scale, named) {
    let last = Infinity;
    for (const b of [...section.baselines].sort((p, q) => p.value - q.value)) {
      const y = scale(b.value);
      if (y < f.top - 1 || y > f.bottom + 1) continue;
      const line = add(f.svg, "line", { class: "base", x1: f.left, x2: f.right, y1: y, y2: y });
      add(line, "title", {}, `${b.name}: ${show(b.value, section.metric)}`);
      last = Math.min(y - 4, last - 13);
      if (named) add(f.svg, "text", { x: f.right - 2, y: last, "text-anchor": "end" }, b.name);
    }
  }
  // Not Math.min(...values): a call takes only so many arguments.
  const extent = (values) => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
  function domain(values, metric) {
    let [low, high] = extent(values);
    const pad = 0.04 * (high - low) || 0.02;
    low -= pad; high += pad;
    if (isShare(metric)) { low = Math.max(0, low); high = Math.min(1.01, high); }
    return [low, high];
  }
  const tick = (metric) => (v) => (isShare(metric) ? +(100 * v).toFixed(1) + " %" : compact(v));

  // Curves

  // Along an axis, or over a run in steps or in what these cost.
  function curveOf(model, view) {
    if (view.axis) return (model.axes[view.axis] || {})[view.metric];
    const curve = (model.curves[view.split] || {})[view.metric], each = model.perStep[view.over];
    if (!curve || !view.over || view.over === "steps") return curve;
    return each ? { ...curve, x: curve.x.map((step) => step * each) } : undefined;
  }
  const titleOf = (view) => view.axis || (view.over && view.over !== "steps" ? `${view.over} seen` : "training step");

  function drawCurves(section, box, view = section.view) {
    const shown = section.models.filter((m) => !m.hidden && curveOf(m, view));
    const log = view.scale === "log";
    const f = frame(box, Math.min(380, Math.max(250, box.clientWidth * 0.5)), 52,
      `${view.metric} against ${titleOf(view)}, ${shown.length} models`);
    const xs = shown.flatMap((m) => curveOf(m, view).x).filter((x) => !log || x > 0);
    if (!xs.length) { add(f.svg, "text", { x: f.left, y: 60 }, "Nothing to show: switch a model on."); return; }
    const main = view.metric === section.metric && !view.axis;
    const ys = shown.flatMap((m) => [...curveOf(m, view).mean, ...curveOf(m, view).low, ...curveOf(m, view).high]);
    if (main) ys.push(...section.baselines.map((b) => b.value));
    const x = (log ? logarithmic : linear)(...extent(xs), f.left, f.right);
    const y = linear(...domain(ys, view.metric), f.bottom, f.top);
    xAxis(f, x, titleOf(view), compact);
    yAxis(f, y, tick(view.metric));
    const within = (v) => Math.min(f.bottom, Math.max(f.top - 4, y(v)));
    for (const model of shown) {
      const c = curveOf(model, view);
      const keep = c.x.map((_, i) => i).filter((i) => !log || c.x[i] > 0);
      const up = keep.map((i) => `${x(c.x[i])},${within(c.high[i])}`);
      const down = keep.map((i) => `${x(c.x[i])},${within(c.low[i])}`).reverse();
      const band = add(f.svg, "polygon", { points: [...up, ...down].join(" "), "fill-opacity": 0.13, "data-band": model.name });
      band.style.fill = paint(model);
      const line = add(f.svg, "polyline", {
        points: keep.map((i) => `${x(c.x[i])},${y(c.mean[i])}`).join(" "), fill: "none", "stroke-width": 2,
        "stroke-linejoin": "round", "stroke-dasharray": model.dash, "data-curve": model.name,
      });
      line.style.stroke = paint(model);
    }
    if (main) baselinesAcross(f, section, y, true);
    readOut(view, box, f, shown, x, y, [...new Set(xs)].sort((a, b) => a - b));
  }

  function readOut(view, box, f, shown, x, y, steps) {
    const tip = add(box, "div", { class: "tip", hidden: "", role: "status" });
    const mark = add(f.svg, "g", { visibility: "hidden" });
    let at = steps.length - 1;
    function move(index) {
      at = Math.max(0, Math.min(steps.length - 1, index));
      clear(mark); clear(tip);
      const step = steps[at], left = x(step);
      add(mark, "line", { class: "cursor", x1: left, x2: left, y1: f.top, y2: f.bottom });
      add(tip, "b", {}, view.axis || view.over !== "steps" ? `${titleOf(view)} ${compact(step)}` : `step ${step.toLocaleString("en")}`);
      const rows = [];
      for (const model of shown) {
        const c = curveOf(model, view), i = view.over === "FLOPs" ? c.x.findLastIndex((x) => x <= step) : c.x.indexOf(step);
        if (i >= 0) rows.push([model, c.mean[i], c.low[i], c.high[i]]);
      }
      rows.sort((p, q) => q[1] - p[1]);
      const table = add(tip, "table");
      for (const [model, mean, low, high] of rows) {
        add(mark, "circle", { cx: left, cy: y(mean), r: 4 }).style.fill = paint(model);
        const row = add(table, "tr"), name = add(row, "td");
        swatch(name, model);
        add(name, "span", {}, model.name);
        add(row, "td", {}, show(mean, view.metric, low, high));
      }
      mark.setAttribute("visibility", "visible");
      tip.hidden = false;
      const beside = left + 14 + tip.offsetWidth > box.clientWidth ? left - 14 - tip.offsetWidth : left + 14;
      tip.style.left = `${Math.max(0, beside)}px`;
      tip.style.top = `${f.top + 6}px`;
    }
    function leave() { tip.hidden = true; mark.setAttribute("visibility", "hidden"); }
    f.svg.setAttribute("tabindex", "0");
    f.svg.addEventListener("pointermove", (event) => {
      const px = event.clientX - f.svg.getBoundingClientRect().left;
      let best = 0;
      steps.forEach((s, i) => { if (Math.abs(x(s) - px) < Math.abs(x(steps[best]) - px)) best = i; });
      move(best);
    });
    f.svg.addEventListener("pointerleave", leave);
    f.svg.addEventListener("blur", leave);
    f.svg.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by) { event.preventDefault(); move(at + by); }
      if (event.key === "Escape") leave();
    });
  }

  // Final values: one dot a seed, a bar for the interval

  function drawFinals(section, box) {
    const shown = section.models.filter((m) => !m.hidden && m.final.mean !== null);
    const names = 8 + 7 * Math.max(6, ...shown.map((m) => m.name.length));
    const f = frame(box, 66 + 30 * Math.max(1, shown.length), Math.min(names, box.clientWidth * 0.4),
      `final ${section.metric} of each seed and model`);
    if (!shown.length) return;
    f.top = 22;
    const values = shown.flatMap((m) => m.final.seeds);
    values.push(...section.baselines.map((b) => b.value), ...shown.map((m) => m.final.mean));
    const x = linear(...domain(values, section.metric), f.left, f.right);
    const clamp = (v) => Math.max(f.left, Math.min(f.right, x(v)));
    xAxis(f, x, `${section.metric}, ${section.finalSplit} split`, tick(section.metric));
    for (const b of section.baselines) {
      const base = add(f.svg, "line", { class: "base", x1: x(b.value), x2: x(b.value), y1: f.top, y2: f.bottom });
      add(base, "title", {}, `${b.name}: ${show(b.value, section.metric)}`);
    }
    const order = [...shown].sort((p, q) => (section.higher ? -1 : 1) * (p.final.mean - q.final.mean));
    order.forEach((model, i) => {
      const y = f.top + 15 + 30 * i;
      const name = add(f.svg, "text", { class: "name", x: f.left - 10, y: y + 4, "text-anchor": "end", "data-final": model.name });
      name.textContent = model.name.length * 7 > f.left ? model.name.slice(0, Math.floor(f.left / 7) - 2) + "…" : model.name;
      const { mean, ends } = model.final;
      if (ends[0] !== null) {
        const bar = add(f.svg, "line", { x1: clamp(ends[0]), x2: clamp(ends[1]), y1: y, y2: y, "stroke-width": 7, "stroke-opacity": 0.25, "stroke-linecap": "round" });
        bar.style.stroke = paint(model);
      }
      for (const v of model.final.seeds) add(f.svg, "circle", { cx: x(v), cy: y, r: 4, "fill-opacity": 0.75 }).style.fill = paint(model);
      const middle = add(f.svg, "line", { x1: x(mean), x2: x(mean), y1: y - 8, y2: y + 8, "stroke-width": 2 });
      middle.style.stroke = paint(model);
    });
  }

  // Cost against quality, and those that no other beats in both

  const stateName = (section) => `state, ${section.stateUnit}`;
  const costOf = (section, model) => section.cost === stateName(section) ? model.state : model.costs[section.cost] || 0;
  function costsIn(section) {
    const names = new Set(section.models.flatMap((m) => Object.keys(m.costs)));
    return [...(section.models.some((m) => m.state > 0) ? [stateName(section)] : []), ...names];
  }
  function front(section, models) {
    let best = null;
    return [...models].sort((p, q) => costOf(section, p) - costOf(section, q) || (section.higher ? 1 : -1) * (q.final.mean - p.final.mean))
      .filter((m) => {
        if (best !== null && (section.higher ? m.final.mean <= best : m.final.mean >= best)) return false;
        best = m.final.mean;
        return true;
      });
  }
  function drawCosts(section, box) {
    const shown = section.models.filter((m) => !m.hidden && m.final.mean !== null && costOf(section, m) > 0);
    const f = frame(box, 300, 52, `${section.metric} against ${section.cost}`);
    if (!shown.length) { add(f.svg, "text", { x: f.left, y: 60 }, "No model here declares a state."); return; }
    const [least, most] = extent(shown.map((m) => costOf(section, m)));
    const x = logarithmic(least / 1.6, most * 1.6, f.left, f.right);
    const values = shown.flatMap((m) => [...m.final.seeds, m.final.mean]);
    values.push(...section.baselines.map((b) => b.value));
    const y = linear(...domain(values, section.metric), f.bottom, f.top);
    xAxis(f, x, `${section.cost} (log)`, compact);
    yAxis(f, y, tick(section.metric));
    baselinesAcross(f, section, y, false);
    const within = (v) => Math.min(f.bottom, Math.max(f.top, y(v)));
    const along = front(section, shown).map((m) => `${x(costOf(section, m))},${y(m.final.mean)}`);
    if (along.length > 1) add(f.svg, "polyline", { class: "front", points: along.join(" "), fill: "none" });
    const taken = [], square = section.cost === stateName(section);
    for (const model of [...shown].sort((p, q) => q.final.mean - p.final.mean)) {
      const { mean, ends } = model.final, cx = x(costOf(section, model)), cy = y(mean);
      if (ends[0] !== null)
        add(f.svg, "line", { x1: cx, x2: cx, y1: within(ends[0]), y2: within(ends[1]), "stroke-width": 2, "stroke-opacity": 0.5 }).style.stroke = paint(model);
      const dot = model.grows && square
        ? add(f.svg, "rect", { x: cx - 5, y: cy - 5, width: 10, height: 10, "stroke-width": 2 })
        : add(f.svg, "circle", { cx, cy, r: 5.5 });
      dot.style.fill = model.grows && square ? "var(--card)" : paint(model);
      dot.style.stroke = paint(model);
      const right = cx < (f.left + f.right) / 2, length = 7 * model.name.length;
      const from = right ? cx + 10 : cx - 10 - length;
      let at = cy + 4;
      const clash = () => taken.some((t) => Math.abs(t.at - at) < 13 && from < t.to && t.from < from + length);
      while (clash() && at < f.bottom) at += 3;
      taken.push({ from, to: from + length, at });
      add(f.svg, "text", { class: "name", x: cx + (right ? 10 : -10), y: at, "text-anchor": right ? "start" : "end" }, model.name);
    }
  }

  // Trials: validation against each number that was swept

  function drawTuning(section, box) {
    const shown = section.models.filter((m) => !m.hidden);
    const fields = [...new Set(shown.flatMap((m) => Object.keys(m.tuning)))];
    clear(box);
    for (const field of fields) drawSweep(section, add(box, "div", { class: "plot" }), shown, field);
  }
  function drawSweep(section, box, shown, field) {
    const f = frame(box, 260, 52, `validation ${section.metric} against ${field}`);
    const finite = (m) => (m.tuning[field] || []).filter((p) => p.mean !== null);
    const points = shown.flatMap(finite);
    if (!points.length) { add(f.svg, "text", { x: f.left, y: 60 }, "No trial to show."); return; }
    const xs = extent(points.map((p) => p.x)), wide = xs[0] > 0 && xs[1] >= 8 * xs[0];
    const x = wide ? logarithmic(xs[0] / 1.2, xs[1] * 1.2, f.left, f.right) : linear(xs[0], xs[1], f.left + 8, f.right - 8);
    const y = linear(...domain([...points.map((p) => p.mean), ...section.baselines.map((b) => b.value)], section.metric), f.bottom, f.top);
    xAxis(f, x, field + (wide ? " (log)" : ""), (v) => String(+v.toPrecision(2)));
    yAxis(f, y, tick(section.metric));
    baselinesAcross(f, section, y, false);
    const best = section.higher ? Math.max : Math.min;
    for (const model of shown) {
      const own = finite(model), at = new Map();
      for (const p of own) at.set(p.x, at.has(p.x) ? best(at.get(p.x), p.mean) : p.mean);
      add(f.svg, "polyline", {
        points: [...at].map(([v, mean]) => `${x(v)},${y(mean)}`).join(" "), fill: "none", "stroke-width": 2,
        "stroke-dasharray": model.dash, "data-tuning": model.name,
      }).style.stroke = paint(model);
      for (const p of own) {
        const dot = add(f.svg, "circle", { cx: x(p.x), cy: y(p.mean), r: p.chosen ? 6 : 3, "stroke-width": 2 });
        dot.style.fill = p.chosen ? "var(--card)" : paint(model);
        dot.style.stroke = paint(model);
        add(dot, "title", {}, `${model.name}, ${field} ${p.x}: ${show(p.mean, section.metric)}${p.chosen ? ", chosen" : ""}`);
      }
    }
  }

  // Controls

  function choices(bar, title, values, get, set) {
    if (values.length < 2) return;
    const group = add(bar, "div", { class: "choices", role: "group", "aria-label": title });
    group.append(title);
    const buttons = add(group, "span");
    for (const value of values) {
      const button = add(buttons, "button", { type: "button", "data-choice": value, "aria-pressed": String(get() === value) }, value);
      button.addEventListener("click", () => {
        set(value);
        for (const other of buttons.children) other.setAttribute("aria-pressed", String(other === button));
      });
    }
  }

  function start(section) {
    const root = document.getElementById(section.id);
    const boxes = [[drawCurves, "curves"], [drawFinals, "finals"], [drawCosts, "costs"], [drawTuning, "tuning"]]
      .map(([draw, kind]) => [draw, root.querySelector(`[data-plot=${kind}]`)]).filter(([, box]) => box);
    const draw = () => boxes.forEach(([paintIt, box]) => paintIt(section, box));
    section.view = { metric: section.metrics[0], split: section.splits[0], scale: "linear", over: "steps" };
    section.cost = costsIn(section)[0];
    const bars = [...root.querySelectorAll("[data-bar]")], barOf = (name) => bars.find((b) => b.dataset.bar === name);
    for (const { name, metrics } of section.axes) {
      const xs = section.models.flatMap((m) => Object.values(m.axes[name] || {}).flatMap((c) => c.x));
      const [low, high] = extent(xs), scale = low > 0 && high > 8 * low && name !== "position" ? "log" : "linear";
      const view = { axis: name, metric: metrics[0], scale };
      const box = [...root.querySelectorAll("[data-plot]")].find((b) => b.dataset.plot === `axis ${name}`);
      boxes.push([(own, where) => drawCurves(own, where, view), box]);
      choices(barOf(`axis ${name}`), "metric", metrics, () => view.metric, (v) => { view.metric = v; draw(); });
      choices(barOf(`axis ${name}`), "x axis", ["linear", "log"], () => view.scale, (v) => { view.scale = v; draw(); });
    }
    for (const { mixer, lines } of section.ratios) {
      const title = `share of ${mixer} layers`, view = { axis: title, metric: section.metric, scale: "linear" };
      const models = lines.map((l) => ({ ...l, axes: { [title]: { [section.metric]: l.curve } } }));
      const box = [...root.querySelectorAll("[data-plot]")].find((b) => b.dataset.plot === `ratio ${mixer}`);
      boxes.push([(own, where) => drawCurves({ ...own, models }, where, view), box]);
    }
    choices(barOf("costs"), "cost", costsIn(section), () => section.cost, (v) => { section.cost = v; draw(); });
    const bar = root.querySelector(".bar");
    for (const key of ["metric", "split"])
      choices(bar, key, section[key + "s"], () => section.view[key], (v) => { section.view[key] = v; draw(); });
    const over = ["steps", ...["tokens", "FLOPs"].filter((k) => section.models.some((m) => m.perStep[k]))];
    choices(bar, "over", over, () => section.view.over, (v) => { section.view.over = v; draw(); });
    choices(bar, "x axis", ["linear", "log"], () => section.view.scale, (v) => { section.view.scale = v; draw(); });
    const legend = root.querySelector(".legend");
    for (const model of section.models) {
      const button = add(legend, "button", { type: "button", "data-model": model.name, "aria-pressed": "true" });
      swatch(button, model);
      add(button, "span", {}, model.name);
      button.addEventListener("click", () => {
        model.hidden = !model.hidden;
        button.setAttribute("aria-pressed", String(!model.hidden));
        for (const row of root.querySelectorAll("tr[data-row]"))
          if (row.dataset.row === model.name) row.classList.toggle("off", model.hidden);
        draw();
      });
    }
    for (const cell of root.querySelectorAll("tr[data-row] [data-swatch]"))
      swatch(cell, section.models[+cell.dataset.swatch]);
    let width = root.clientWidth;
    draw();  // not left to the observer: it first calls at a frame, and a busy machine shows that late
    new ResizeObserver(() => { if (root.clientWidth !== width) { width = root.clientWidth; draw(); } }).observe(root);
  }

  // Numbers sort as numbers, and a missing value comes last either way.
  function sortBy(table, column, button) {
    const heads = [...table.tHead.rows[0].cells];
    const down = button.parentElement.getAttribute("aria-sort") !== "descending";
    for (const head of heads) head.removeAttribute("aria-sort");
    button.parentElement.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => {
      const text = row.cells[column].dataset.value;
      return text === "" || text === undefined ? null : heads[column].dataset.kind === "text" ? text : +text;
    };
    const rows = [...table.tBodies[0].rows].sort((p, q) => {
      const a = value(p), b = value(q);
      if (a === null || b === null) return (a === null) - (b === null);
      return (down ? -1 : 1) * (a < b ? -1 : a > b ? 1 : 0);
    });
    table.tBodies[0].append(...rows);
  }
  for (const table of document.querySelectorAll("table.sortable"))
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = head.querySelector("button");
      if (button) button.addEventListener("click", () => sortBy(table, column, button));
    });

  sections.forEach(start);
})();
