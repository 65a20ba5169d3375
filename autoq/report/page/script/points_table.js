// The table of recipes beside the chart: the front and the baselines, or everything, page by page.

import { points, run } from "./data.js";
import { byName, fillTable, make, makeButton } from "./dom.js";
import { FIGURES, figureText } from "./figures.js";
import { percentText } from "./numbers.js";
import { choose, onChange, view } from "./view.js";

const PAGE = 100;
const state = { key: "cost", isDescending: false, isWide: false, isAll: false, search: "", page: 0 };

/** Columns: a few that matter beside the chart, all of them if asked for. */
function columns() {
  const main = [
    { title: "Recipe", key: "label" },
    { title: run.cost.heading, key: "cost", isNumber: true, text: (value) => figureText("cost", value) },
    { title: run.loss.title, key: "loss", isNumber: true, text: (value) => figureText("loss", value) },
    ...(run.has_labels
      ? [{ title: run.metric.heading, key: "metric", isNumber: true, text: (value) => figureText("metric", value) }]
      : []),
  ];
  if (!state.isWide) return main;
  const shown = new Set(main.map(({ key }) => key));
  const others = FIGURES.filter(
    ({ key }) => !shown.has(key) && key !== run.cost.key && !(key === "kl_nats" && run.loss.is_kl),
  );
  return [
    ...main,
    { title: "From", key: "origin" },
    { title: "On front", key: "isOnFront", text: (is) => (is ? "yes" : "") },
    ...(run.budget === null
      ? []
      : [
          {
            title: "Of budget",
            key: "cost",
            isNumber: true,
            text: (value) => percentText((100 * value) / run.budget),
            isUnsorted: true,
          },
        ]),
    ...others.map(({ key, title }) => ({ title, key, isNumber: true, text: (value) => figureText(key, value) })),
  ];
}

const compare = (a, b) =>
  typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : (a ?? -Infinity) - (b ?? -Infinity);

/** The rows to list, sorted. */
function listed() {
  const words = state.search.trim().toLowerCase();
  const found = points.filter((point) =>
    words
      ? `${point.label} ${point.id}`.toLowerCase().includes(words)
      : state.isAll || point.kind !== "trial" || point === view.chosen,
  );
  const sign = state.isDescending ? -1 : 1;
  return found.sort((a, b) => sign * compare(a[state.key], b[state.key]));
}

function draw() {
  const rows = listed();
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  state.page = Math.min(state.page, pages - 1);
  const page = rows.slice(state.page * PAGE, (state.page + 1) * PAGE);
  const shown = columns();
  const heads = fillTable(
    byName("points"),
    shown,
    page.map((point) => pointRow(point, shown)),
  );
  heads.forEach((head, place) => sortHead(head, shown[place], place));
  byName("pages").hidden = pages === 1;
  byName("page-number").textContent = `page ${state.page + 1} of ${pages}`;
  mark();
}

function pointRow(point, shown) {
  const row = make(
    "tr",
    { "data-id": point.id },
    ...shown.map((column) => {
      if (column.key !== "label")
        return make(
          "td",
          { class: column.isNumber ? "number" : null },
          column.text ? column.text(point[column.key]) : point[column.key],
        );
      return make(
        "td",
        {},
        makeButton(point.label, () => choose(point)),
        point.id === run.best_id ? " ★" : "",
      );
    }),
  );
  row.addEventListener("click", () => choose(point));
  return row;
}

function sortHead(head, column, place) {
  if (column.isUnsorted) return;
  if (column.key === state.key) head.setAttribute("aria-sort", state.isDescending ? "descending" : "ascending");
  const button = makeButton(column.title, () => {
    state.isDescending = column.key === state.key && !state.isDescending;
    state.key = column.key;
    draw();
    byName("points").querySelectorAll("th")[place].querySelector("button").focus();
  });
  head.replaceChildren(button);
}

/** Show the chosen row, without scrolling the page: the chart stays in view. */
function mark() {
  const box = byName("points").parentElement;
  for (const row of byName("points").querySelectorAll("tbody tr")) {
    const isChosen = row.dataset.id === view.chosen?.id;
    row.classList.toggle("chosen", isChosen);
    if (isChosen) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
    if (isChosen && (row.offsetTop < box.scrollTop + 30 || row.offsetTop > box.scrollTop + box.clientHeight - 40))
      box.scrollTop = row.offsetTop - box.clientHeight / 2;
  }
}

/** Turn to the page that the chosen recipe is on. */
function follow() {
  const place = listed().indexOf(view.chosen);
  const isListed = byName("points").querySelector(`tr[data-id="${CSS.escape(view.chosen?.id ?? "")}"]`);
  if (place >= 0 && !isListed) {
    state.page = Math.floor(place / PAGE);
    draw();
  } else mark();
}

export function startPointsTable() {
  const redraw = () => {
    state.page = 0;
    draw();
  };
  byName("all-trials").addEventListener("change", (event) => {
    state.isAll = event.target.checked;
    redraw();
  });
  byName("all-columns").addEventListener("change", (event) => {
    state.isWide = event.target.checked;
    draw();
  });
  byName("search").addEventListener("input", (event) => {
    state.search = event.target.value;
    redraw();
  });
  byName("previous").addEventListener("click", () => turn(-1));
  byName("next").addEventListener("click", () => turn(1));
  draw();
  onChange(["chosen"], follow);
}

function turn(step) {
  state.page = Math.max(0, state.page + step);
  draw();
}
