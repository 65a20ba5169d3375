// Elements of the page. Text never becomes markup: everything goes in as text nodes.

export const byName = (id) => document.getElementById(id);

/** An element with attributes, and children that are elements or text; attributes that are null are left out. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A button that does something. */
export function makeButton(text, onClick, attributes = {}) {
  const button = make("button", { type: "button", ...attributes }, text);
  button.addEventListener("click", onClick);
  return button;
}

/** Fill a table: `columns` have `title` and, where they hold numbers, `isNumber`; `rows` are elements. */
export function fillTable(table, columns, rows) {
  const heads = columns.map((column) =>
    make("th", { scope: "col", class: column.isNumber ? "number" : null }, column.title),
  );
  table.replaceChildren(make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
  return heads;
}

/** A bar behind a number, `share` of its cell long. */
export function setBar(cell, share) {
  cell.classList.add("bar");
  cell.style.setProperty("--share", `${Math.max(0, Math.min(1, share)) * 100}%`);
  return cell;
}
