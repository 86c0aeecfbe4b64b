// The record of the page as arrays, what is selected, and small helpers for all other scripts.

const scene = JSON.parse(document.getElementById("scene").textContent);
const NO_POINT = 0xffffffff;
const NOT_COUNTED = 0xffffffff;
const TURN = 2 * Math.PI;

function unpack({ kind, data }) {
  const text = atob(data);
  const bytes = new Uint8Array(text.length);
  for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
  if (kind === "u1") return bytes;
  return kind === "u2" ? new Uint16Array(bytes.buffer) : new Uint32Array(bytes.buffer);
}

// The inverse of `contract` in packing.py, from 16 bits to a coordinate of the 3-D view.
function expand(step) {
  const share = 2 * (step / 65535) - 1;
  const size = Math.abs(share);
  const value = size <= 0.5 ? 2 * size : 0.5 / Math.max(1 - size, 1e-4);
  return share < 0 ? -value : value;
}

function readPoints(packed) {
  if (!packed) return null;
  const steps = unpack(packed.xyz);
  const xyz = new Float32Array(steps.length);
  for (let k = 0; k < steps.length; k++) xyz[k] = expand(steps[k]);
  const [rgb, error, length] = [packed.rgb, packed.error, packed.length].map(unpack);
  return { count: xyz.length / 3, total: packed.total, tracked: packed.tracked, xyz, rgb, error, length };
}

function readKeypoints(packed) {
  const arrays = {};
  for (const name of ["xy", "angle", "scale", "error", "row"]) arrays[name] = unpack(packed[name]);
  return { ...packed, ...arrays };
}

// Pairs as objects; those below `numDrawn` have matches.
function readPairs(packed) {
  const [a, b, matches, inliers, drawn, dropped, mode, highest, histogram] =
    ["a", "b", "matches", "inliers", "drawn", "dropped", "mode", "highest", "histogram"].map((name) => unpack(packed[name]));
  const length = packed.kinds * packed.bins;
  const pairs = [];
  let start = 0;
  for (let k = 0; k < a.length; k++) {
    const pair = { a: a[k], b: b[k], matches: matches[k], inliers: inliers[k], count: 0 };
    if (k < packed.numDrawn) {
      Object.assign(pair, { start, count: drawn[k], mode: mode[k] === 65535 ? null : (mode[k] / 65534) * 360 });
      pair.dropped = dropped[k] === NOT_COUNTED ? null : dropped[k];
      const bins = histogram.subarray(k * length, (k + 1) * length);
      pair.histogram = Array.from(bins, (share) => Math.round((share / 255) * highest[k]));
      start += drawn[k];
    }
    pairs.push(pair);
  }
  return pairs;
}

const images = scene.images;
const points = readPoints(scene.points);
const keypoints = readKeypoints(scene.keypoints);
const pairs = readPairs(scene.pairs);
const ends = unpack(scene.pairs.ends);
const inlierFlags = unpack(scene.pairs.inlier);
const pairOf = new Map();
for (const pair of pairs) {
  pairOf.set(pair.a * images.length + pair.b, pair);
  pairOf.set(pair.b * images.length + pair.a, pair);
}
const findPair = (a, b) => pairOf.get(a * images.length + b);

let nextKeypoint = 0;
images.forEach((image, number) => {
  image.start = nextKeypoint;
  nextKeypoint += image.shown;
  image.neighbours = [];
  image.number = number;
  if (image.photo) {
    image.picture = new Image();
    image.picture.src = image.photo;
  }
});
for (const pair of pairs) {
  if (!pair.inliers) continue; // pairs are sorted, so neighbours are as well
  images[pair.a].neighbours.push(pair.b);
  images[pair.b].neighbours.push(pair.a);
}

// What is selected; `select` tells every part of the page that asked for it.
const selected = { image: null, point: null, pair: null };
const listeners = { image: [], point: [], pair: [], theme: [] };
const on = (kind, act) => listeners[kind].push(act);
function select(kind, value) {
  selected[kind] = value;
  for (const act of listeners[kind]) act(value);
}

// Text goes into the page as text nodes only, so a name is never taken for markup.
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return node;
}

const find = (id) => document.getElementById(id);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const whole = (value) => (value === undefined || value === null ? "–" : value.toLocaleString("en"));
const fixed = (value, digits) => (value === undefined || value === null ? "–" : value.toFixed(digits));
const stem = (image) => image.name.replace(/\.\w+$/, "");
const brief = (image, length) => (stem(image).length <= length ? stem(image) : `${image.number + 1}`);
const shorten = (name, length = 22) => (name.length <= length ? name : `${name.slice(0, length / 2 - 1)}…${name.slice(1 - length / 2)}`);

// Violet, blue, green, yellow for shares from 0 to 1.
const RAMP = [[72, 40, 120], [56, 108, 176], [40, 160, 130], [150, 205, 70], [250, 226, 50]];
function ramp(share) {
  const place = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[low].map((value, k) => Math.round(value + (place - low) * (RAMP[low + 1][k] - value)));
}
const rgb = (triple, alpha = 1) => `rgba(${triple.join(",")},${alpha})`;

// Fit a canvas to a width and height of the page, sharp on every screen; returns its context.
function fit(canvas, width, height) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.max(Math.round(width * ratio), 1);
  canvas.height = Math.max(Math.round(height * ratio), 1);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "12px system-ui, sans-serif";
  return context;
}

// Draw a photo, or a plate where there is none.
function drawPhoto(context, image, x, y, width, height, paleness = 0.25) {
  context.fillStyle = color("plate");
  context.fillRect(x, y, width, height);
  if (image.picture?.complete && image.picture.naturalWidth) context.drawImage(image.picture, x, y, width, height);
  context.fillStyle = `rgba(0,0,0,${paleness})`;
  if (image.picture) context.fillRect(x, y, width, height);
}

const aspect = (image) => (image.size ? image.size[1] / image.size[0] : 0.75);

// Where the pointer is on a canvas, in its pixels of the page.
function placeOf(event) {
  const box = event.target.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}
