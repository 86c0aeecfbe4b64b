// Cameras of the 3-D view: frusta, the selected one's neighbours, the picked point; and its controls.

const FRUSTUM = 0.13;

// Corners of a frustum in the frame: the centre, then the picture's four corners.
function frustum(image, size) {
  const [right, down, ahead] = [0, 3, 6].map((k) => image.axes.slice(k, k + 3));
  const depth = (FRUSTUM * size) / Math.max(1, Math.hypot(...image.spread));
  const corner = (x, y) => along(image.centre, [depth, ahead], [depth * x * image.spread[0], right], [depth * y * image.spread[1], down]);
  return [image.centre, corner(-1, -1), corner(1, -1), corner(1, 1), corner(-1, 1)];
}

function frustumSize(view) {
  const count = images.filter((image) => image.registered).length;
  return view.frustumSize * Math.max(0.35, Math.min(1.2, 6 / Math.sqrt(count + 1)));
}

function drawCameras(view, context) {
  const { clip, width, height } = view.last;
  const pixel = (place) => view.project(clip, ...place, width, height);
  const mark = color("mark");
  view.centres = [];
  if (view.showsCameras) {
    for (const truth of scene.truth) drawRing(context, pixel(truth), 6, color("warn"));
    drawLinks(view, context, pixel);
    for (const image of images) {
      if (!image.registered) continue;
      const isChosen = image.number === selected.image;
      const corners = frustum(image, frustumSize(view)).map(pixel);
      if (corners.some((corner) => corner[2] <= 0)) continue;
      view.centres.push([image.number, corners]);
      const isNeighbour = selected.image !== null && images[selected.image].neighbours.slice(0, 8).includes(image.number);
      context.lineWidth = isChosen || image.number === view.hovered ? 2.5 : 1;
      context.strokeStyle = isChosen ? color("pick") : isNeighbour ? color("good") : mark;
      context.globalAlpha = selected.image === null || isChosen || isNeighbour ? 0.95 : 0.5;
      drawFrustum(context, corners, isChosen);
    }
    context.globalAlpha = 1;
  }
  if (selected.point !== null) {
    const place = pixel(points.xyz.subarray(3 * selected.point, 3 * selected.point + 3));
    drawRing(context, place, 7, color("pick"));
  }
  for (const number of new Set([selected.image, view.hovered])) {
    const found = view.centres.find(([k]) => k === number);
    if (found) drawLabel(context, images[number].name, found[1][0], width);
  }
}

