// The selected photo with its keypoints, its figures and its neighbours; and the views of a point.

// Keypoints of the page that show a 3-D point, by the point's row.
const viewsByPoint = new Map();
for (const image of images) {
  for (let k = image.start; k < image.start + image.shown; k++) {
    const row = keypoints.row[k];
    if (row === NO_POINT) continue;
    if (!viewsByPoint.has(row)) viewsByPoint.set(row, []);
    viewsByPoint.get(row).push({ image, keypoint: k });
  }
}
const viewsOf = (row) => viewsByPoint.get(row) ?? [];
const errorOf = (k) => (keypoints.error[k] / 255) * keypoints.maxError;
const scaleOf = (k) => 2 ** ((2 * (keypoints.scale[k] / 255) - 1) * keypoints.maxLog2Scale);
const xyOf = (k) => [keypoints.xy[2 * k] / 65535, keypoints.xy[2 * k + 1] / 65535];

function drawSelectedPhoto() {
  const canvas = find("photo");
  if (selected.image === null) return;
  const image = images[selected.image];
  const limit = Math.min(window.innerHeight * 0.62, 520);
  const width = Math.max(Math.min(canvas.parentElement.clientWidth, limit / aspect(image)), 60);
  const height = width * aspect(image);
  const context = fit(canvas, width, height);
  drawPhoto(context, image, 0, 0, width, height);
  const kind = find("photo-kind").value;
  const size = width / (image.size ? image.size[0] : width);
  for (let k = image.start + image.shown - 1; k >= image.start; k--) {
    const isObserved = keypoints.row[k] !== NO_POINT;
    if (kind === "none" || (kind === "observed" && !isObserved)) continue;
    drawKeypoint(context, k, xyOf(k), width, height, size, isObserved);
  }
}

// A circle of 6 px times the scale, with a tick along the angle; colour is the reprojection error.
function drawKeypoint(context, k, [x, y], width, height, size, isObserved) {
  const radius = Math.min(Math.max(6 * scaleOf(k) * size, 2.2), 40);
  const angle = (keypoints.angle[k] / 255) * TURN;
  const isPicked = isObserved && keypoints.row[k] === selected.point;
  context.strokeStyle = isPicked ? color("pick") : isObserved ? rgb(ramp(errorOf(k) / 2)) : "rgba(235,235,235,0.55)";
  context.lineWidth = isPicked ? 3 : 1;
  context.beginPath();
  context.arc(x * width, y * height, isPicked ? radius + 4 : radius, 0, TURN);
  context.moveTo(x * width, y * height);
  context.lineTo(x * width + radius * Math.cos(angle), y * height + radius * Math.sin(angle));
  context.stroke();
}

function pickKeypoint(event) {
  if (selected.image === null) return;
  const canvas = find("photo");
  const [px, py] = placeOf(event);
  const image = images[selected.image];
  let best = null;
  let nearest = 12;
  for (let k = image.start; k < image.start + image.shown; k++) {
    if (keypoints.row[k] === NO_POINT) continue;
    const [x, y] = xyOf(k);
    const away = Math.hypot(x * canvas.clientWidth - px, y * canvas.clientHeight - py);
    if (away < nearest) [best, nearest] = [keypoints.row[k], away];
  }
  if (best !== null) select("point", best);
}

