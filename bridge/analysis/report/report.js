// Sorting, filtering, curves and answers of the report. Data are written as text only (textContent).
"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = (id) => {
    const element = document.getElementById(id);
    return element && JSON.parse(element.textContent);
  };
  const make = (tag, properties = {}, children = []) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const dot = (name) => make("i", { className: `dot ${name}` });
  const choices = (select, entries) =>
    select.replaceChildren(...entries.map(([value, text]) => make("option", { value, textContent: text })));

  // A row of check boxes; `changed` gets the set of those that are on.
  function chips(box, entries, changed) {
    const on = new Set(entries.filter((entry) => entry.on !== false).map((entry) => entry.value));
    box.replaceChildren(
      ...entries.map(({ value, text, name, on: start }) => {
        const input = make("input", { type: "checkbox", value, checked: start !== false });
        input.addEventListener("change", () => {
          if (input.checked) on.add(value); else on.delete(value);
          changed(on);
        });
        const face = make("span", {}, name ? [dot(name), text] : [text]);
        return make("label", { className: "chip" }, [input, face]);
      }),
    );
    return on;
  }

  // -- tables: sort by any column, rows of class extra stay below

  function sortable(table) {
    const heads = $$("thead tr:last-child th", table);
    const body = table.tBodies[0];
    if (!body || table.tBodies.length > 1 || body.rows.length < 2) return;
    const rows = [...body.rows];
    heads.forEach((head, column) => {
      const button = make("button", { type: "button" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        body.append(...sorted(rows, column, down ? -1 : 1));
      });
    });
  }

  function value(row, column) {
    const cell = row.cells[column];
    if (!cell) return "";
    const text = cell.dataset.v ?? (cell.firstElementChild?.matches("a, strong") ? cell.firstElementChild : cell).textContent.trim();
    const number = Number.parseFloat(text.replaceAll(",", "").replace("−", "-"));
    return Number.isNaN(number) ? text : number;
  }

  function sorted(rows, column, direction) {
    const rank = (v) => (v === "" ? 2 : typeof v === "string" ? 1 : 0);
    const keyed = rows.map((row) => [row.classList.contains("extra"), value(row, column), row]);
    // Words and empty cells stay below the numbers, whichever way they run.
    keyed.sort(([lowA, a], [lowB, b]) => {
      if (lowA !== lowB) return lowA - lowB;
      if (rank(a) !== rank(b)) return rank(a) - rank(b);
      return direction * (typeof a === "number" ? a - b : a.localeCompare(b));
    });
    return keyed.map(([, , row]) => row);
  }

  // -- main table: filter by model, data set, method and benchmark

  function filters() {
    const bar = $("#filters");
    const sheets = $$("#main .sheet");
    if (!bar || !sheets.length) return;
    const distinct = (list) => [...new Map(list).entries()];
    const rows = $$("tbody tr[data-method]", $("#main"));
    const heads = $$("thead th[data-benchmark]", $("#main"));
    const models = distinct(sheets.map((s) => [s.dataset.model, s.dataset.model]));
    const datasets = distinct(sheets.map((s) => [s.dataset.dataset, s.dataset.dataset]));
    const model = $("[name=model]", bar);
    const dataset = $("[name=dataset]", bar);
    choices(model, [["", "all models"], ...models.map(([m]) => [`=${m}`, m])]);
    choices(dataset, [["", "all data sets"], ...datasets.map(([d]) => [`=${d}`, d])]);
    model.closest("label").hidden = models.length < 2;
    dataset.closest("label").hidden = datasets.length < 2;
    const apply = () => {
      for (const sheet of sheets) {
        sheet.hidden = Boolean(
          (model.value && model.value !== `=${sheet.dataset.model}`) ||
            (dataset.value && dataset.value !== `=${sheet.dataset.dataset}`),
        );
      }
      for (const row of rows) row.hidden = !methods.has(row.dataset.method);
      for (const cell of $$("[data-benchmark]", $("#main"))) cell.hidden = !benchmarks.has(cell.dataset.benchmark);
      for (const group of $$("th[data-group]", $("#main"))) {
        group.colSpan = Math.max(1, [...benchmarks].filter((b) => group.dataset.group.split(" | ").includes(b)).length);
      }
    };
    const methods = chips(
      $("[data-chips=method]", bar),
      distinct(rows.map((r) => [r.dataset.method, r])).map(([value, row]) => ({
        value, text: $("th", row).textContent.trim(), name: $(".dot", row).classList[1],
      })),
      apply,
    );
    const benchmarks = chips(
      $("[data-chips=benchmark]", bar),
      distinct(heads.map((h) => [h.dataset.benchmark, h.firstChild.textContent.trim() || h.textContent.trim()]))
        .map(([value, text]) => ({ value, text })),
      apply,
    );
    model.addEventListener("change", apply);
    dataset.addEventListener("change", apply);
    bar.hidden = false;
  }

  // -- curves, drawn by uPlot

  const rgba = (hex, alpha) =>
    `rgba(${[1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16)).join(",")},${alpha})`;

  function nearest(plot, series, index) {
    const values = plot.data[series];
    for (let step = 0; step < values.length; step++) {
      if (values[index - step] != null) return index - step;
      if (values[index + step] != null) return index + step;
    }
    return index;
  }

  function lines(curve, metric, axis) {
    const { at, mean, low, high } = curve.y[metric];
    const x = curve.x[axis];
    const kept = at.map((place, i) => [x[place], i]).filter(([place]) => place != null);
    const take = (values) => kept.map(([, i]) => values[i]);
    return [kept.map(([place]) => place), take(mean), ...(low ? [take(high), take(low)] : [])];
  }

  // Each curve's name at its end, moved apart where names would overlap.
  const NAMED_PX = 560;
  function nameEnds(plot) {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio;
    const last = plot.series[0].idxs[1];
    const ends = plot.series.flatMap((series, i) => {
      if (i === 0 || series.class === "bound") return [];
      const at = nearest(plot, i, last);
      const value = plot.data[i][at];
      return value == null ? [] : [{ y: plot.valToPos(value, "y", true), series, i }];
    });
    ends.sort((a, b) => a.y - b.y);
    const gap = 14 * ratio;
    ends.forEach((end, n) => { end.y = Math.max(end.y, n ? ends[n - 1].y + gap : bbox.top); });
    let floor = bbox.top + bbox.height;
    for (const end of [...ends].reverse()) { end.y = Math.min(end.y, floor); floor = end.y - gap; }
    ctx.save();
    ctx.font = `${12 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "middle";
    ctx.textAlign = "left";
    for (const { y, series, i } of ends) {
      ctx.fillStyle = series.stroke(plot, i);
      ctx.fillText(series.label, bbox.left + bbox.width + 8 * ratio, y);
    }
    ctx.restore();
  }

  function draw(box, found, metric, axis, title) {
    const shown = found.filter((curve) => curve.y[metric]);
    const tables = shown.map((curve) => lines(curve, metric, axis)).filter((table) => table[0].length);
    box.replaceChildren();
    if (!tables.length) {
      box.append(make("p", { textContent: "Nothing was logged for this choice." }));
      return null;
    }
    const number = (v) => (v == null ? "–" : Number(v.toPrecision(4)).toString());
    const series = [{ label: title.axis, value: (_, v) => number(v) }];
    const bands = [];
    for (const curve of shown) {
      const table = lines(curve, metric, axis);
      if (!table[0].length) continue;
      series.push({
        label: curve.label, stroke: curve.color, width: 2, dash: curve.dash, spanGaps: true,
        points: { show: table[0].length < 30 }, value: (_, v) => number(v),
      });
      if (table.length > 2) {
        const bound = { class: "bound", stroke: "transparent", width: 0, spanGaps: true, points: { show: false } };
        bands.push({ series: [series.length, series.length + 1], fill: rgba(curve.color, 0.13) });
        series.push(bound, { ...bound });
      }
    }
    const grid = { stroke: "#ebedef", width: 1 };
    const look = { stroke: "#5d636b", grid, ticks: grid, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif" };
    const size = () => ({ width: Math.max(240, box.clientWidth), height: Math.max(260, Math.min(420, box.clientWidth * 0.55)) });
    // On a phone there is no room beside the curves; the legend below has the names.
    const named = box.clientWidth > NAMED_PX;
    const longest = Math.max(...shown.map((curve) => curve.label.length));
    const plot = new uPlot(
      {
        ...size(), series, bands,
        padding: [null, named ? 7 * longest + 14 : null, null, null],
        hooks: { draw: named ? [nameEnds] : [] },
        scales: { x: { time: false } },
        axes: [{ ...look, label: title.axis }, { ...look, label: title.metric, size: 62 }],
        cursor: { dataIdx: nearest, drag: { x: true, y: false }, points: { size: 7 } },
        legend: { markers: { width: 0, fill: (u, i) => u.series[i].stroke?.(u, i) ?? "transparent" } },
      },
      uPlot.join(tables),
      box,
    );
    return () => plot.setSize(size());
  }

  function curves() {
    const found = data("curve-data");
    const section = $("#curves");
    if (!found || !section || !found.blocks.length) return;
    const [block, metric, axis] = ["block", "metric", "axis"].map((name) => $(`[name=${name}]`, section));
    choices(block, found.blocks.map((b, i) => [i, b.name]));
    choices(metric, Object.entries(found.metrics));
    choices(axis, Object.entries(found.axes));
    let resize = null;
    let on = new Set();
    const redraw = () => {
      const chosen = found.blocks[block.value].curves.filter((curve) => on.has(curve.method));
      const title = { axis: found.axes[axis.value], metric: found.metrics[metric.value] };
      resize = draw($("#chart"), chosen, metric.value, axis.value, title);
    };
    const start = () => {
      const entries = found.blocks[block.value].curves.map((curve) => ({
        value: curve.method, text: curve.label, name: curve.class,
      }));
      on = chips($("[data-chips=method]", section), entries, redraw);
      redraw();
    };
    block.addEventListener("change", start);
    metric.addEventListener("change", redraw);
    axis.addEventListener("change", redraw);
    window.addEventListener("resize", () => resize?.());
    section.hidden = false;
    start();
  }

  // -- answers: one question, all methods side by side

  const LISTS = {
    all: ["all questions", () => true],
    mixed: ["methods disagree", (right, n) => right > 0 && right < n],
    none: ["no method correct", (right) => right === 0],
    every: ["every method correct", (right, n) => right === n],
  };

  function card(method, answer) {
    const parts = [make("h4", {}, [dot(method.class), method.label])];
    if (!answer) return make("article", { className: "answer" }, [...parts, make("p", { textContent: "No answer." })]);
    parts[0].append(make("b", { className: answer.verdict === "correct" ? "correct" : "", textContent: answer.verdict }));
    parts.push(make("pre", { textContent: answer.text || "(empty)" }));
    if (answer.length > answer.text.length) {
      const note = `Cut: the first ${answer.text.length.toLocaleString("en")} of ${answer.length.toLocaleString("en")} characters.`;
      parts.push(make("p", { className: "cut", textContent: note }));
    }
    parts.push(make("p", {}, ["Extracted: ", make("code", { textContent: answer.extracted || "nothing" })]));
    return make("article", { className: "answer" }, parts);
  }

  function answers() {
    const found = data("answer-data");
    const section = $("#answers");
    if (!found || !section || !found.blocks.length) return;
    const [block, benchmark, list, question] = ["block", "benchmark", "list", "question"].map((name) =>
      $(`[name=${name}]`, section),
    );
    const [back, forward] = $$("button", section);
    let on = new Set();
    choices(block, found.blocks.map((b, i) => [i, b.name]));
    choices(list, Object.entries(LISTS).map(([name, [text]]) => [name, text]));
    const here = () => found.blocks[block.value];
    const show = () => {
      const asked = here().questions[question.value];
      const box = $("#answer-view");
      back.disabled = question.selectedIndex <= 0;
      forward.disabled = question.selectedIndex >= question.length - 1;
      if (!asked) {
        box.replaceChildren(make("p", { textContent: "No such question in this sample." }));
        return;
      }
      const head = [asked.benchmark, asked.id, asked.difficulty && `difficulty ${asked.difficulty}`, `seed ${here().seed}`];
      box.replaceChildren(
        make("div", { className: "question" }, [
          make("small", { textContent: head.filter(Boolean).join(" · ") }),
          make("p", { textContent: asked.question }),
          make("small", {}, ["Gold answer: ", make("code", { textContent: asked.gold })]),
        ]),
        make("div", { className: "answers" },
          here().methods.filter((m) => on.has(m.id)).map((m) => card(m, asked.answers[m.id]))),
      );
    };
    const narrow = () => {
      const fits = LISTS[list.value][1];
      const kept = here().questions.map((q, i) => [i, q]).filter(([, q]) => {
        const verdicts = Object.entries(q.answers).filter(([m]) => on.has(m)).map(([, a]) => a.verdict === "correct");
        return (!benchmark.value || benchmark.value === `=${q.benchmark}`) && fits(verdicts.filter(Boolean).length, verdicts.length);
      });
      choices(question, kept.map(([i, q]) => [i, q.id]));
      show();
    };
    const start = () => {
      const names = [...new Set(here().questions.map((q) => q.benchmark))];
      choices(benchmark, [["", "all benchmarks"], ...names.map((name) => [`=${name}`, name])]);
      const entries = here().methods.map((m) => ({ value: m.id, text: m.label, name: m.class }));
      on = chips($("[data-chips=method]", section), entries, narrow);
      narrow();
    };
    const move = (by) => { question.selectedIndex += by; show(); };
    block.addEventListener("change", start);
    benchmark.addEventListener("change", narrow);
    list.addEventListener("change", narrow);
    question.addEventListener("change", show);
    back.addEventListener("click", () => move(-1));
    forward.addEventListener("click", () => move(1));
    $(".controls", section).hidden = false;
    start();
  }

  filters();
  $$("table").filter((table) => !table.classList.contains("runs")).forEach(sortable);
  curves();
  answers();
  document.documentElement.dataset.ready = "yes";
})();
