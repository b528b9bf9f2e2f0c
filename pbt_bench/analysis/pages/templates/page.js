"use strict";
// Sections are folded. The address of a heading opens its section, and so does printing.
{
  const folded = () => document.querySelectorAll("details");
  const show = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", show);
  show();
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...folded()].filter((part) => !part.open);
    for (const part of closed) part.open = true;
    for (const image of document.images) image.loading = "eager";
  });
  addEventListener("afterprint", () => { for (const part of closed) part.open = false; });
  const all = document.createElement("button");
  all.type = "button";
  all.id = "open-all";
  all.textContent = "open all sections";
  all.addEventListener("click", () => { for (const part of document.querySelectorAll("details.section")) part.open = true; });
  document.getElementById("contents").append(all);
}

// The run table of the report: filters, sorts, and opens one run. Texts enter by textContent only, so none is ever markup.
(async () => {
  const SHOWN = 50; // rows at a time
  const LABELS = { run: "run", status: "status", dataset: "dataset", model: "model", method: "method",
    setting: "setting", sparsity: "sparsity", seed: "seed", test_accuracy: "test accuracy (%), as recorded",
    validation_accuracy: "validation accuracy (%), as recorded", realised_sparsity: "realised sparsity",
    effective_sparsity: "effective sparsity", collapsed_layers: "empty layers", scoring_seconds: "scoring (s)", host: "host" };
  const IN_TABLE = ["run", "status", "dataset", "model", "method", "setting", "sparsity", "seed", "test_accuracy",
    "effective_sparsity", "collapsed_layers"];
  const ORDER = ["dataset", "model", "setting", "sparsity"]; // of the table before a head is chosen; methods stand together
  const FILTERS = ["dataset", "model", "method", "setting", "sparsity", "status"];
  const PERCENT = new Set(["test_accuracy", "validation_accuracy"]);

  const make = (name, text, attributes = {}) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const draw = (parent, name, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };

  const box = document.getElementById("runs");
  const packed = atob(document.getElementById("run-data").textContent);
  const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const { columns, words, errors, curves, layers, structures } = await new Response(stream).json();
  const total = columns.run.length;
  const value = (name, row) => (words[name] ? words[name][columns[name][row]] : columns[name][row]);
  const shown = (name, row) => {
    const found = value(name, row);
    if (found === null || found === undefined) return "–";
    return PERCENT.has(name) ? (100 * found).toFixed(2) : String(found);
  };
  const used = (name) => !FILTERS.includes(name) || new Set(columns[name]).size > 1;
  const heads = IN_TABLE.filter(used);
  const chosen = {}; // column -> set of keys
  let wanted = []; // words of the search, in lower case
  let sorted = null; // [column, 1 or -1]
  let most = SHOWN;
  const whole = Array.from({ length: total }, (_, row) => row);
  whole.sort((a, b) => { // keys are indices of sorted words, or numbers
    for (const name of ORDER) if (columns[name][a] !== columns[name][b]) return columns[name][a] < columns[name][b] ? -1 : 1;
    return a - b;
  });

  const controls = make("form", undefined, { class: "filters", role: "search" });
  controls.addEventListener("submit", (event) => event.preventDefault());
  const changed = () => { most = SHOWN; refresh(); };
  const search = make("input", undefined, { type: "search", name: "search", placeholder: "search", "aria-label": "search the runs" });
  search.addEventListener("input", () => { wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean); changed(); });
  controls.append(search);
  const clears = [];
  for (const name of FILTERS.filter(used)) {
    const values = words[name] ? words[name].map((word, i) => [i, word])
      : [...new Set(columns[name])].sort((a, b) => a - b).map((number) => [number, String(number)]);
    const present = new Set(columns[name]);
    const summary = make("summary", `${LABELS[name]}: all`);
    const list = make("div");
    const boxes = [];
    const apply = () => {
      const marked = boxes.filter(([box]) => box.checked);
      if (marked.length) chosen[name] = new Set(marked.map(([, key]) => key));
      else delete chosen[name];
      summary.textContent = `${LABELS[name]}: ${marked.length > 2 ? `${marked.length} values` : marked.map(([, , text]) => text).join(", ") || "all"}`;
      summary.className = marked.length ? "used" : "";
    };
    for (const [key, word] of values.filter(([key]) => present.has(key))) {
      const text = word === "" ? "(plain)" : word;
      const label = make("label");
      const box = make("input", undefined, { type: "checkbox", name, value: text });
      box.addEventListener("change", () => { apply(); changed(); });
      boxes.push([box, key, text]);
      label.append(box, ` ${text}`);
      list.append(label);
    }
    clears.push(() => { for (const [box] of boxes) box.checked = false; apply(); });
    const part = make("details", undefined, { "data-filter": name });
    part.append(summary, list);
    controls.append(part);
  }
  document.addEventListener("click", (event) => { // a list closes on a click outside
    for (const part of controls.querySelectorAll("details[open]")) if (!part.contains(event.target)) part.open = false;
  });
  const reset = make("button", "reset", { type: "button" });
  reset.addEventListener("click", () => {
    search.value = "";
    wanted = [];
    sorted = null;
    for (const clear of clears) clear();
    changed();
  });
  const download = make("button", "download as csv", { type: "button", id: "download-runs" });
  download.addEventListener("click", () => {
    const link = make("a", undefined, { download: `${document.title.split(" – ")[0].replace(/[^\w.-]+/g, "-")}-runs.csv` });
    link.href = URL.createObjectURL(new Blob([csv(rows())], { type: "text/csv" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  controls.append(reset, download);
  const count = make("p", undefined, { class: "soft", role: "status", id: "run-count" });
  const table = make("table", undefined, { id: "run-table" });
  const head = make("tr");
  const body = make("tbody");
  const top = make("thead");
  top.append(head);
  table.append(top, body);
  for (const name of heads) {
    const cell = make("th", undefined, { scope: "col", "data-column": name, class: words[name] || name === "run" ? "text" : "" });
    const button = make("button", LABELS[name], { type: "button" });
    button.addEventListener("click", () => {
      sorted = [name, sorted && sorted[0] === name ? -sorted[1] : 1];
      refresh();
    });
    cell.append(button);
    head.append(cell);
  }
  const more = make("button", "", { type: "button", id: "more-runs" });
  more.addEventListener("click", () => { most += 10 * SHOWN; refresh(); });
  const scroll = make("div", undefined, { class: "scroll" });
  scroll.append(table);
  const opened = make("section", undefined, { id: "one-run", hidden: "", "aria-live": "polite" });
  box.replaceChildren(controls, count, opened, scroll, more);

  const texts = []; // of each row, in lower case, for the search
  const matches = (row) => {
    if (!wanted.length) return true;
    texts[row] ??= [...Object.keys(LABELS).map((name) => shown(name, row)), errors[row] ?? ""].join(" ").toLowerCase();
    return wanted.every((word) => texts[row].includes(word));
  };

  const csv = (found) => {
    const names = Object.keys(LABELS);
    const cell = (item) => {
      let text = item === null || item === undefined ? "" : String(item);
      if (typeof item === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`; // else a spreadsheet executes it
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const lines = found.map((row) => [...names.map((name) => value(name, row)), errors[row]].map(cell).join(","));
    return `${[...names, "error"].join(",")}\n${lines.join("\n")}\n`;
  };

  const rows = () => {
    const names = Object.keys(chosen);
    const found = whole.filter((row) => names.every((name) => chosen[name].has(columns[name][row])) && matches(row));
    if (sorted) {
      const [name, way] = sorted;
      const keys = columns[name]; // the words of a dictionary are sorted, so are their indices
      const missing = (key) => key === null || key === undefined;
      found.sort((a, b) => {
        if (missing(keys[a]) || missing(keys[b])) return missing(keys[a]) - missing(keys[b]); // last either way
        return way * (keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : 0); // a sort is stable: equal keys keep their order
      });
    }
    return found;
  };

  function refresh() {
    const found = rows();
    const lines = found.slice(0, most).map((row) => {
      const line = make("tr", undefined, { class: value("status", row) });
      for (const name of heads) {
        const cell = make("td", name === "run" ? undefined : shown(name, row),
          { class: words[name] || name === "run" ? "text" : "" });
        if (name === "run") {
          const button = make("button", value("run", row), { type: "button", class: "run" });
          button.addEventListener("click", () => open(row));
          cell.append(button);
        }
        line.append(cell);
      }
      return line;
    });
    body.replaceChildren(...lines);
    for (const cell of head.children) {
      const here = sorted && sorted[0] === cell.dataset.column;
      cell.setAttribute("aria-sort", here ? (sorted[1] > 0 ? "ascending" : "descending") : "none");
    }
    count.textContent = `${found.length} of ${total} runs` + (found.length > most ? `, the first ${most} shown` : "");
    more.textContent = `show ${Math.min(10 * SHOWN, found.length - most)} more`;
    more.hidden = found.length <= most;
  }

  function open(row) {
    const close = make("button", "close", { type: "button" });
    close.addEventListener("click", () => { opened.hidden = true; history.replaceState(null, "", "#runs"); });
    const title = make("h3", `Run ${value("run", row)} `);
    title.append(close);
    const facts = make("dl");
    for (const name of Object.keys(LABELS).filter((name) => name !== "run")) {
      if (shown(name, row) !== "" && shown(name, row) !== "–") facts.append(make("dt", LABELS[name]), make("dd", shown(name, row)));
    }
    opened.replaceChildren(title, facts);
    if (errors[row]) {
      const why = make("p", undefined, { class: "notice" });
      why.append(make("code", errors[row]));
      opened.append(why);
    }
    const pair = make("div", undefined, { class: "pair" });
    if (curves && curves[row]) pair.append(chart(curves[row]));
    if (layers && layers[row]) pair.append(layerTable(layers[row]));
    opened.append(pair);
    if (!curves) opened.append(make("p", "With this many runs the page has no curves and layers; pbt-bench show prints them:"));
    opened.append(make("p", `pbt-bench show ${value("run", row)}`, { class: "soft command" }));
    opened.hidden = false;
    history.replaceState(null, "", `#run-${value("run", row)}`);
    opened.scrollIntoView({ block: "nearest" });
  }

  function chart([epochs, loss, heldLoss, accuracy, heldAccuracy]) {
    const part = make("div");
    const panel = (title, lines, ceiling) => {
      const known = lines.flatMap(([, values]) => values).filter((number) => number !== null);
      if (!known.length) return;
      const [width, height, left, base] = [360, 170, 44, 140];
      const highest = ceiling || Math.max(...known) || 1;
      const x = (epoch) => left + (width - left - 10) * (epoch - epochs[0]) / Math.max(1, epochs[epochs.length - 1] - epochs[0]);
      const y = (number) => base - (base - 14) * Math.min(number, highest) / highest;
      const svg = draw(part, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "curve" });
      draw(svg, "title", {}, title);
      for (const share of [0, 0.5, 1]) {
        draw(svg, "line", { x1: left, x2: width - 10, y1: y(share * highest), y2: y(share * highest), class: "rule" });
        draw(svg, "text", { x: left - 5, y: y(share * highest) + 4, "text-anchor": "end" },
          ceiling ? `${100 * share} %` : String(Number((share * highest).toPrecision(2))));
      }
      for (const epoch of new Set([epochs[0], epochs[epochs.length - 1]])) {
        draw(svg, "text", { x: x(epoch), y: base + 15, "text-anchor": "middle" }, epoch);
      }
      draw(svg, "text", { x: left, y: 9 }, title);
      lines.forEach(([name, values], index) => {
        const points = epochs.map((epoch, i) => [epoch, values[i]]).filter(([, number]) => number !== null);
        if (!points.length) return;
        const path = points.map(([epoch, number]) => `${x(epoch).toFixed(1)},${y(number).toFixed(1)}`).join(" ");
        draw(svg, "polyline", { points: path, class: `line${index}` });
        if (points.length === 1) draw(svg, "circle", { cx: x(points[0][0]), cy: y(points[0][1]), r: 3, class: `line${index}` });
        draw(svg, "line", { x1: left + 130 * index, x2: left + 130 * index + 22, y1: height - 8, y2: height - 8, class: `line${index}` });
        draw(svg, "text", { x: left + 130 * index + 27, y: height - 4 }, name);
      });
    };
    panel("accuracy by epoch", [["training", accuracy], ["validation", heldAccuracy]], 1);
    panel("loss by epoch", [["training", loss], ["validation", heldLoss]], 0);
    return part;
  }

  function layerTable([structure, kept]) {
    const [names, sizes] = structures[structure];
    const list = make("table", undefined, { class: "layers" });
    const line = make("tr");
    for (const [text, kind] of [["layer", "text"], ["weights", ""], ["kept", ""], ["density", ""], ["", "text"]]) {
      line.append(make("th", text, { class: kind }));
    }
    const first = make("thead");
    first.append(line);
    const rest = make("tbody");
    names.forEach((name, i) => {
      const density = sizes[i] ? kept[i] / sizes[i] : 0;
      const one = make("tr", undefined, { class: kept[i] ? "" : "empty" });
      one.append(make("th", name, { class: "text" }), make("td", sizes[i]), make("td", kept[i]),
        make("td", kept[i] ? `${(100 * density).toPrecision(3)} %` : "empty"));
      const bar = make("td", undefined, { class: "text" });
      const svg = draw(bar, "svg", { viewBox: "0 0 80 8", class: "bar", "aria-hidden": "true" });
      draw(svg, "rect", { width: 80 * density, height: 8 });
      one.append(bar);
      rest.append(one);
    });
    list.append(first, rest);
    const part = make("div", undefined, { class: "scroll" });
    part.append(list);
    return part;
  }

  refresh();
  const asked = location.hash.startsWith("#run-") ? columns.run.indexOf(location.hash.slice(5)) : -1;
  if (asked >= 0) open(asked);
  box.dataset.ready = "yes";
})().catch((error) => {
  document.getElementById("runs").textContent = `The run table needs a browser of 2023 or later (${error}).`;
  throw error;
});
