// Where everything starts.

import { startBlocks } from "./blocks_table.js";
import { startBudget } from "./budget.js";
import { startChart } from "./chart.js";
import { startCost } from "./cost_table.js";
import { byId, points, run } from "./data.js";
import { byName, make, makeButton } from "./dom.js";
import { startHistory } from "./history.js";
import { startPointsTable } from "./points_table.js";
import { startRecipePanel } from "./recipe_panel.js";
import { exportCommand } from "./recipes.js";
import { startSensitivity } from "./sensitivity.js";
import { choose, hideDear, readAddress, setAxes, view } from "./view.js";

function startControls() {
  for (const [id, key] of [
    ["x-axis", "x"],
    ["y-axis", "y"],
  ]) {
    const select = byName(id);
    select.replaceChildren(...run.axes[key].map((axis) => make("option", { value: axis.key }, axis.title)));
    select.value = view[key];
    select.addEventListener("change", () => setAxes({ [key]: select.value }));
  }
  byName("log").addEventListener("change", (event) => setAxes({ isLog: event.target.checked }));
  const dear = points.some((point) => !point.isFeasible);
  byName("dear-label").hidden = !dear;
  byName("dear").addEventListener("change", (event) => hideDear(event.target.checked));
}

/** What was made of recipes after the search; a row is chosen like any other. */
function startImproved() {
  byName("improved-section").hidden = run.improved.length === 0;
  byName("improved-list").replaceChildren(
    ...run.improved.map((found) => {
      const point = byId.get(found.id);
      const button = makeButton(point.label, () => choose(point));
      return make(
        "li",
        { "data-kind": found.kind },
        button,
        ` ${found.sentence} `,
        make("code", {}, exportCommand(point, found.kind)),
      );
    }),
  );
}

startControls();
startChart();
startPointsTable();
startBudget();
startRecipePanel();
startBlocks();
startCost();
startImproved();
startSensitivity();
startHistory();
readAddress();
addEventListener("hashchange", readAddress);
