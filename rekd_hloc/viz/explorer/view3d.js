// The 3-D view: points by WebGL, cameras on a canvas above it; orbit, move, zoom and pick.

const VERTEX = `
attribute vec3 place; attribute vec3 tint; uniform mat4 clip; uniform float size; uniform float widest;
varying vec3 shade;
void main() {
  gl_Position = clip * vec4(place, 1.0);
  gl_PointSize = clamp(size / gl_Position.w, 1.5, widest);
  shade = tint;
}`;
const FRAGMENT = `
precision mediump float; varying vec3 shade;
void main() {
  vec2 off = gl_PointCoord - 0.5;
  if (dot(off, off) > 0.25) discard;
  gl_FragColor = vec4(shade, 1.0);
}`;
const VIEW_ANGLE = 0.9; // radians from top to bottom
const [NEAREST, FARTHEST] = [2.6, 6]; // from the middle at first; most points are within 1
const MOVING_POINTS = 40000; // drawn while the view moves, an even sample of all

const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const along = (origin, ...terms) => terms.reduce((sum, [factor, axis]) => sum.map((v, k) => v + factor * axis[k]), origin);

class View3d {
  constructor(holder) {
    this.holder = holder;
    this.canvas = make("canvas", { class: "points" });
    this.overlay = make("canvas", { class: "cameras" });
    this.hint = make("div", { class: "tip", hidden: true });
    holder.append(this.canvas, this.overlay, this.hint);
    this.pointSize = 1;
    this.frustumSize = 1;
    this.showsCameras = true;
    this.shading = "photo";
    this.hovered = null;
    this.isMoving = false;
    this.reset();
    this.startGl();
    new ResizeObserver(() => this.redraw()).observe(holder);
    for (const kind of ["image", "point", "theme"]) on(kind, () => this.redraw());
  }

  reset() {
    Object.assign(this, { target: [0, 0, 0], yaw: this.startYaw(), pitch: 0.35, distance: NEAREST });
    this.distance = this.startDistance();
    this.redraw();
  }

  // So far away that nearly all cameras are in the view.
  startDistance() {
    const { right, up, ahead } = this.eye();
    const high = 0.88 * Math.tan(VIEW_ANGLE / 2);
    const wide = (high * this.holder.clientWidth) / Math.max(this.holder.clientHeight, 1);
    const needed = images
      .filter((image) => image.registered)
      .map(({ centre }) => Math.max(Math.abs(dot(centre, right)) / wide, Math.abs(dot(centre, up)) / high) - dot(centre, ahead))
      .sort((one, other) => one - other);
    return Math.min(Math.max(needed[Math.floor(0.95 * needed.length)] ?? 0, NEAREST), FARTHEST);
  }

  // From behind the cameras, as they look.
  startYaw() {
    const ahead = images.filter((image) => image.axes).map((image) => image.axes.slice(6));
    const sum = ahead.reduce((total, axis) => total.map((v, k) => v + axis[k]), [0, 0, 0]);
    return Math.hypot(sum[0], sum[1]) > 1e-6 ? Math.atan2(-sum[1], -sum[0]) + 0.35 : 0.6;
  }

  startGl() {
    const gl = this.canvas.getContext("webgl", { antialias: true, preserveDrawingBuffer: true });
    this.gl = gl;
    if (!gl) {
      this.holder.append(make("p", { class: "nogl" }, "This browser shows no WebGL: cameras are drawn, points are not."));
      return;
    }
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.enable(gl.DEPTH_TEST);
    this.uniform = (name) => gl.getUniformLocation(program, name);
    this.tints = gl.createBuffer();
    this.upload(gl.createBuffer(), gl.getAttribLocation(program, "place"), points.xyz, gl.FLOAT);
    this.tintPlace = gl.getAttribLocation(program, "tint");
    this.shade("photo");
    this.canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    this.canvas.addEventListener("webglcontextrestored", () => this.startGl());
  }

