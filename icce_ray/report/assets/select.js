// Images that are selected, to be moved to another class: in any list of tiles, across lists. A click with Ctrl or
// Shift selects, Space does by keyboard, and every click does while "Select images" is on.
const selection = (() => {
  const chosen = new Set();
  let on = false;
  let last = null;
  let bar; // {images: the bar's place for what is selected}
  let count;
  let move;
  let openers;

  const active = () => on || chosen.size > 0;
  const tileAt = (event) => event.target.closest?.(".tiles button[data-image]");
  const idOf = (tile) => Number(tile.dataset.image);
  const titleOfImage = (id) => decisions.nameOf(decisions.classOf(id)) || `class ${decisions.classOf(id)}`;

  /** What a tile says of its image: selected or not, and moved where. */
  function dress(tile) {
    const id = idOf(tile);
    tile.classList.toggle("selected", chosen.has(id));
    if (active()) tile.setAttribute("aria-pressed", String(chosen.has(id)));
    else tile.removeAttribute("aria-pressed");
    const moved = decisions.isMoved(id);
    tile.classList.toggle("moved", moved);
    if (moved) tile.dataset.moved = `→ ${titleOfImage(id)}`;
    if (moved) tile.setAttribute("aria-description", `moved to ${titleOfImage(id)}`);
    else tile.removeAttribute("aria-description");
  }
  const dressAll = () => document.querySelectorAll(".tiles button[data-image]").forEach(dress);
  const draw = () => {
    dressAll();
    root.classList.toggle("selecting", active());
    bar.images.hidden = !active();
    const none = "Click images of a class to select them";
    count.textContent = chosen.size ? `${counted(chosen.size, "image")} selected` : none;
    move.disabled = !chosen.size;
    openers.forEach((one) => one.setAttribute("aria-pressed", String(on)));
    corrections.drawBar();
  };
  const end = () => {
    on = false;
    chosen.clear();
    draw();
  };
  /** With Shift, all from the one before to this one in the same list. */
  const toggle = (tile, range) => {
    const ids = [...tile.closest(".tiles").querySelectorAll("button[data-image]")].map(idOf);
    const [from, to] = [range ? ids.indexOf(last) : -1, ids.indexOf(idOf(tile))];
    if (from >= 0) ids.slice(Math.min(from, to), Math.max(from, to) + 1).forEach((id) => chosen.add(id));
    else if (!chosen.delete(idOf(tile))) chosen.add(idOf(tile));
    last = idOf(tile);
    draw();
  };
  /** Classes to which images may belong, likeliest first: their runners-up, then the nearest of their own class. */
  const likely = (ids) => {
    const scores = new Map();
    const add = (label, score) => scores.set(label, (scores.get(label) ?? 0) + score);
    for (const id of ids) {
      const { second, label } = imageOf(id) ?? {};
      if (second) add(decisions.classOfLabel(second[0]), 1 + second[1]);
      for (const [other, chance] of classes[label]?.near ?? []) add(decisions.classOfLabel(other), chance);
    }
    return [...scores].sort((a, b) => b[1] - a[1]).map(([label]) => label);
  };
  /** Asks for the class to which images belong. */
  function moveTo(ids) {
    const here = new Set(ids.map((id) => decisions.classOf(id)));
    const what = ids.length > 1 ? counted(ids.length, "image") : corrections.keyOf(ids[0]);
    chooser.choose({
      title: `Move ${what} to…`,
      first: likely(ids),
      fits: (label) => here.size > 1 || !here.has(label),
      chosen(label) {
        const images = ids.map((id) => ({ image_id: id, key: corrections.keyOf(id) }));
        const said = `Moved ${what} to class ${corrections.inWords(label)}.`;
        end();
        corrections.decide({ type: "move", images, to: label }, said);
        const place = document.querySelector("dialog[open]") ?? document;
        place.querySelector(`.tiles [data-image="${last}"]`)?.focus();
      },
    });
  }
  /** What the large view offers for its image. */
  const large = (id) => {
    const box = make("p", { class: "buttons" }, corrections.action("Move to class…", () => moveTo([id])));
    if (decisions.isMoved(id)) {
      const back = () => corrections.decide({ type: "stay", images: [id] }, "The image stays in its class.");
      box.append(corrections.action("Move back", back));
    }
    return box;
  };
  const listen = () => {
    // Before the tile's own listener, which opens the image.
    document.addEventListener("click", (event) => {
      const tile = tileAt(event);
      if (!tile || !(on || event.ctrlKey || event.metaKey || event.shiftKey)) return;
      event.preventDefault();
      event.stopPropagation();
      toggle(tile, event.shiftKey);
    }, true);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && active() && !document.querySelector("dialog[open]")) end();
      const tile = event.key === " " && tileAt(event);
      if (!tile) return;
      event.preventDefault();
      toggle(tile, event.shiftKey);
    }, true);
    document.addEventListener("keyup", (event) => {
      if (event.key === " " && tileAt(event)) event.preventDefault(); // a button takes it for a click
    }, true);
    document.addEventListener("decisions", dressAll);
  };
  function init(within) {
    bar = within;
    count = make("span");
    move = corrections.action("Move to class…", () => moveTo([...chosen]), { class: "primary" });
    bar.images.append(count, move, corrections.action("Done", end));
    openers = [1, 2].map(() => corrections.action("Select images", () => {
      on = !on;
      if (on) draw();
      else end();
    }, { "aria-pressed": "false" }));
    element("tools").append(openers[0]);
    sheetTools.push(() => openers[1]);
    largeTools.push(large);
    listen();
    draw();
  }
  return { init, dress };
})();
