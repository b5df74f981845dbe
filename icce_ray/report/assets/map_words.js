// ---- words of the map: its legend, and names of classes on it -----------------------------------------------------

const MAP_FONT = '600 13px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif';
const shortened = (text, most = 28) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** The legend of a colouring: a button a group, which leaves only those pressed bright; or the ramp of a share. */
function showMapLegend(place, colouring, highlighted, toggled) {
  if (!colouring.groups) {
    const ramp = make("div", { class: "map-ramp", "aria-hidden": "true" });
    ramp.style.background = `linear-gradient(to right, ${MAP_RAMP.map(cssOf).join(", ")})`;
    const ends = make("div", { class: "map-ends" });
    ends.append(make("span", {}, `${percent(colouring.low)} or less`), make("span", {}, percent(colouring.high)));
    place.replaceChildren(make("h3", {}, colouring.name[0].toUpperCase() + colouring.name.slice(1)), ramp, ends);
    if (colouring.unknown) place.append(make("p", {}, `Grey: ${counted(colouring.unknown, "image")} without.`));
    return;
  }
  const list = make("ul", { class: "map-groups" });
  for (const { group, count, title, css } of colouring.groups) {
    const swatch = make("span", { class: "map-swatch", "aria-hidden": "true" });
    swatch.style.background = css;
    const pressed = String(highlighted.has(group));
    const button = make("button", { type: "button", "aria-pressed": pressed, "data-group": group });
    const number = make("span", { class: "map-count" }, count.toLocaleString("en"));
    button.append(swatch, make("span", { class: "map-name" }, title), number);
    button.addEventListener("click", () => toggled(group));
    list.append(make("li", {}, button));
  }
  const title = { class: "Classes", truth: "True classes" }[colouring.by];
  const all = make("button", { type: "button", class: "map-all" }, "Show all");
  all.addEventListener("click", () => toggled(null));
  place.replaceChildren(make("h3", {}, `${title} (${colouring.groups.length.toLocaleString("en")})`), all, list);
  place.querySelector(".map-all").hidden = !highlighted.size;
}

/** Marks the pressed buttons of the legend. */
function markMapLegend(place, highlighted) {
  for (const button of place.querySelectorAll("[data-group]")) {
    button.setAttribute("aria-pressed", String(highlighted.has(Number(button.dataset.group))));
  }
  const all = place.querySelector(".map-all");
  if (all) all.hidden = !highlighted.size;
}

/** Names of groups at their densest spots as far as none covers another, the largest first: [{ text, x, y }]. */
function placedLabels(groups, camera, width, height, most) {
  const ruler = placedLabels.ruler ??= make("canvas").getContext("2d");
  ruler.font = MAP_FONT;
  const placed = [];
  for (const one of groups) {
    if (placed.length >= most) break;
    const [x, y] = [camera.left + one.x * camera.scale, camera.top + one.y * camera.scale];
    if (x < 0 || y < 0 || x > width || y > height) continue;
    one.wide ??= ruler.measureText(one.short).width;
    const half = one.wide / 2 + 6;
    const free = placed.every((other) => Math.abs(other.y - y) > 20 || Math.abs(other.x - x) > half + other.half);
    if (free) placed.push({ text: one.short, half, x, y });
  }
  return placed;
}

/** Shows placed labels as elements, which are used again. */
function showMapLabels(place, placed) {
  while (place.children.length < placed.length) place.append(make("span"));
  [...place.children].forEach((element, at) => {
    const one = placed[at];
    element.hidden = !one;
    if (!one) return;
    if (element.textContent !== one.text) element.textContent = one.text;
    element.style.transform = `translate(${one.x.toFixed(1)}px, ${one.y.toFixed(1)}px) translate(-50%, -50%)`;
  });
}

/** Draws placed labels on a 2-D canvas, for pictures and print. */
function drawMapLabels(context, placed, ink, ground) {
  Object.assign(context, { font: MAP_FONT, textAlign: "center", textBaseline: "middle" });
  Object.assign(context, { lineJoin: "round", lineWidth: 4 });
  for (const { text, x, y } of placed) {
    context.strokeStyle = ground;
    context.strokeText(text, x, y);
    context.fillStyle = ink;
    context.fillText(text, x, y);
  }
}

/** What is said of an image: its name, and a line for each thing that is known. */
function wordsOfPoint({ points, data, shown }, point) {
  const { confidence, agreement, truth, names } = points;
  const lines = [titleOf(shown[point])];
  if (confidence?.[point] < 255) lines.push(`confidence ${percent(confidence[point] / 254)}`);
  if (agreement?.[point] < 255) lines.push(`${percent(agreement[point] / 254)} of heads agree`);
  if (truth && truth[point] !== 65535) lines.push(`true class ${data.truth[truth[point]]}`);
  return { name: names[point].at(-1), lines };
}

/** Shows ring, picture and words of an image beside it; of -1 nothing. */
function showMapTip(map, point) {
  const { parts, points, camera } = map;
  map.at = point;
  parts.ring.hidden = parts.tip.hidden = point < 0;
  if (point < 0) return;
  const [x, y] = [camera.left + points.x[point] * camera.scale, camera.top + points.y[point] * camera.scale];
  parts.ring.style.transform = `translate(${x}px, ${y}px)`;
  const { name, lines } = wordsOfPoint(map, point);
  const title = make("strong", {}, shortened(name, 60));
  const words = make("div", {}, title, ...lines.map((line) => make("span", {}, line)));
  const picture = pictureOf(points.ids[point]);
  parts.tip.replaceChildren(...(picture ? [showPicture(make("img", { alt: "" }), points.ids[point])] : []), words);
  const [width, height] = [parts.tip.offsetWidth, parts.tip.offsetHeight];
  const left = x + 16 + width > parts.frame.clientWidth ? Math.max(4, x - 16 - width) : x + 16;
  const top = Math.max(4, Math.min(y - height / 2, parts.frame.clientHeight - height - 4));
  parts.tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
}
