// What every view shares: the data (embedded in the page, or asked from the server through the host), and drawing.
//
//   views.run = (root, source) => ({ show(data) { … } })      // run.js, dataset.js, evaluation.js; start.js begins
//
// A page that `looptune open` wrote carries its data; in a host the view speaks MCP Apps (2026-01-26) over
// postMessage: ui/initialize, then what the tool was called with, then tools/call for everything else.
// Texts of rows, answers and logs are somebody else's: they only ever become text nodes.
"use strict";

const views = {};

const el = (tag, props = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else if (key === "style") Object.assign(node.style, value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
};

const svg = (tag, props = {}, ...children) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(props)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};

const number = (value, digits = 2) =>
  value === null || value === undefined ? "–" : Number(value).toLocaleString("en", { maximumFractionDigits: digits });
const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(1)} %`);
const duration = (seconds) => {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
};

const asOf = (written) =>
  written && `as of ${new Date(written).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" })}`;

const tile = (label, value, tone = "") => el("div", { class: "tile" }, el("b", { class: tone }, value), el("span", {}, label));

const bars = (title, counts) => {
  const most = Math.max(1, ...counts.map(([, count]) => count));
  return el("figure", {}, el("figcaption", {}, title),
    el("div", { class: "bars" }, counts.flatMap(([name, count]) => [
      el("span", { class: "name" }, name),
      el("div", { class: "bar", style: { width: `${(100 * count) / most}%` }, "aria-hidden": "true" }),
      el("span", { class: "count" }, number(count)),
    ])));
};

const table = (caption, heads, rows) =>
  el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", { class: "visually-hidden" }, caption),
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, place) =>
        cell instanceof Node ? cell : el(place ? "td" : "th", place ? {} : { scope: "row" }, String(cell))))))));

const pager = ({ first, count, total, what }, go) => {
  const last = Math.min(total, first + count);
  return el("div", { class: "row pager" },
    el("button", { type: "button", "aria-label": "Before", disabled: first === 0, onclick: () => go(Math.max(0, first - count)) }, "←"),
    el("span", { role: "status" }, total ? `${what} ${first + 1} to ${last} of ${number(total)}` : `no ${what}`),
    el("button", { type: "button", "aria-label": "After", disabled: last >= total, onclick: () => go(first + count) }, "→"));
};

// ---- a line chart that is read with the mouse, with the arrow keys, or as a table

const ticks = (low, high, wanted) => {
  const span = high - low || 1;
  const rough = span / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((n) => n * power >= rough));
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) found.push(Number(value.toPrecision(12)));
  return found;
};

class Chart {
  // lines: [{ name, tone: "blue" | "rust", dots, points: [[x, y], …] }], limit: { value, name }
  constructor(title, unit, { zero = false, digits = 3, xName = "step" } = {}) {
    Object.assign(this, { title, unit, zero, digits, xName, lines: [], limit: null, at: null });
    this.legend = el("span", { class: "legend" });
    this.readout = el("p", { class: "readout", role: "status" });
    this.picture = svg("svg", { tabindex: "0", role: "img", height: "190" });
    this.node = el("figure", {}, el("figcaption", {}, title, this.legend), this.picture, this.readout);
    this.picture.addEventListener("pointermove", (event) => this.point(event));
    this.picture.addEventListener("pointerleave", () => this.move(null));
    this.picture.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  set(lines, limit = null) {
    this.lines = lines.filter((line) => line.points.length);
    this.limit = limit;
    this.draw();
  }

  get xs() {
    return [...new Set(this.lines.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
  }

  draw() {
    const width = Math.max(240, this.picture.clientWidth || 320), height = 190;
    const [left, right, top, bottom] = [46, 8, 8, 24];
    this.picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.picture.replaceChildren();
    const points = this.lines.flatMap((line) => line.points);
    this.legend.replaceChildren(...this.lines.map((line) => el("span", {}, this.sample(line), line.name)));
    if (!points.length) {
      this.picture.append(svg("text", { x: left, y: height / 2 }, "nothing measured yet"));
      return;
    }
    const ys = points.map(([, y]) => y).concat(this.limit ? [this.limit.value] : []);
    let [low, high] = [Math.min(...ys), Math.max(...ys)];
    if (this.zero) low = 0;
    const margin = (high - low || Math.abs(high) || 1) * 0.06;
    [low, high] = [this.zero ? 0 : low - margin, high + margin];
    const xs = this.xs, from = xs[0], to = xs[xs.length - 1];
    const span = to - from || 1;
    this.x = (value) => left + ((value - from) / span) * (width - left - right);
    this.y = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
    for (const value of ticks(low, high, 4)) {
      this.picture.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: this.y(value), y2: this.y(value) }));
      this.picture.append(svg("text", { x: left - 6, y: this.y(value) + 4, "text-anchor": "end" }, number(value, this.digits)));
    }
    this.picture.append(svg("text", { x: left - 6, y: height - 8, "text-anchor": "end" }, this.xName));
    for (const value of ticks(from, to, width < 420 ? 4 : 6).filter(Number.isInteger))
      this.picture.append(svg("text", { x: this.x(value), y: height - 8, "text-anchor": "middle" }, number(value)));
    if (this.limit) {
      const y = this.y(this.limit.value);
      this.picture.append(svg("line", { class: "limit", x1: left, x2: width - right, y1: y, y2: y }));
      this.picture.append(svg("text", { class: "limit-label", x: width - right, y: y + 13, "text-anchor": "end" }, this.limit.name));
    }
    for (const line of this.lines) {
      const path = line.points.map(([x, y], place) => `${place ? "L" : "M"}${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`).join("");
      this.picture.append(svg("path", { class: `curve ${line.tone}`, d: path }));
      const dots = line.dots || line.points.length === 1 ? line.points : [];
      for (const [x, y] of dots) this.picture.append(svg("circle", { class: "dot", cx: this.x(x), cy: this.y(y), r: 3.2 }));
    }
    this.cursor = svg("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
    this.picture.append(this.cursor);
    this.picture.setAttribute("aria-label", `${this.title}. ${this.lines.map((line) => {
      const first = line.points[0], last = line.points[line.points.length - 1];
      return `${line.name}: ${number(first[1], this.digits)} at ${this.xName} ${first[0]}, ${number(last[1], this.digits)} at ${this.xName} ${last[0]}`;
    }).join("; ")}. Arrow keys read the curve.`);
    if (this.at !== null) this.move(this.at);
  }

  sample(line) {
    const drawn = svg("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" }, svg("line", { class: `curve ${line.tone}`, x1: 0, x2: 26, y1: 5, y2: 5 }));
    if (line.dots) drawn.append(svg("circle", { class: "dot", cx: 13, cy: 5, r: 3.2 }));
    return drawn;
  }

