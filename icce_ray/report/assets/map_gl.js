// ---- drawing the points: by WebGL, or without it pixel by pixel ---------------------------------------------------
// Both draw `scene` = { x, y, order, colours (RGBA bytes by point), ground: [r, g, b] } as `look` says: { scale, left,
// top: pixels of the canvas per unit and of the origin; size: of a point in pixels of the canvas; round }.

const MAP_VERTEX = `#version 300 es
in vec2 place; in vec4 colour; uniform vec4 view; uniform float size; flat out vec4 paint;
void main() { gl_Position = vec4(place * view.xy + view.zw, 0.0, 1.0); gl_PointSize = size; paint = colour; }`;
const MAP_SQUARE = `#version 300 es
precision mediump float; flat in vec4 paint; out vec4 pixel;
void main() { pixel = paint; }`;
const MAP_ROUND = `#version 300 es
precision highp float; flat in vec4 paint; uniform float size; out vec4 pixel;
void main() {
  float edge = (0.5 - length(gl_PointCoord - 0.5)) * size;
  pixel = paint * clamp(edge + 0.5, 0.0, 1.0);
}`;

/** Whether this browser draws WebGL by hardware; in software `pixelPainter` is two to four times as fast. */
const isWebglFast = () => {
  const options = { failIfMajorPerformanceCaveat: true };
  const gl = make("canvas", { width: 1, height: 1 }).getContext("webgl2", options);
  if (!gl) return false;
  const names = gl.getExtension("WEBGL_debug_renderer_info");
  const name = gl.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(name);
};

/** Draws with WebGL. */
const webglPainter = (canvas) => {
  const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false });
  const shader = (kind, source) => {
    const made = gl.createShader(kind);
    gl.shaderSource(made, source);
    gl.compileShader(made);
    return made;
  };
  const program = (fragment) => {
    const made = gl.createProgram();
    gl.attachShader(made, shader(gl.VERTEX_SHADER, MAP_VERTEX));
    gl.attachShader(made, shader(gl.FRAGMENT_SHADER, fragment));
    gl.bindAttribLocation(made, 0, "place");
    gl.bindAttribLocation(made, 1, "colour");
    gl.linkProgram(made);
    const linked = gl.getProgramParameter(made, gl.LINK_STATUS);
    if (!linked && !gl.isContextLost()) throw new Error(`the map's shaders: ${gl.getProgramInfoLog(made)}`);
    return { made, view: gl.getUniformLocation(made, "view"), size: gl.getUniformLocation(made, "size") };
  };
  let [programs, places, colours, order, count] = [];
  const start = () => {
    programs = { square: program(MAP_SQUARE), round: program(MAP_ROUND) };
    [places, colours, order] = [gl.createBuffer(), gl.createBuffer(), gl.createBuffer()];
    gl.enableVertexAttribArray(0);
    gl.enableVertexAttribArray(1);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  };
  start();
  const most = gl.getParameter(gl.ALIASED_POINT_SIZE_RANGE)[1];

  /** Takes places, colours and the order of drawing; again after each change. The colours are written in this order. */
  const load = (scene) => {
    const { x, y, colours: from, order: sorted } = scene;
    count = sorted.length;
    const [xy, paint] = [new Uint16Array(2 * count), new Uint8Array(4 * count)];
    sorted.forEach((point, place) => {
      xy[2 * place] = x[point];
      xy[2 * place + 1] = y[point];
      const alpha = from[4 * point + 3];
      for (let part = 0; part < 3; part++) paint[4 * place + part] = (from[4 * point + part] * alpha) / 255;
      paint[4 * place + 3] = alpha;
    });
    gl.bindBuffer(gl.ARRAY_BUFFER, places);
    gl.bufferData(gl.ARRAY_BUFFER, xy, gl.STATIC_DRAW);
    gl.vertexAttribPointer(0, 2, gl.UNSIGNED_SHORT, true, 0, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, colours);
    gl.bufferData(gl.ARRAY_BUFFER, paint, gl.STATIC_DRAW);
    gl.vertexAttribPointer(1, 4, gl.UNSIGNED_BYTE, true, 0, 0);
    gl.clearColor(...scene.ground.map((part) => part / 255), 1);
  };
  const draw = ({ scale, left, top, size, round }) => {
    const { width, height } = canvas;
    const { made, view, size: sizeAt } = round ? programs.round : programs.square;
    gl.viewport(0, 0, width, height);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(made);
    const [across, down] = [(2 * scale * 65535) / width, (-2 * scale * 65535) / height];
    gl.uniform4f(view, across, down, (2 * left) / width - 1, 1 - (2 * top) / height);
    gl.uniform1f(sizeAt, Math.min(size, most));
    gl.drawArrays(gl.POINTS, 0, count);
  };
  /** `again` is called when the device has been lost and is back. */
  const onRestored = (again) => {
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => (start(), again()));
  };
  return { load, draw, onRestored, isFast: true };
};

