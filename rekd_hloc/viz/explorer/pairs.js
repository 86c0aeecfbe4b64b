// Two photos with their matches, and the rotations that these vote for.

const LINES = 220; // drawn at most

function pairLayout(a, b, width) {
  const isWide = width >= 560;
  const gap = 8;
  if (isWide) {
    const each = (width - gap) / 2;
    const [ha, hb] = [each * aspect(a), each * aspect(b)];
    const factor = Math.min(1, 560 / Math.max(ha, hb));
    const size = each * factor;
    return { height: Math.max(ha, hb) * factor, width: 2 * size + gap, boxes: [[0, 0, size, ha * factor], [size + gap, 0, size, hb * factor]] };
  }
  const boxes = [a, b].map((image) => {
    const height = Math.min(width * aspect(image), 330);
    return [0, 0, height / aspect(image), height];
  });
  boxes[1][1] = boxes[0][3] + gap;
  return { height: boxes[1][1] + boxes[1][3], width, boxes };
}

function drawPair() {
  if (!selected.pair) return;
  const [first, second] = selected.pair;
  const pair = findPair(first, second);
  const [a, b] = [images[first], images[second]];
  const canvas = find("pair");
  const layout = pairLayout(a, b, canvas.parentElement.clientWidth);
  const context = fit(canvas, layout.width, layout.height);
  drawPhoto(context, a, ...layout.boxes[0], 0.35);
  drawPhoto(context, b, ...layout.boxes[1], 0.35);
  if (pair?.count) drawMatches(context, pair, pair.a === first ? [0, 1] : [1, 0], layout.boxes);
}

function drawMatches(context, pair, sides, boxes) {
  const shown = { 1: find("show-inliers").checked, 0: find("show-outliers").checked };
  const step = Math.max(pair.count / LINES, 1);
  for (const kind of [0, 1]) {
    if (!shown[kind]) continue;
    context.strokeStyle = context.fillStyle = color(kind ? "inlier" : "outlier");
    context.lineWidth = 1;
    for (let place = 0; place < pair.count; place += step) {
      const k = pair.start + Math.floor(place);
      if (inlierFlags[k] !== kind) continue;
      const tips = sides.map((side, which) => {
        const [x, y, width, height] = boxes[which];
        return [x + (ends[4 * k + 2 * side] / 65535) * width, y + (ends[4 * k + 2 * side + 1] / 65535) * height];
      });
      context.globalAlpha = 0.65;
      context.beginPath();
      context.moveTo(...tips[0]);
      context.lineTo(...tips[1]);
      context.stroke();
      context.globalAlpha = 1;
      for (const tip of tips) {
        context.beginPath();
        context.arc(...tip, 2.2, 0, TURN);
        context.fill();
      }
    }
  }
}

function describePair() {
  const [a, b] = selected.pair;
  const pair = findPair(a, b);
  find("pair-a").value = a;
  find("pair-b").value = b;
  find("pair-figures").textContent = !pair
    ? "This pair has no matches."
    : `${whole(pair.inliers)} inliers of ${whole(pair.matches)} matches` +
      (pair.count ? (pair.count < pair.matches ? `; ${whole(pair.count)} are on this page.` : ".") : "; they are not on this page.");
  const turn = pair?.mode === null || pair?.mode === undefined ? null : pair.a === a ? pair.mode : 360 - pair.mode;
  find("pair-rotation").textContent = !pair?.histogram
    ? ""
    : turn === null
      ? "No rotation stands out from chance."
      : `Most matches say that the second photo is rotated by ${turn > 180 ? `${fixed(360 - turn, 1)}° counter-clockwise` : `${fixed(turn, 1)}° clockwise`} against the first.`;
}

// The kinds of matches as their bars stand on one another.
const KINDS = ["inlier", "outlier", "dropped"];

function tellDropped(pair) {
  const kept = `The filter kept ${whole(pair.matches)}`;
  if (pair.dropped === null) return scene.filter.drops ? "What the filter dropped is counted for the strongest pairs only." : "";
  return `${kept} of ${whole(pair.matches + pair.dropped)} matches between nearest neighbours.`;
}

// Angle of b minus angle of a for all matches, in bins of ten degrees from -180 to 180. The height
// of a whole bar grows with the logarithm, so that the few matches beside the peak are seen too.
function drawHistogram() {
  const canvas = find("rotations");
  const pair = selected.pair && findPair(...selected.pair);
  canvas.hidden = !pair?.histogram;
  find("dropped-told").textContent = canvas.hidden ? "" : tellDropped(pair);
  if (canvas.hidden) return;
  const isReversed = pair.a !== selected.pair[0];
  const bins = scene.pairs.bins;
  const width = Math.min(canvas.parentElement.clientWidth, 620);
  const height = 170;
  const context = fit(canvas, width, height);
  const left = 6;
  const step = (width - 12) / bins;
  const place = (degrees) => left + ((((degrees + 180) % 360) + 360) % 360 / 360) * (width - 12);
  const bars = KINDS.map((_, kind) => Array.from({ length: bins }, (_, bin) => {
    const from = (bin + bins / 2) % bins;
    return pair.histogram[kind * bins + (isReversed ? bins - 1 - from : from)];
  }));
  const sums = bars[0].map((_, bin) => bars.reduce((sum, counts) => sum + counts[bin], 0));
  const most = Math.max(1, ...sums);
  const mode = pair.mode !== null && isReversed ? 360 - pair.mode : pair.mode;
  if (mode !== null) drawBand(context, mode, place, width, height);
  for (let bin = 0; bin < bins; bin++) {
    const share = sums[bin] ? (Math.log1p(sums[bin]) / Math.log1p(most)) * (height - 44) / sums[bin] : 0;
    let base = height - 22;
    for (const [kind, name] of KINDS.entries()) {
      const tall = bars[kind][bin] * share;
      context.fillStyle = color(name);
      context.fillRect(left + bin * step + 0.5, base - tall, Math.max(step - 1, 1), tall);
      base -= tall;
    }
  }
  context.fillStyle = color("ink");
  if (mode !== null) context.fillRect(place(mode) - 0.75, 18, 1.5, height - 40);
  context.fillStyle = color("soft");
  context.textAlign = "center";
  for (const degrees of [-180, -90, 0, 90]) context.fillText(`${degrees}°`, Math.max(place(degrees), 18), height - 6);
  context.textAlign = "right";
  context.fillText("180°", width - 2, height - 6);
  context.fillText(`at most ${most} in 10°`, width - 4, 12);
}

function drawBand(context, mode, place, width, height) {
  const tolerance = scene.filter.tolerance;
  if (!tolerance) return;
  context.fillStyle = color("band");
  const [from, to] = [place(mode - tolerance), place(mode + tolerance)];
  if (from < to) return context.fillRect(from, 18, to - from, height - 40);
  context.fillRect(6, 18, to - 6, height - 40);
  context.fillRect(from, 18, width - 6 - from, height - 40);
}
