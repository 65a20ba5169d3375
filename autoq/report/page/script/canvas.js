// A canvas that is as sharp as the screen, with the page's colours.

import { digitsText } from "./numbers.js";

const FONT = '12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';

/** The colours of the page's theme by name, read anew for each drawing: light and dark differ. */
export function colors() {
  const style = getComputedStyle(document.documentElement);
  return new Proxy({}, { get: (_, name) => style.getPropertyValue(`--${name}`).trim() });
}

/** The drawing context of a canvas, cleared, in pixels of the page; and its size. */
export function openCanvas(canvas) {
  const ratio = globalThis.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = FONT;
  context.lineJoin = "round";
  return { context, width, height };
}

/** Grid, ticks and titles of two axes around `frame` (left, right, top, bottom in pixels). */
export function drawAxes(context, frame, x, y, theme) {
  context.lineWidth = 1;
  context.strokeStyle = theme.line;
  context.fillStyle = theme.ink;
  context.textAlign = "center";
  for (const value of x.scale.ticks(Math.floor((frame.right - frame.left) / 64))) {
    const at = x.scale(value);
    stroke(context, at, frame.top, at, frame.bottom);
    context.fillText(x.text(value), at, frame.bottom + 16);
  }
  context.textAlign = "right";
  for (const value of y.scale.ticks(Math.floor((frame.bottom - frame.top) / 45))) {
    const at = y.scale(value);
    stroke(context, frame.left, at, frame.right, at);
    context.fillText(y.text(value), frame.left - 6, at + 4);
  }
  context.textAlign = "center";
  context.fillText(x.title, (frame.left + frame.right) / 2, frame.bottom + 34, frame.right - frame.left);
  context.textAlign = "left";
  context.fillText(y.title, 8, 14, frame.right - 8);
}

/** Pixels that the labels of an axis take on the left. */
export const labelWidth = (context, scale, text, height) =>
  Math.max(24, ...scale.ticks(Math.floor(height / 45)).map((value) => context.measureText(text(value)).width)) + 12;

/** A tick as short as can be. */
export const tickText = (value) => digitsText(value, 4);

export function stroke(context, fromX, fromY, toX, toY) {
  context.beginPath();
  context.moveTo(fromX, fromY);
  context.lineTo(toX, toY);
  context.stroke();
}

/** Text on a halo of the paper's colour, readable on top of lines. */
export function haloText(context, text, x, y, color, theme) {
  context.lineWidth = 3;
  context.strokeStyle = theme.paper;
  context.strokeText(text, x, y);
  context.fillStyle = color;
  context.fillText(text, x, y);
}