  upload(buffer, place, values, kind) {
    const gl = this.gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, 3, kind, kind === gl.UNSIGNED_BYTE, 0, 0);
  }

  shade(how) {
    this.shading = how;
    let tints = points.rgb;
    if (how !== "photo") {
      tints = new Uint8Array(3 * points.count);
      for (let k = 0; k < points.count; k++) {
        const share = how === "error" ? points.error[k] / 128 : Math.log2(points.length[k] / 2) / 4;
        tints.set(ramp(share), 3 * k);
      }
    }
    if (this.gl) this.upload(this.tints, this.tintPlace, tints, this.gl.UNSIGNED_BYTE);
    this.redraw();
  }

  // Axes of the eye: right, up, ahead, and where it is.
  eye() {
    const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    const ahead = [-cy * cp, -sy * cp, -sp];
    const right = [-sy, cy, 0];
    return { ahead, right, up: cross(right, ahead), place: along(this.target, [-this.distance, ahead]) };
  }

  // The matrix from the frame to WebGL's clip space, column by column.
  clip(eye, width, height) {
    const f = 1 / Math.tan(VIEW_ANGLE / 2);
    const near = this.distance / 200;
    const far = this.distance * 400;
    const [x, y] = [(f * height) / width, f];
    const z = [(far + near) / (far - near), (-2 * far * near) / (far - near)];
    const rows = [
      [...eye.right.map((v) => v * x), -x * dot(eye.right, eye.place)],
      [...eye.up.map((v) => v * y), -y * dot(eye.up, eye.place)],
      [...eye.ahead.map((v) => v * z[0]), -z[0] * dot(eye.ahead, eye.place) + z[1]],
      [...eye.ahead, -dot(eye.ahead, eye.place)],
    ];
    return new Float32Array([0, 1, 2, 3].flatMap((column) => rows.map((row) => row[column])));
  }

  // Pixels and depth of a place; depth below zero is behind the eye.
  project(m, x, y, z, width, height) {
    const w = m[3] * x + m[7] * y + m[11] * z + m[15];
    const u = (m[0] * x + m[4] * y + m[8] * z + m[12]) / w;
    const v = (m[1] * x + m[5] * y + m[9] * z + m[13]) / w;
    return [(0.5 + 0.5 * u) * width, (0.5 - 0.5 * v) * height, w];
  }

  redraw() {
    if (this.isAsked) return;
    this.isAsked = true;
    requestAnimationFrame(() => {
      this.isAsked = false;
      this.draw();
    });
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.holder;
    if (!width || !height) return;
    const eye = this.eye();
    const clip = this.clip(eye, width, height);
    this.last = { clip, width, height };
    if (this.gl) this.drawPoints(clip, width, height);
    drawCameras(this, fit(this.overlay, width, height));
  }

  drawPoints(clip, width, height) {
    const gl = this.gl;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const [columns, rows] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== columns || this.canvas.height !== rows) [this.canvas.width, this.canvas.height] = [columns, rows];
    gl.viewport(0, 0, columns, rows);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniformMatrix4fv(this.uniform("clip"), false, clip);
    gl.uniform1f(this.uniform("size"), 0.011 * this.pointSize * rows);
    gl.uniform1f(this.uniform("widest"), 9 * ratio * Math.max(this.pointSize, 1));
    gl.drawArrays(gl.POINTS, 0, this.isMoving ? Math.min(points.count, MOVING_POINTS) : points.count);
  }

  // The nearest point to the eye within a few pixels of a place.
  pickPoint(px, py, reach) {
    const { clip, width, height } = this.last;
    let best = null;
    let nearest = Infinity;
    for (let k = 0; k < points.count; k++) {
      const [x, y, depth] = this.project(clip, points.xyz[3 * k], points.xyz[3 * k + 1], points.xyz[3 * k + 2], width, height);
      if (depth <= 0 || depth >= nearest || Math.hypot(x - px, y - py) > reach) continue;
      [best, nearest] = [k, depth];
    }
    return best;
  }
}