function describeSelectedPhoto() {
  const image = images[selected.image];
  find("photo-name").textContent = image.name;
  const figures = [
    ["keypoints", whole(image.keypoints)],
    ["observations", whole(image.observations)],
    ["mean error", image.error === undefined || image.error === null ? "–" : `${fixed(image.error, 2)} px`],
    ["rotation", image.roll === undefined ? "–" : `${fixed(image.roll, 1)}°`],
  ];
  if (image.rotationError !== undefined) figures.push(["rotation error", `${fixed(image.rotationError, 3)}°`], ["centre error", `${fixed(image.centreError, 3)} %`]);
  find("photo-figures").replaceChildren(...figures.map(([name, value]) => make("div", {}, make("b", {}, value), name)));
  find("photo-note").textContent = noteOf(image);
  const chips = image.neighbours.slice(0, 8).map((number) => {
    const { inliers } = findPair(image.number, number);
    const show = () => select("pair", [image.number, number]);
    const title = `${inliers} inliers with ${images[number].name}; shows the pair`;
    return make("button", { class: "chip", title, onclick: show }, shorten(images[number].name, 18), make("b", {}, inliers));
  });
  find("photo-neighbours").replaceChildren(...(chips.length ? chips : ["none: no pair of this photo was verified"]));
}

function noteOf(image) {
  const parts = [];
  if (!image.registered) parts.push("Not registered: it has no pose in this model.");
  if (image.shown < image.keypoints) parts.push(`${whole(image.shown)} of ${whole(image.keypoints)} keypoints are on this page.`);
  if (!image.photo) parts.push("The photo was not found when the page was made.");
  return parts.join(" ");
}

// Cut-outs around a point in the photos that see it.
const CUT_PX = 96;
function showPoint() {
  const row = selected.point;
  if (row === null) return;
  const views = viewsOf(row);
  const error = (points.error[row] / 255) * keypoints.maxError;
  find("point-figures").textContent =
    `Point with ${points.length[row]} observations, mean reprojection error ${fixed(error, 2)} px. ` +
    (views.length ? "Rings mark it below, with the error in each photo." : "Its keypoints are not on this page, which holds those of an even sample of points.");
  find("point-views").replaceChildren(...views.map(({ image, keypoint }) => {
    const canvas = make("canvas");
    const context = fit(canvas, CUT_PX, CUT_PX);
    const width = Math.max(4 * CUT_PX, image.picture?.naturalWidth ?? 0);
    const [x, y] = xyOf(keypoint);
    const [left, top] = [CUT_PX / 2 - x * width, CUT_PX / 2 - y * width * aspect(image)];
    drawPhoto(context, image, left, top, width, width * aspect(image), 0);
    const tip = (keypoints.angle[keypoint] / 255) * TURN;
    context.strokeStyle = color("pick");
    context.lineWidth = 2;
    context.beginPath();
    context.arc(CUT_PX / 2, CUT_PX / 2, 12, 0, TURN);
    context.moveTo(CUT_PX / 2 + 12 * Math.cos(tip), CUT_PX / 2 + 12 * Math.sin(tip));
    context.lineTo(CUT_PX / 2 + 22 * Math.cos(tip), CUT_PX / 2 + 22 * Math.sin(tip));
    context.stroke();
    const show = () => select("image", image.number);
    return make("button", { class: "cut", onclick: show, title: image.name }, canvas, make("span", {}, shorten(image.name, 14)), `${fixed(errorOf(keypoint), 2)} px`);
  }));
}

// Bars of how many points have a track of each length.
function drawTracks() {
  const canvas = find("tracks");
  const width = Math.min(canvas.parentElement.clientWidth, 620);
  const height = 180;
  const context = fit(canvas, width, height);
  const counts = scene.tracks;
  const most = Math.max(...counts, 1);
  const step = (width - 10) / counts.length;
  context.textAlign = "center";
  counts.forEach((count, k) => {
    const tall = count ? Math.max((Math.log10(count + 1) / Math.log10(most + 1)) * (height - 52), 2) : 0;
    const left = 5 + k * step;
    context.fillStyle = color("mark");
    context.fillRect(left + 1, height - 22 - tall, Math.max(step - 3, 2), tall);
    context.fillStyle = color("soft");
    if (step > 20 || k % 3 === 0) context.fillText(k + 2 === 20 ? "20+" : k + 2, left + step / 2, height - 7);
    if (count && step > 30) context.fillText(count < 10000 ? count : `${Math.round(count / 1000)}k`, left + step / 2, height - 28 - tall);
  });
}
