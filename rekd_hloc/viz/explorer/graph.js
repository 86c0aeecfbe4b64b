// All pairs at once: a matrix of inliers, and the photos on a ring with a line for each pair.

const grid = { cell: 0, margin: 0 };
let graphHover = null;

function drawMatrix() {
  const canvas = find("matrix");
  const count = images.length;
  const room = Math.min(canvas.parentElement.clientWidth, 620);
  const names = namesMargin(canvas.getContext("2d"));
  const isNamed = (room - names) / count >= 11;
  grid.margin = isNamed ? names : 26;
  grid.cell = Math.min((room - grid.margin) / count, 34);
  const side = grid.margin + grid.cell * count;
  const context = fit(canvas, side, side);
  const most = Math.log(Math.max(...pairs.map((pair) => pair.inliers), 2) + 1);
  context.fillStyle = color("plate");
  context.fillRect(grid.margin, grid.margin, side - grid.margin, side - grid.margin);
  const inset = grid.cell > 5 ? 0.5 : 0;
  for (const { a, b, inliers } of pairs) {
    if (!inliers) continue;
    context.fillStyle = rgb(ramp(Math.log(inliers + 1) / most));
    for (const [row, column] of [[a, b], [b, a]]) {
      context.fillRect(grid.margin + column * grid.cell + inset, grid.margin + row * grid.cell + inset, Math.max(grid.cell - 2 * inset, 0.75), Math.max(grid.cell - 2 * inset, 0.75));
    }
  }
  drawTicks(context, count, isNamed);
  if (selected.pair) outlineCell(context, ...selected.pair);
}

// Pixels that the names of the photos take beside the matrix.
function namesMargin(context) {
  context.font = "12px system-ui, sans-serif";
  return Math.ceil(Math.max(14, ...images.map((image) => context.measureText(brief(image, 17)).width))) + 10;
}