function drawFrustum(context, corners, isFilled) {
  context.beginPath();
  for (const [from, to] of [[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [2, 3], [3, 4], [4, 1]]) {
    context.moveTo(corners[from][0], corners[from][1]);
    context.lineTo(corners[to][0], corners[to][1]);
  }
  context.stroke();
  if (!isFilled) return;
  context.beginPath();
  for (const corner of corners.slice(1)) context.lineTo(corner[0], corner[1]);
  context.fillStyle = color("pick");
  context.globalAlpha = 0.25;
  context.fill();
}

// Lines from the selected camera to its neighbours, or from the picked point to all that see it.
function drawLinks(view, context, pixel) {
  const from = selected.image === null ? null : images[selected.image];
  context.lineWidth = 1.5;
  if (from?.registered) {
    context.strokeStyle = color("good");
    for (const number of from.neighbours.slice(0, 8)) drawLine(context, pixel(from.centre), images[number].registered && pixel(images[number].centre));
  }
  if (selected.point !== null) {
    context.strokeStyle = color("pick");
    const place = pixel(points.xyz.subarray(3 * selected.point, 3 * selected.point + 3));
    for (const { image } of viewsOf(selected.point)) drawLine(context, place, image.registered && pixel(image.centre));
  }
}

function drawLine(context, from, to) {
  if (!to || from[2] <= 0 || to[2] <= 0) return;
  context.globalAlpha = 0.6;
  context.beginPath();
  context.moveTo(from[0], from[1]);
  context.lineTo(to[0], to[1]);
  context.stroke();
}

function drawRing(context, [x, y, depth], radius, stroke) {
  if (depth <= 0) return;
  context.globalAlpha = 1;
  context.lineWidth = 2;
  context.strokeStyle = stroke;
  context.beginPath();
  context.arc(x, y, radius, 0, TURN);
  context.stroke();
}

function drawLabel(context, name, [x, y], width) {
  const text = shorten(name, 30);
  const length = context.measureText(text).width + 10;
  const left = Math.min(Math.max(x - length / 2, 2), width - length - 2);
  context.globalAlpha = 1;
  context.fillStyle = color("card");
  context.fillRect(left, y - 30, length, 19);
  context.fillStyle = color("ink");
  context.fillText(text, left + 5, y - 16);
}

// The camera at a place of the view: its centre is near, or its picture's frame holds the place.
function pickCamera(view, px, py, reach) {
  let best = null;
  let nearest = Infinity;
  for (const [number, corners] of view.showsCameras ? view.centres : []) {
    const away = Math.min(...corners.map(([x, y]) => Math.hypot(x - px, y - py)));
    const cost = isInside(corners.slice(1), px, py) ? Math.min(away, reach - 1) : away;
    if (cost < reach && cost < nearest) [best, nearest] = [number, cost];
  }
  return best;
}

function isInside(corners, px, py) {
  const sides = corners.map(([x, y], k) => {
    const [nx, ny] = corners[(k + 1) % corners.length];
    return (nx - x) * (py - y) - (ny - y) * (px - x) > 0;
  });
  return sides.every((side) => side === sides[0]);
}

// Mouse and touch: one finger orbits, two zoom and move, a tap picks; keys do the same.
function steer(view) {
  const holder = view.holder;
  const fingers = new Map();
  let moved = 0;
  const zoom = (factor) => {
    view.distance = Math.min(Math.max(view.distance * factor, 0.03), 60);
    view.redraw();
  };
  const pan = (dx, dy) => {
    const { right, up } = view.eye();
    const step = (view.distance * Math.tan(VIEW_ANGLE / 2) * 2) / holder.clientHeight;
    view.target = along(view.target, [-dx * step, right], [dy * step, up]);
  };
  const turn = (dx, dy) => {
    view.yaw -= dx * 0.008;
    view.pitch = Math.min(Math.max(view.pitch + dy * 0.008, -1.55), 1.55);
  };
  const span = () => {
    const [a, b] = [...fingers.values()];
    return [Math.hypot(a[0] - b[0], a[1] - b[1]), (a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  };
  view.overlay.addEventListener("pointerdown", (event) => {
    holder.focus({ preventScroll: true });
    view.overlay.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, placeOf(event));
    if (fingers.size === 1) moved = 0;
  });
  view.overlay.addEventListener("pointermove", (event) => {
    const place = placeOf(event);
    const before = fingers.get(event.pointerId);
    if (!before) return hover(view, place);
    const old = fingers.size === 2 ? span() : null;
    fingers.set(event.pointerId, place);
    const [dx, dy] = [place[0] - before[0], place[1] - before[1]];
    moved += Math.hypot(dx, dy);
    if (moved < 4) return;
    view.isMoving = true;
    if (old) {
      const now = span();
      pan(now[1] - old[1], now[2] - old[2]);
      zoom(old[0] / Math.max(now[0], 1));
    } else if (event.shiftKey || event.buttons === 2) pan(dx, dy);
    else turn(dx, dy);
    view.redraw();
  });
  const release = (event) => {
    if (!fingers.delete(event.pointerId)) return;
    if (!fingers.size && moved < 4 && event.type === "pointerup") pick(view, placeOf(event), event.pointerType === "touch" ? 16 : 9);
    view.isMoving = fingers.size > 0;
    view.redraw();
  };
  view.overlay.addEventListener("pointerup", release);
  view.overlay.addEventListener("pointercancel", release);
  view.overlay.addEventListener("contextmenu", (event) => event.preventDefault());
  holder.addEventListener("wheel", (event) => {
    if (document.activeElement !== holder) return; // until it is clicked, the wheel scrolls the page
    event.preventDefault();
    zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.003));
  }, { passive: false });
  holder.addEventListener("keydown", (event) => {
    const turns = { ArrowLeft: [-12, 0], ArrowRight: [12, 0], ArrowUp: [0, -12], ArrowDown: [0, 12] };
    if (turns[event.key]) turn(...turns[event.key]);
    else if (event.key === "+") zoom(0.85);
    else if (event.key === "-") zoom(1.18);
    else return;
    event.preventDefault();
    view.redraw();
  });
  return zoom;
}

function hover(view, [x, y]) {
  const found = pickCamera(view, x, y, 9);
  view.overlay.style.cursor = found === null ? "grab" : "pointer";
  if (found === view.hovered) return;
  view.hovered = found;
  view.redraw();
}

function pick(view, [x, y], reach) {
  const camera = pickCamera(view, x, y, reach);
  if (camera !== null) return select("image", camera);
  const point = view.pickPoint(x, y, reach * 0.7);
  if (point !== null) select("point", point);
}