  point(event) {
    const box = this.picture.getBoundingClientRect(), xs = this.xs;
    if (!xs.length) return;
    const x = event.clientX - box.left;
    this.move(xs.reduce((best, value) => (Math.abs(this.x(value) - x) < Math.abs(this.x(best) - x) ? value : best), xs[0]));
  }

  key(event) {
    const xs = this.xs, place = this.at === null ? xs.length - 1 : xs.indexOf(this.at);
    const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: xs.length - 1 }[event.key];
    if (to === undefined || !xs.length) return;
    event.preventDefault();
    this.move(xs[Math.min(xs.length - 1, Math.max(0, to))]);
  }

  move(at) {
    this.at = at;
    this.cursor?.setAttribute("visibility", at === null ? "hidden" : "visible");
    if (at === null) return void this.readout.replaceChildren();
    this.cursor?.setAttribute("x1", this.x(at));
    this.cursor?.setAttribute("x2", this.x(at));
    const said = this.lines.map((line) => [line.name, line.points.find(([x]) => x === at)]).filter(([, found]) => found)
      .map(([name, [, y]]) => `${name} ${number(y, this.digits)} ${this.unit}`.trim());
    this.readout.replaceChildren(`${this.xName} ${number(at)}: ${said.join(", ")}`);
  }
}

// ---- where the data comes from

class Host {
  // JSON-RPC with the host that shows this view
  constructor() {
    this.next = 1;
    this.waiting = new Map();
    this.heard = {};
    window.addEventListener("message", (event) => event.source === window.parent && this.take(event.data));
  }

  post(message) {
    window.parent.postMessage({ jsonrpc: "2.0", ...message }, "*");
  }

  request(method, params) {
    const id = this.next++;
    this.post({ id, method, params });
    return new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
  }

  notify(method, params = {}) {
    this.post({ method, params });
  }

  take(message) {
    if (!message || message.jsonrpc !== "2.0") return;
    if (message.method && message.id !== undefined) {
      const known = ["ping", "ui/resource-teardown"].includes(message.method);
      this.post(known ? { id: message.id, result: {} } : { id: message.id, error: { code: -32601, message: `not known: ${message.method}` } });
      if (message.method === "ui/resource-teardown") this.heard.teardown?.();
    } else if (message.method) {
      this.heard[message.method.replace("ui/notifications/", "")]?.(message.params ?? {});
    } else {
      const waiting = this.waiting.get(message.id);
      this.waiting.delete(message.id);
      if (message.error) waiting?.reject(new Error(message.error.message));
      else waiting?.resolve(message.result);
    }
  }

  async connect() {
    const found = await this.request("ui/initialize", {
      appInfo: { name: "looptune", version: "1" }, appCapabilities: {}, protocolVersion: "2026-01-26",
    });
    this.can = found.hostCapabilities ?? {};
    this.dress(found.hostContext ?? {});
    this.heard["host-context-changed"] = (context) => this.dress(context);
    this.notify("ui/notifications/initialized");
    const tell = () => this.notify("ui/notifications/size-changed", { height: Math.ceil(document.documentElement.getBoundingClientRect().height) });
    new ResizeObserver(tell).observe(document.body);
  }

  dress(context) {
    if (context.theme) document.documentElement.dataset.theme = context.theme;
    for (const [name, value] of Object.entries(context.styles?.variables ?? {}))
      if (value) document.documentElement.style.setProperty(name, value);
  }

  async call(name, given) {
    const result = await this.request("tools/call", { name, arguments: given });
    if (result.isError) throw new Error(result.content?.find((part) => part.type === "text")?.text ?? "the tool failed");
    return result.structuredContent;
  }
}

const complain = (root, error) => {
  let box = document.getElementById("complaint");
  if (!box) root.prepend((box = el("p", { id: "complaint", role: "alert", class: "bad" })));
  box.replaceChildren(String(error.message ?? error));
};
