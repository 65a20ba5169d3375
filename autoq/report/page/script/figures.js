// Figures of a recipe as text, by column.

import { points, run } from "./data.js";
import { MISSING, amountText, digitsText, fixed, klText, percentText } from "./numbers.js";

const metricText = (value) => (run.metric.is_percentage ? percentText(value) : digitsText(value));

const FORMATS = {
  cost: (value) => amountText(value, run.cost.unit),
  bops: (value) => amountText(value, "BOPs"),
  group_bops: (value) => amountText(value, "BOPs"),
  weight_bytes: (value) => amountText(value, "B"),
  activation_bytes: (value) => amountText(value, "B"),
  latency_ns: (value) => amountText(value, "ns"),
  agreement_percent: percentText,
  sqnr_db: (value) => (Number.isFinite(value) ? `${fixed(value, 1)} dB` : "∞"),
  metric: metricText,
};

/** A figure as text: losses in two digits, costs in three, percentages with one decimal. */
export const figureText = (key, value) =>
  value === null || value === undefined ? MISSING : (FORMATS[key] ?? klText)(value);

/** The figures that the run knows, in the order of the page's tables. */
export const FIGURES = [
  { key: "bops", title: "BOPs" },
  ...(points.some((point) => point.group_bops > 0) ? [{ key: "group_bops", title: "of these, for groups" }] : []),
  ...run.costs.filter(({ key }) => key !== "bops").map(({ key, heading }) => ({ key, title: heading })),
  { key: "kl_nats", title: "KL (nats)" },
  ...(run.loss.is_kl ? [] : [{ key: "loss", title: run.loss.title }]),
  ...(run.is_held_out ? [{ key: "calibration_kl_nats", title: "KL, calibration images" }] : []),
  ...(run.has_labels ? [{ key: "labelled_kl_nats", title: "KL, labelled images" }] : []),
  ...(run.has_agreement ? [{ key: "agreement_percent", title: "Agreement" }] : []),
  { key: "sqnr_db", title: "SQNR" },
  ...(run.has_labels ? [{ key: "metric", title: run.metric.heading }] : []),
];

/** The loss of a point with name and unit. */
export const lossText = (point) => [run.loss.title, klText(point.loss), run.loss.unit].filter(Boolean).join(" ");
