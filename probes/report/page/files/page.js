"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const all = (query) => [...document.querySelectorAll(query)];
  const marked = new Set();
  const views = [];
  const signed = (value) => value.toFixed(1).replace("-", "−");
  const tip = document.getElementById("tip");

  // ---- tooltips: texts are set as text, never as HTML
  function place(x, y) {
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.min(x + 14, innerWidth - box.width - 8);
    const top = y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18;
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = Math.max(8, top) + "px";
  }
  function add(parent, tag, text) {
    const made = document.createElement(tag);
    made.textContent = text;
    parent.append(made);
    return made;
  }
  function hide() { tip.hidden = true; }
  for (const element of all("[data-tip]")) {
    const show = (event) => {
      const box = element.getBoundingClientRect();
      tip.replaceChildren();
      add(tip, "div", element.dataset.tip);
      place(event.clientX || box.left, event.clientY || box.bottom - 10);
    };
    element.addEventListener("mouseenter", show);
    element.addEventListener("focus", () => element.matches(":focus-visible") && show({}));
    element.addEventListener("mouseleave", hide);
    element.addEventListener("blur", hide);
  }
  addEventListener("keydown", (event) => { if (event.key === "Escape") { hide(); mark(null); } });
  addEventListener("scroll", hide, { passive: true });

  const DIFFERS = all(".chip").map((chip) => chip.dataset.tip);
  function onTooltip(handler, event, item, value) {
    if (value === null || value === undefined || value === "") return hide();
    tip.replaceChildren();
    const datum = item.datum || {};
    if (typeof value === "object") {
      const list = add(tip, "dl", "");
      for (const [key, shown] of Object.entries(value)) {
        if (shown === "undefined" || shown === "null" || shown === "NaN" || shown === "") continue;
        add(list, "dt", key);
        add(list, "dd", String(shown));
      }
      if (DIFFERS[datum.run]) add(tip, "p", DIFFERS[datum.run]);
    } else if (datum.image !== undefined) {
      tip.append(thumbnail(datum.map, datum.image));
      add(tip, "div", `${datum.factor} ${datum.value}`);
    }
    place(event.clientX, event.clientY);
  }
  function thumbnail(run, number) {
    const side = 28, across = 20, scale = 3;
    const sheet = document.querySelector(`img.sheet[data-run="${Number(run)}"]`);
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = side;
    canvas.style.cssText = `width:${side * scale}px;height:${side * scale}px;image-rendering:pixelated;display:block`;
    const x = (number % across) * side, y = Math.floor(number / across) * side;
    canvas.getContext("2d").drawImage(sheet, x, y, side, side, 0, 0, side, side);
    return canvas;
  }

  // ---- marking a checkpoint, everywhere
  function mark(run) {
    if (run === null) marked.clear();
    else if (!marked.delete(run)) marked.add(run);
    const none = marked.size === 0;
    for (const element of all("[data-run]")) {
      if (element.tagName === "IMG") continue;
      const on = marked.has(Number(element.dataset.run));
      element.classList.toggle("on", on);
      if (!element.classList.contains("row")) element.classList.toggle("faint", !none && !on);
      if (element.hasAttribute("aria-pressed")) element.setAttribute("aria-pressed", String(on));
    }
    for (const view of views) view.signal("marked", [...marked]).runAsync();
  }
  for (const button of all("button[data-run]")) {
    button.addEventListener("click", () => mark(Number(button.dataset.run)));
  }

  // ---- figures
  const text = { labelColor: "var(--quiet)", titleColor: "var(--quiet)", titleFontWeight: 400, labelFontSize: 12, titleFontSize: 12 };
  const config = {
    background: "transparent",
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: null, continuousHeight: 320 },
    axis: { ...text, gridColor: "var(--line)", domainColor: "var(--line)", tickColor: "var(--line)", titlePadding: 10, tickCount: 6 },
  };
  const failed = [];
  async function draw(element) {
    const number = Number(element.dataset.chart);
    const spec = data.charts[number].spec;
    const tall = Number(element.dataset.height);
    if (tall && !spec.height) spec.height = tall;
    spec.autosize = { type: "fit-x", contains: "padding" };
    const { view } = await vegaEmbed(element, spec, { renderer: "svg", ast: true, actions: false, tooltip: onTooltip, config });
    views.push(view);
    view.addEventListener("click", (event, item) => {
      if (item && item.datum && Number.isInteger(item.datum.run)) mark(item.datum.run);
    });
    const select = document.querySelector(`select[data-choice="${number}"]`);
    if (select) select.addEventListener("change", () => view.signal("choice", select.value).runAsync());
  }
  const drawn = all(".chart").map((element) => draw(element).catch((error) => {
    failed.push(String(error));
    element.textContent = "This figure could not be drawn.";
    console.error(error);
  }));
  Promise.all(drawn).then(() => { root.dataset.drawn = String(views.length); root.dataset.failed = String(failed.length); });

  // ---- the table
  const table = document.getElementById("table");
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "descending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => {
      const cell = row.cells[column];
      return cell.dataset.value ? Number(cell.dataset.value) : cell.dataset.text;
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;  // numbers first
      const order = typeof x === "number" ? x - y : x.localeCompare(y);
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows);
  }));

  // ---- saving
  for (const button of all("[data-save]")) {
    button.addEventListener("click", () => {
      const kind = button.dataset.save;
      const content = kind === "csv" ? data.csv : JSON.stringify(data.reports, null, 1);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([content], { type: kind === "csv" ? "text/csv" : "application/json" }));
      link.download = `report.${kind}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }

  // ---- pictures
  const large = document.getElementById("large");
  for (const button of all(".open")) {
    button.addEventListener("click", () => {
      large.querySelector("img").src = button.firstElementChild.src;
      large.querySelector("img").alt = button.firstElementChild.alt;
      large.showModal();
    });
  }
  document.getElementById("close").addEventListener("click", () => large.close());
  large.addEventListener("click", (event) => { if (event.target === large) large.close(); });

  // all sliders through the same checkpoints move together
  const sliders = all(".slides").map((slides) => {
    const figures = [...slides.querySelectorAll("figure")];
    const runs = figures.map((figure) => figure.dataset.runs);
    return { slider: slides.querySelector("input"), output: slides.querySelector("output"), figures, runs };
  });
  function slide(one, place) {
    one.slider.value = place;
    one.figures.forEach((figure, number) => figure.classList.toggle("away", number !== place));
    const note = one.figures[place].dataset.note;
    one.output.textContent = `${place + 1} of ${one.figures.length}` + (note ? `: ${note}` : "");
  }
  for (const one of sliders) {
    one.slider.addEventListener("input", () => {
      const place = Number(one.slider.value);
      for (const other of sliders) if (other.runs.join() === one.runs.join()) slide(other, place);
      mark(null);
      one.runs[place].split(" ").forEach((run) => mark(Number(run)));
    });
    slide(one, 0);
  }

  // ---- theme and print
  const theme = document.getElementById("theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; label(); });
  label();
  addEventListener("beforeprint", () => { for (const part of all("details")) part.open = true; });

  // ---- candidates, and why log(K + 1) is a ceiling
  const scores = data.scores;
  if (scores.length) explain();
  function explain() {
    const [run, slider, pair] = ["k-run", "k-k", "k-pair"].map((id) => document.getElementById(id));
    scores.forEach((found) => add(run, "option", data.checkpoints[found.run].label));
    document.getElementById("k-run-label").hidden = scores.length < 2;
    const most = Math.max(...scores.map((found) => found.table[0].length - 1));
    slider.max = Math.floor(Math.log2(most));
    const show = () => {
      const found = scores[Math.max(0, run.selectedIndex)];
      pair.max = found.table.length - 1;
      const k = Math.min(2 ** Number(slider.value), found.table[0].length - 1);
      const row = found.table[Number(pair.value)];
      const p = share(row, k), top = Math.log(k + 1);
      const mean = average(found, k);
      document.getElementById("k-k-out").textContent = k;
      document.getElementById("k-pair-out").textContent = `${Number(pair.value) + 1} of ${found.table.length}`;
      document.getElementById("k-said").textContent =
        `The true second view has ${(100 * p).toFixed(1)} % of the total of exp(score) over ${k + 1} candidates. ` +
        `This pair contributes log ${k + 1} + log ${p.toFixed(3)} = ${thousandth(top).toFixed(3)} − ${thousandth(-Math.log(p)).toFixed(3)} = ${(thousandth(top) - thousandth(-Math.log(p))).toFixed(3)} nats. ` +
        `Mean of these ${found.table.length} pairs: ${mean.toFixed(2)}; ceiling: ${top.toFixed(2)}.`;
      const colour = data.checkpoints[found.run].colour;
      document.getElementById("explainer").replaceChildren(strip(row, k, colour), rise(found, k, colour));
    };
    for (const control of [run, slider, pair]) control.addEventListener("input", show);
    show();
  }
  // differences of numbers as they are written, so that a reader can check them
  function thousandth(value) { return Math.round(1000 * value) / 1000; }
  function share(row, k) {
    const most = Math.max(...row.slice(0, k + 1));
    let total = 0;
    for (let j = 0; j <= k; j++) total += Math.exp(row[j] - most);
    return Math.exp(row[0] - most) / total;
  }
  function average(found, k) {
    return Math.log(k + 1) + found.table.reduce((sum, row) => sum + Math.log(share(row, k)), 0) / found.table.length;
  }
  function svg(tag, attributes, parent, words) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (words !== undefined) made.textContent = words;
    if (parent) parent.append(made);
    return made;
  }
  function canvas(about) {
    return svg("svg", { viewBox: "0 0 480 236", role: "img", "aria-label": about, width: "100%" });
  }
  function strip(row, k, colour) {
    const made = canvas("Scores of the candidates");
    const low = Math.min(...row), high = Math.max(...row);
    const x = (score) => 14 + (452 * (score - low)) / (high - low || 1);
    svg("line", { x1: 10, x2: 470, y1: 196, y2: 196, stroke: "var(--line)" }, made);
    for (let j = 1; j <= k; j++) {
      const y = 176 - ((j * 0.618034) % 1) * 120;
      svg("circle", { cx: x(row[j]), cy: y, r: k > 64 ? 2.6 : 4, fill: "var(--quiet)", "fill-opacity": 0.55 }, made);
    }
    svg("line", { x1: x(row[0]), x2: x(row[0]), y1: 36, y2: 196, stroke: colour, "stroke-width": 1.5 }, made);
    svg("circle", { cx: x(row[0]), cy: 36, r: 7, fill: colour }, made);
    const right = x(row[0]) > 240;
    svg("text", { x: x(row[0]) + (right ? -12 : 12), y: 40, class: "ink", "text-anchor": right ? "end" : "start" }, made, "the true second view");
    const least = (high - low) / 6 || 1, power = 10 ** Math.floor(Math.log10(least));
    const step = [1, 2, 5, 10].map((n) => n * power).find((size) => size >= least * 0.999);
    for (let score = Math.ceil(low / step) * step; score <= high + 1e-9; score += step) {
      svg("line", { x1: x(score), x2: x(score), y1: 196, y2: 200, stroke: "var(--quiet)" }, made);
      svg("text", { x: x(score), y: 214, "text-anchor": "middle" }, made, step < 1 ? signed(score) : String(Math.round(score)).replace("-", "−"));
    }
    svg("text", { x: 240, y: 231, "text-anchor": "middle" }, made, "score of a candidate; the height of a point has no meaning");
    svg("circle", { cx: 14, cy: 12, r: 4, fill: "var(--quiet)", "fill-opacity": 0.55 }, made);
    svg("text", { x: 24, y: 16 }, made, "views of other images");
    return made;
  }
  function rise(found, k, colour) {
    const made = canvas("Mean over these pairs against K, with the ceiling");
    const last = Math.floor(Math.log2(found.table[0].length - 1));
    const top = Math.log(2 ** last + 1);
    const x = (power) => 34 + (430 * power) / last;
    const y = (nats) => 196 - (172 * Math.max(0, nats)) / top;
    const powers = [...Array(last + 1).keys()];
    const path = (value) => powers.map((power, i) => `${i ? "L" : "M"}${x(power)} ${y(value(2 ** power))}`).join("");
    for (let nats = 0; nats <= top; nats++) {
      svg("line", { x1: 34, x2: 464, y1: y(nats), y2: y(nats), stroke: "var(--line)" }, made);
      svg("text", { x: 26, y: y(nats) + 4, "text-anchor": "end" }, made, nats);
    }
    svg("path", { d: path((value) => Math.log(value + 1)), fill: "none", stroke: "var(--quiet)", "stroke-width": 1.6, "stroke-dasharray": "1 3" }, made);
    svg("path", { d: path((value) => average(found, value)), fill: "none", stroke: colour, "stroke-width": 2 }, made);
    svg("circle", { cx: x(Math.log2(k)), cy: y(average(found, k)), r: 6, fill: colour }, made);
    svg("text", { x: x(last * 0.55), y: y(Math.log(2 ** (last * 0.55) + 1)) - 10, "text-anchor": "end", class: "halo" }, made, "ceiling log(K + 1)");
    for (const power of powers.filter((p) => p % 3 === 0)) svg("text", { x: x(power), y: 216, "text-anchor": "middle" }, made, 2 ** power);
    svg("text", { x: 250, y: 231, "text-anchor": "middle" }, made, "negatives K");
    svg("text", { x: 10, y: 12 }, made, "nats, mean of these pairs");
    return made;
  }
  window.twobounds = { data, svg, add };
})();
