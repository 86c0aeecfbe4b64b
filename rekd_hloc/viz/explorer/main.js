// Puts the parts of the page together.

const COLUMNS = [
  ["no.", (image) => image.number + 1, whole],
  ["photo", (image) => image.name],
  ["keypoints", (image) => image.keypoints, whole],
  ["matches", (image) => sumOfPairs(image, "matches"), whole],
  ["inliers", (image) => sumOfPairs(image, "inliers"), whole],
  ["observations", (image) => image.observations, whole],
  ["error, px", (image) => image.error, (value) => fixed(value, 3)],
  ["rotation, °", (image) => image.roll, (value) => fixed(value, 1)],
  ["rotation error, °", (image) => image.rotationError, (value) => fixed(value, 3)],
  ["centre error, %", (image) => image.centreError, (value) => fixed(value, 3)],
];

const sums = images.map(() => ({ matches: 0, inliers: 0 }));
for (const pair of pairs) {
  for (const number of [pair.a, pair.b]) {
    sums[number].matches += pair.matches;
    sums[number].inliers += pair.inliers;
  }
}
const sumOfPairs = (image, kind) => sums[image.number][kind];

function makeTable() {
  const columns = COLUMNS.filter(([, read]) => images.some((image) => read(image) !== undefined && read(image) !== null));
  const body = make("tbody");
  const kindOf = (column) => (column === 1 ? "text" : "number");
  const heads = columns.map(([title], column) => {
    const button = make("button", { onclick: () => sort(column) }, title);
    return make("th", { scope: "col", class: kindOf(column) }, button);
  });
  let [sorted, direction] = [0, 1];
  const rows = images.map((image) => {
    const link = make("button", { class: "link", onclick: () => select("image", image.number) }, image.name);
    const cells = columns.map(([, read, show], column) => make("td", { class: kindOf(column) }, show ? show(read(image)) : link));
    const row = make("tr", { class: image.registered ? null : "missing" }, ...cells);
    return { image, row };
  });
  function sort(column) {
    direction = column === sorted ? -direction : column > 1 ? -1 : 1;
    sorted = column;
    const read = columns[column][1];
    rows.sort((one, other) => {
      const [x, y] = [read(one.image), read(other.image)];
      const gone = [x, y].map((value) => value === undefined || value === null);
      if (gone[0] || gone[1]) return gone[0] - gone[1]; // what is unknown comes last
      return (x < y ? -1 : x > y ? 1 : 0) * direction || one.image.number - other.image.number;
    });
    heads.forEach((head, k) => head.setAttribute("aria-sort", k !== column ? "none" : direction > 0 ? "ascending" : "descending"));
    body.append(...rows.map(({ row }) => row));
  }
  direction = -1;
  sort(0);
  on("image", (number) => rows.forEach(({ image, row }) => row.classList.toggle("chosen", image.number === number)));
  find("table").append(make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body));
}

function setUpView() {
  const view = new View3d(find("view"));
  const zoom = steer(view);
  find("zoom-in").onclick = () => zoom(0.8);
  find("zoom-out").onclick = () => zoom(1.25);
  find("reset").onclick = () => view.reset();
  find("shading").onchange = (event) => view.shade(event.target.value);
  find("show-cameras").onchange = (event) => {
    view.showsCameras = event.target.checked;
    view.redraw();
  };
  find("point-size").oninput = (event) => {
    view.pointSize = 2 ** (Number(event.target.value) / 20);
    view.redraw();
  };
  find("focus").onclick = () => {
    const image = selected.image === null ? null : images[selected.image];
    if (!image?.registered) return;
    const ahead = image.axes.slice(6);
    view.yaw = Math.atan2(-ahead[1], -ahead[0]);
    view.pitch = Math.asin(Math.max(-1, Math.min(1, -ahead[2])));
    view.distance = 1;
    view.target = along(image.centre, [0.7, ahead]);
    view.redraw();
  };
  const count = points.count < points.total ? `${whole(points.count)} of ${whole(points.total)}` : whole(points.total);
  find("view-told").textContent = `${count} points. Drag to orbit, shift-drag or two fingers to move; click, then scroll, to zoom. Click a camera or a point.`;
  document.documentElement.dataset.view = view.gl ? "webgl" : "plain";
}

function setUpPhotos() {
  on("image", () => {
    describeSelectedPhoto();
    drawSelectedPhoto();
  });
  on("point", () => {
    drawSelectedPhoto();
    showPoint();
  });
  find("photo").addEventListener("click", pickKeypoint);
  find("photo-kind").onchange = drawSelectedPhoto;
  const step = (by) => () => select("image", (selected.image + by + images.length) % images.length);
  find("before").onclick = step(-1);
  find("after").onclick = step(1);
}

function setUpPairs() {
  for (const id of ["pair-a", "pair-b"]) {
    find(id).append(...images.map((image, k) => make("option", { value: k }, image.name)));
    find(id).onchange = () => {
      const chosen = ["pair-a", "pair-b"].map((name) => Number(find(name).value));
      if (chosen[0] !== chosen[1]) select("pair", chosen);
    };
  }
  on("pair", () => {
    describePair();
    drawPair();
    drawHistogram();
    drawMatrix();
  });
  on("image", drawGraph);
  for (const id of ["show-inliers", "show-outliers"]) find(id).onchange = drawPair;
  find("least").oninput = drawGraph;
  const steps = (by) => () => {
    const place = pairs.indexOf(findPair(...selected.pair));
    const next = pairs[(place + by + pairs.length) % pairs.length];
    select("pair", [next.a, next.b]);
  };
  find("stronger").onclick = steps(-1);
  find("weaker").onclick = steps(1);
  find("matrix").addEventListener("pointermove", tellCell);
  find("matrix").addEventListener("click", (event) => {
    const cell = cellAt(placeOf(event));
    if (!cell) return;
    select("pair", cell);
    tellCell(event);
  });
  for (const kind of ["pointermove", "pointerleave"]) find("graph").addEventListener(kind, hoverGraph);
  find("graph").addEventListener("click", (event) => {
    const node = nodeAt(placeOf(event));
    if (node !== null) select("image", node);
  });
}

function redrawAll() {
  drawSelectedPhoto();
  if (pairs.length) for (const draw of [drawPair, drawHistogram, drawMatrix, drawGraph]) draw();
  if (points) drawTracks();
  if (points) showPoint();
}

makeTable();
if (points) setUpView();
setUpPhotos();
if (pairs.length) setUpPairs();
Promise.all(images.filter((image) => image.picture).map((image) => image.picture.decode().catch(() => null))).then(() => {
  const first = images.find((image) => image.registered) ?? images[0];
  const most = images.reduce((best, image) => ((image.observations ?? 0) > (best.observations ?? 0) ? image : best), first);
  select("image", most.number);
  if (pairs.length) select("pair", [pairs[0].a, pairs[0].b]);
  if (points) {
    const lengths = [8, 7, 6, 5, 4, 3, 2].map((length) => points.length.subarray(0, points.tracked).indexOf(length));
    const row = lengths.find((found) => found >= 0) ?? -1;
    if (row >= 0) select("point", row);
    drawTracks();
  }
  document.documentElement.dataset.ready = "yes"; // for tests
});
let asked = 0;
window.addEventListener("resize", () => {
  cancelAnimationFrame(asked);
  asked = requestAnimationFrame(redrawAll);
});
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  select("theme", null);
  redrawAll();
});
