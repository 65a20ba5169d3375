// What zoom and pan make of the spans of the chart's axes.
//
// `drawn` is what the chart shows: its frame in pixels, the spans of x and y, and the full spans that show everything.

const NEAREST = 0.05;
const FURTHEST = 20;

/** A span grown or shrunk around the place that is a `share` of the way along it. */
function grown([from, to], share, factor) {
  const size = (to - from) / Math.min(FURTHEST, Math.max(NEAREST, factor));
  const still = from + share * (to - from);
  return [still - share * size, still + (1 - share) * size];
}

const sizeOf = ([from, to]) => to - from;

/** The spans after zooming at a place; null where everything is shown again. */
export function zoomed({ frame, x, y, full }, factor, atX, atY) {
  const next = {
    x: grown(x.span, (atX - frame.left) / (frame.right - frame.left), factor),
    y: grown(y.span, (frame.bottom - atY) / (frame.bottom - frame.top), factor),
  };
  const isFar = sizeOf(next.x) > 1.05 * sizeOf(full.x) && sizeOf(next.y) > 1.05 * sizeOf(full.y);
  return isFar ? null : next;
}

/** The spans after moving by some pixels. */
export function panned({ frame, x, y }, dx, dy) {
  const right = (-dx / (frame.right - frame.left)) * sizeOf(x.span);
  const up = (dy / (frame.bottom - frame.top)) * sizeOf(y.span);
  return { x: x.span.map((end) => end + right), y: y.span.map((end) => end + up) };
}

/** The spans of a box between two corners. */
export function boxed({ frame, x, y }, from, to) {
  const across = (pixel) => x.span[0] + ((pixel - frame.left) / (frame.right - frame.left)) * sizeOf(x.span);
  const up = (pixel) => y.span[0] + ((frame.bottom - pixel) / (frame.bottom - frame.top)) * sizeOf(y.span);
  return {
    x: [Math.min(from.x, to.x), Math.max(from.x, to.x)].map(across),
    y: [Math.max(from.y, to.y), Math.min(from.y, to.y)].map(up),
  };
}
