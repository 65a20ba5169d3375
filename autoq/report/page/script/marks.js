// The marks of the chart, and labels that find a free place.

import { haloText } from "./canvas.js";

const STAR = "M0-12L3.5-4.9L11.4-3.7L5.7 1.9L7.1 9.7L0 6L-7.1 9.7L-5.7 1.9L-11.4-3.7L-3.5-4.9Z";
export const SHAPES = {
  front: "M-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0-11 0",
  uniform: "M0-7L7 0L0 7L-7 0Z",
  published: "M-2.5-7H2.5V-2.5H7V2.5H2.5V7H-2.5V2.5H-7V-2.5H-2.5Z",
  trial: "M-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0",
  best: STAR,
  finished: "M-5.5-5.5H5.5V5.5H-5.5Z",
  reconstructed: "M-5.5-5.5H5.5V5.5H-5.5Z",
  below: "M-6-5L6-5L0 6Z",
};
export const COLORS = {
  front: "front",
  uniform: "uniform",
  published: "published",
  trial: "faint",
  best: "best",
  finished: "paper",
  reconstructed: "done",
};
const EDGES = { best: "ink", finished: "done" };
const paths = Object.fromEntries(Object.entries(SHAPES).map(([name, path]) => [name, new Path2D(path)]));

/** Draw one mark; one that lies below the axis points down. */
export function drawMark(context, kind, x, y, isBelow, theme) {
  context.save();
  context.translate(x, y);
  context.fillStyle = theme[COLORS[kind]];
  context.strokeStyle = theme[EDGES[kind] ?? "paper"];
  context.lineWidth = 1.3;
  context.fill(paths[isBelow ? "below" : kind]);
  context.stroke(paths[isBelow ? "below" : kind]);
  context.restore();
}

/** Draw many small marks at once. */
export function drawDots(context, places, theme) {
  context.fillStyle = theme.faint;
  context.globalAlpha = places.length > 2000 ? 0.35 : 0.55;
  context.beginPath();
  for (const { x, y } of places) {
    context.moveTo(x + 2.5, y);
    context.arc(x, y, 2.5, 0, 2 * Math.PI);
  }
  context.fill();
  context.globalAlpha = 1;
}

/** A ring around a mark: solid for what is chosen, dashed for what is pinned. */
export function drawRing(context, x, y, radius, color, isDashed) {
  context.strokeStyle = color;
  context.lineWidth = 2.2;
  context.setLineDash(isDashed ? [4, 3] : []);
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.stroke();
  context.setLineDash([]);
}

/** An arrow along an axis of the chart, from the recipe as searched to what was made of it. */
export function drawArrow(context, x, from, to, theme) {
  const sign = Math.sign(to - from);
  if (Math.abs(to - from) < 18) return;
  const [start, end] = [from + sign * 7, to - sign * 8];
  context.strokeStyle = theme.done;
  context.lineWidth = 1.7;
  context.beginPath();
  context.moveTo(x, start);
  context.lineTo(x, end);
  context.moveTo(x - 4, end - sign * 5);
  context.lineTo(x, end);
  context.lineTo(x + 4, end - sign * 5);
  context.stroke();
}

/** Places labels one after another where they cover neither marks nor each other; one without a place is left out. */
export class Labels {
  constructor(context, frame) {
    this.context = context;
    this.frame = frame;
    this.taken = [];
  }

  /** Keep a place clear. */
  take(x, y, radius = 7) {
    this.taken.push([x - radius, y - radius, x + radius, y + radius]);
  }

  write(text, x, y, color, theme) {
    const width = this.context.measureText(text).width;
    for (const [dx, dy] of [
      [10, -8],
      [10, 15],
      [-10 - width, -8],
      [-10 - width, 15],
      [10, 4],
      [-width / 2, -12],
      [-width / 2, 21],
      [-10 - width, 4],
    ]) {
      const box = [x + dx, y + dy - 10, x + dx + width, y + dy + 3];
      const isInside =
        box[0] >= this.frame.left &&
        box[2] <= this.frame.right &&
        box[1] >= this.frame.top &&
        box[3] <= this.frame.bottom;
      if (!isInside || this.taken.some((other) => overlaps(box, other))) continue;
      this.context.textAlign = "left";
      haloText(this.context, text, x + dx, y + dy, color, theme);
      this.taken.push(box);
      return;
    }
  }
}

const overlaps = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