function drawTicks(context, count, isNamed) {
  context.fillStyle = color("soft");
  context.font = `${isNamed ? Math.min(grid.cell, 12) : 11}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const every = isNamed ? 1 : Math.ceil(count / 10 / 5) * 5;
  for (let k = 0; k < count; k += every) {
    const place = grid.margin + (k + 0.5) * grid.cell;
    const text = isNamed ? brief(images[k], 17) : k + 1;
    context.textAlign = "right";
    context.fillText(text, grid.margin - 5, place);
    context.save();
    context.translate(place, grid.margin - 5);
    if (isNamed) context.rotate(-Math.PI / 2);
    context.textAlign = isNamed ? "left" : "center";
    context.fillText(text, 0, isNamed ? 0 : -6);
    context.restore();
  }
}

function outlineCell(context, a, b) {
  const size = Math.max(grid.cell, 6);
  for (const [name, width] of [["card", 5], ["pick", 2]]) {
    context.strokeStyle = color(name);
    context.lineWidth = width;
    for (const [row, column] of [[a, b], [b, a]]) {
      context.strokeRect(grid.margin + column * grid.cell - (size - grid.cell) / 2, grid.margin + row * grid.cell - (size - grid.cell) / 2, size, size);
    }
  }
}

function cellAt([x, y]) {
  const [column, row] = [x, y].map((value) => Math.floor((value - grid.margin) / grid.cell));
  const isInside = [row, column].every((k) => k >= 0 && k < images.length);
  return isInside && row !== column ? [row, column] : null;
}

function tellCell(event) {
  const cell = cellAt(placeOf(event));
  event.target.style.cursor = cell ? "pointer" : "default";
  const pair = cell && findPair(...cell);
  find("pairs-told").textContent = !cell
    ? ""
    : `${images[cell[0]].name} and ${images[cell[1]].name}: ` + (pair ? `${whole(pair.inliers)} inliers of ${whole(pair.matches)} matches` : "no matches");
}

// Places on the ring, the first photo on top, clockwise.
const ring = { radius: 0, centre: 0, places: [] };

function drawGraph() {
  const canvas = find("graph");
  const side = Math.min(canvas.parentElement.clientWidth, 620);
  const context = fit(canvas, side, side);
  ring.centre = side / 2;
  ring.radius = side / 2 - (side > 480 ? 74 : 46);
  ring.places = images.map((_, k) => {
    const angle = (k / images.length) * TURN - Math.PI / 2;
    return [ring.centre + ring.radius * Math.cos(angle), ring.centre + ring.radius * Math.sin(angle), angle];
  });
  const least = leastInliers();
  const focus = graphHover ?? selected.image;
  const most = Math.log(Math.max(...pairs.map((pair) => pair.inliers), 2) + 1);
  for (const pair of [...pairs].reverse()) {
    if (pair.inliers < least) continue;
    const isFocus = focus !== null && (pair.a === focus || pair.b === focus);
    const share = Math.log(pair.inliers + 1) / most;
    context.strokeStyle = isFocus ? color("pick") : color("mark");
    context.globalAlpha = isFocus ? 0.95 : (focus === null ? 1 : 0.35) * (0.06 + 0.5 * share ** 3);
    context.lineWidth = 0.5 + 2.5 * share ** 2;
    const [from, to] = [ring.places[pair.a], ring.places[pair.b]];
    context.beginPath();
    context.moveTo(from[0], from[1]);
    const bend = 0.35; // towards the middle
    context.quadraticCurveTo(ring.centre + bend * ((from[0] + to[0]) / 2 - ring.centre), ring.centre + bend * ((from[1] + to[1]) / 2 - ring.centre), to[0], to[1]);
    context.stroke();
  }
  context.globalAlpha = 1;
  drawNodes(context, focus, least);
}

function drawNodes(context, focus, least) {
  const near = new Set(focus === null ? [] : images[focus].neighbours.filter((k) => findPair(focus, k).inliers >= least));
  const named = chooseNamed(focus, near);
  ring.places.forEach(([x, y, angle], k) => {
    context.fillStyle = k === focus ? color("pick") : images[k].registered ? color("mark") : color("outlier");
    context.beginPath();
    context.arc(x, y, k === focus ? 5 : Math.max(2, Math.min(4, 200 / images.length)), 0, TURN);
    context.fill();
    if (!named.has(k)) return;
    const isLeft = Math.cos(angle) < -1e-9;
    context.save();
    context.translate(x, y);
    context.rotate(isLeft ? angle + Math.PI : angle);
    context.textAlign = isLeft ? "right" : "left";
    context.textBaseline = "middle";
    context.font = `${k === focus ? "bold " : ""}11px system-ui, sans-serif`;
    context.fillStyle = k === focus ? color("ink") : color("soft");
    context.fillText(brief(images[k], ring.centre > 240 ? 11 : 6), isLeft ? -7 : 7, 0);
    context.restore();
  });
  if (focus === null) return;
  context.textAlign = "center";
  context.fillStyle = color("ink");
  context.fillText(shorten(images[focus].name, 34), ring.centre, ring.centre - 8);
  context.fillStyle = color("soft");
  context.fillText(`${near.size} neighbours`, ring.centre, ring.centre + 10);
}

// The photos whose names have room beside one another: the chosen one and its neighbours, or all.
function chooseNamed(focus, near) {
  const every = Math.ceil((images.length * 13) / (TURN * ring.radius));
  const named = new Set();
  const wanted = focus === null ? images.keys() : [focus, ...images[focus].neighbours.filter((k) => near.has(k))];
  for (const k of wanted) {
    const hasRoom = Array.from({ length: 2 * every - 1 }, (_, step) => k + step + 1 - every).every((other) => !named.has((other + images.length) % images.length));
    if (hasRoom) named.add(k);
  }
  return named;
}

// The slider goes over the pairs by their inliers, so that each step takes as many lines away.
function leastInliers() {
  const verified = pairs.filter((pair) => pair.inliers > 0);
  if (!verified.length) return 1;
  const share = Number(find("least").value) / 100;
  const place = Math.round(share * (verified.length - 1));
  const least = Math.max(verified[place].inliers, 1);
  const count = verified.filter((pair) => pair.inliers >= least).length;
  find("least-told").textContent = `${least} inliers or more: ${whole(count)} of ${whole(verified.length)} verified pairs`;
  return least;
}

function nodeAt([x, y]) {
  let best = null;
  let nearest = 16;
  ring.places.forEach(([px, py], k) => {
    const away = Math.hypot(px - x, py - y);
    if (away < nearest) [best, nearest] = [k, away];
  });
  return best;
}

function hoverGraph(event) {
  const node = event.type === "pointerleave" ? null : nodeAt(placeOf(event));
  event.target.style.cursor = node === null ? "default" : "pointer";
  if (node === graphHover) return;
  graphHover = node;
  drawGraph();
}