/** How much of each pixel of a square a disc in it covers, 0 to 256, along its lines. */
const discOf = (side, diameter) => Array.from({ length: side * side }, (_, place) => {
  const [across, down] = [place % side, Math.floor(place / side)].map((at) => at + 0.5 - side / 2);
  return Math.round(256 * Math.max(0, Math.min(1, diameter / 2 - Math.hypot(across, down) + 0.5)));
});

/** Draws into the pixels of a 2-D canvas: for browsers without fast WebGL, and for what is printed. */
const pixelPainter = (canvas) => {
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  let [scene, flat, image] = [];
  const packed = ([red, green, blue]) => (255 << 24) | (blue << 16) | (green << 8) | red;

  const load = (given) => {
    scene = given;
    const { colours, order, ground } = scene;
    // Squares lie on nothing but the ground: its colour is mixed with theirs once, not at each frame.
    flat = Int32Array.from(order, (point) => {
      const alpha = colours[4 * point + 3] / 255;
      return packed(ground.map((part, at) => Math.round(alpha * colours[4 * point + at] + (1 - alpha) * part)));
    });
  };
  /** Calls `paint` with each point that lies within the canvas, its place in the order, and its first pixel. */
  const each = ({ scale, left, top }, side, paint) => {
    const { width, height } = canvas;
    const { x, y, order } = scene;
    for (let place = 0; place < order.length; place++) {
      const column = Math.round(left + x[order[place]] * scale - side / 2);
      const row = Math.round(top + y[order[place]] * scale - side / 2);
      if (column < 0 || row < 0 || column + side > width || row + side > height) continue;
      paint(order[place], place, row * width + column);
    }
  };
  const squares = (look, pixels) => {
    const side = Math.max(1, Math.round(look.size));
    each(look, side, (_, place, first) => {
      const end = first + side * canvas.width;
      for (let from = first; from < end; from += canvas.width) {
        for (let pixel = from; pixel < from + side; pixel++) pixels[pixel] = flat[place];
      }
    });
  };
  const discs = (look, bytes) => {
    const side = Math.ceil(look.size) + 1;
    const cover = discOf(side, look.size);
    const { colours } = scene;
    each(look, side, (point, _, first) => {
      const [red, green, blue, alpha] = colours.subarray(4 * point, 4 * point + 4);
      for (let place = 0; place < cover.length; place++) {
        if (!cover[place]) continue;
        const at = 4 * (first + Math.floor(place / side) * canvas.width + (place % side));
        const share = (alpha * cover[place]) / 65280;
        bytes[at] += share * (red - bytes[at]);
        bytes[at + 1] += share * (green - bytes[at + 1]);
        bytes[at + 2] += share * (blue - bytes[at + 2]);
      }
    });
  };
  const draw = (look) => {
    const { width, height } = canvas;
    if (image?.width !== width || image.height !== height) image = context.createImageData(width, height);
    const pixels = new Int32Array(image.data.buffer);
    pixels.fill(packed(scene.ground));
    if (look.round) discs(look, image.data);
    else squares(look, pixels);
    context.putImageData(image, 0, 0);
  };
  return { load, draw, onRestored: () => {}, isFast: false };
};
