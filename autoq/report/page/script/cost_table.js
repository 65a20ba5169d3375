// Where the bit operations of a recipe go.

import { COST_PARTS, costParts } from "./anatomy.js";
import { byName, fillTable, make, setBar } from "./dom.js";
import { amountText, ratioText, shareText } from "./numbers.js";
import { hasRecipe } from "./recipes.js";
import { onChange, reference, view } from "./view.js";

export function startCost() {
  onChange(["chosen", "pinned"], draw);
}

function draw() {
  const [point, other] = [view.chosen, reference()];
  byName("cost-section").hidden = !point || !hasRecipe(point);
  if (byName("cost-section").hidden) return;
  const mine = costParts(point);
  const theirs = other && other !== point && hasRecipe(other) ? costParts(other) : null;
  const parts = COST_PARTS.filter((part) => mine[part] || theirs?.[part]);
  const most = Math.max(...parts.flatMap((part) => [mine[part], theirs?.[part] ?? 0]));
  const columns = [
    { title: "Part" },
    { title: point.label, isNumber: true },
    { title: "share", isNumber: true },
    ...(theirs
      ? [
          { title: other.label, isNumber: true },
          { title: "Difference", isNumber: true },
        ]
      : []),
  ];
  fillTable(
    byName("cost"),
    columns,
    parts.map((part) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, part),
        setBar(make("td", { class: "number" }, amountText(mine[part], "BOPs")), mine[part] / most),
        make("td", { class: "number" }, shareText(mine[part], point.bops)),
        ...(theirs
          ? [
              setBar(make("td", { class: "number" }, amountText(theirs[part], "BOPs")), theirs[part] / most),
              make("td", { class: "number" }, theirs[part] ? ratioText(mine[part], theirs[part]) : ""),
            ]
          : []),
      ),
    ),
  );
}
