// The run that the page shows: what autoq/report/page/data.py embeds, as objects.

export const run = JSON.parse(document.getElementById("run").textContent);

const literals = Object.fromEntries(Object.entries(run.columns).map(([name, text]) => [name, text.split(",")]));
const numbers = Object.fromEntries(
  Object.entries(literals).map(([name, column]) => [name, column.map((text) => (text === "" ? null : Number(text)))]),
);

/** Recipes that were evaluated, and published methods: figures by the names of autoq's columns; null is not known. */
export const points = run.ids.map((id, index) => {
  const point = { index, id, label: run.labels[index], origin: run.origins[run.origin_of[index]] };
  for (const name in numbers) point[name] = numbers[name][index];
  point.cost = point[run.cost.key];
  if (run.loss.is_kl) point.loss = point.kl_nats;
  point.isFeasible = run.feasible[index] === "1";
  point.isOnFront = run.on_front[index] === "1";
  point.kind =
    point.origin === "published" || point.origin === "uniform" ? point.origin : point.isOnFront ? "front" : "trial";
  return point;
});
export const byId = new Map(points.map((point) => [point.id, point]));
export const byCost = [...points].sort((a, b) => a.cost - b.cost || a.loss - b.loss);
export const front = byCost.filter((point) => point.isOnFront);
export const baselines = byCost.filter((point) => point.kind === "uniform" || point.kind === "published");

/** A number of a point as Python wrote it: recipes are put together from these. */
export const literal = (point, name) => literals[name][point.index];

/** What was made of a recipe after the search, the furthest last. */
export const improvedFrom = (point) => run.improved.filter((found) => found.id === point.id);

/** The baseline to compare a recipe with: the best that costs about the same, else the uniform one that is nearest. */
export function baselineFor(point) {
  if (point.id === run.best_id && run.baseline_id !== null) return byId.get(run.baseline_id);
  const others = baselines.filter((other) => other !== point);
  const distance = (other) => Math.abs(Math.log(other.cost / point.cost));
  const near = others.filter((other) => distance(other) < 0.05);
  if (near.length) return near.reduce((a, b) => (b.loss < a.loss ? b : a));
  const uniform = others.filter((other) => other.kind === "uniform");
  return uniform.length ? uniform.reduce((a, b) => (distance(b) < distance(a) ? b : a)) : null;
}
