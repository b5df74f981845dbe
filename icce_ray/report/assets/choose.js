// What is done to a class, on its card and its contact sheet: rename, merge, split, reject; and the dialog in which
// another class is chosen.

const chooser = (() => {
  const MOST = 60; // choices at a time; of more classes, the likeliest and those that are searched
  let dialog;
  let title;
  let find;
  let list;
  let more;
  let asked; // {title, first: labels that come first, fits(label), chosen(label)}

  /** Ids of images with pictures that stand for a class; of merged classes in turn. */
  const coverOfAll = (label) => {
    const covers = decisions.groupOf(label).map((one) => classes[one].tiles[0].filter((id) => pictureOf(id)));
    const ranks = Array.from({ length: Math.max(...covers.map((ids) => ids.length)) }, (_, rank) => rank);
    return ranks.flatMap((rank) => covers.map((ids) => ids[rank])).filter((id) => id !== undefined);
  };
  const choiceOf = (label) => {
    const pictures = coverOfAll(label).slice(0, 4).map((id) => showPicture(make("img", { alt: "" }), id));
    const size = decisions.groupOf(label).reduce((sum, one) => sum + classes[one].size, 0);
    const name = decisions.nameOf(label);
    const choice = corrections.action("", () => {
      dialog.close();
      asked.chosen(label);
    });
    choice.append(make("span", { class: "pictures" }, ...pictures), make("strong", {}, name || `Class ${label}`),
      make("span", {}, `${name ? `class ${label}, ` : ""}${counted(size, "image")}`));
    return make("li", {}, choice);
  };
  const draw = () => {
    const text = find.value.trim().toLowerCase();
    const matches = (label) => !text || String(label) === text || titleOf(label).toLowerCase().includes(text);
    const stands = (label) => decisions.classOfLabel(label) === label && !decisions.isRejected(label);
    const fits = (label) => stands(label) && asked.fits(label) && matches(label);
    const rank = (label) => (asked.first.includes(label) ? asked.first.indexOf(label) : asked.first.length);
    const fitting = classes.map((one) => one.label).filter(fits);
    fitting.sort((a, b) => rank(a) - rank(b) || a - b);
    list.replaceChildren(...fitting.slice(0, MOST).map(choiceOf));
    const left = fitting.length - MOST;
    more.textContent = left > 0 ? `${counted(left, "class", "classes")} more: search by name or number.` : "";
    if (!fitting.length) more.textContent = "No other class fits.";
  };
  /** Asks for a class. */
  function choose(options) {
    asked = options;
    title.textContent = asked.title;
    find.value = "";
    draw();
    dialog.showModal();
    find.focus();
  }
  function init() {
    title = make("h2", { id: "choose-title" });
    find = make("input", { type: "search", placeholder: "name or number", autocomplete: "off" });
    list = make("ul", { class: "choices" });
    more = make("p", { role: "status" });
    const head = make("div", { class: "bar" }, title, corrections.action("Cancel", () => dialog.close()));
    dialog = make("dialog", { id: "choose", "aria-labelledby": "choose-title" }, head,
      make("p", {}, make("label", {}, "Find ", find)), list, more);
    find.addEventListener("input", draw);
    find.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      list.querySelector("button")?.click(); // the first that fits
    });
    document.body.append(dialog);
  }
  return { choose, init };
})();

const classTools = (() => {
  const focusIn = (box, name) =>
    (box.querySelector(`[data-tool="${name}"]`) ?? box.querySelector("[data-tool]"))?.focus();
  /** Puts the focus on a tool of a class where it is shown, above all in an open sheet. */
  const focus = (label, name) => {
    const within = document.querySelector("dialog[open]") ?? document;
    const box = within.querySelector(`.class-tools[data-class="${decisions.classOfLabel(label)}"]`);
    if (box) focusIn(box, name);
  };
  const merge = (label) => {
    const near = decisions.groupOf(label).flatMap((one) => classes[one].near);
    chooser.choose({
      title: `Merge class ${corrections.inWords(label)} with…`,
      first: near.sort((a, b) => b[1] - a[1]).map(([other]) => decisions.classOfLabel(other)),
      fits: (other) => other !== label,
      chosen(other) {
        corrections.decide({ type: "merge", labels: [label, other] }, `Classes ${label} and ${other} are merged.`);
        focus(label, "merge");
      },
    });
  };
  /** A field for the name instead of the tools, until Enter, Escape or leaving it. */
  const rename = (box, label) => {
    const field = make("input", { "aria-label": `Name of class ${label}`, maxlength: 200, autocomplete: "off" });
    field.value = decisions.nameOf(label);
    field.placeholder = "name of the class";
    let ended = false;
    const end = (takes) => {
      if (ended) return;
      ended = true;
      delete box.dataset.state;
      draw(box, label);
      const name = field.value.trim();
      const said = name ? `Class ${label} is called ${name}.` : `Class ${label} has the name that it had.`;
      if (takes) corrections.decide({ type: "rename", label, name }, said);
    };
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      end(event.key === "Enter");
      focus(label, "rename");
    });
    field.addEventListener("blur", () => end(true));
    const done = corrections.action("OK", () => end(true));
    done.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus until then
    box.replaceChildren(field, done);
    field.select();
    field.focus();
  };
  const reject = (label) => {
    const back = decisions.movedTo(label).length;
    const said = back ? ` ${counted(back, "image")} moved to it before will not be.` : "";
    corrections.decide({ type: "reject", label }, `Class ${label} is rejected.${said}`);
  };
  const split = (label, parts) =>
    corrections.decide({ type: "split", label, parts }, `Class ${label} is to be split into ${parts}.`);
  const parts = (label, count) => {
    const attributes = { type: "number", min: 2, max: 100, value: count, "data-tool": "split" };
    const field = make("input", { ...attributes, "aria-label": `Split class ${label} into` });
    field.addEventListener("change", () => {
      if (field.valueAsNumber >= 2) split(label, Math.round(field.valueAsNumber));
      field.value = decisions.partsOf(label);
    });
    return make("label", { class: "badge" }, "Split into ", field);
  };
  /** Fills the box of a class anew, where its state is another than it shows; the focus stays where one can go on. */
  const draw = (box, label) => {
    const [group, count, rejected] = [decisions.groupOf(label), decisions.partsOf(label), decisions.isRejected(label)];
    const state = JSON.stringify([group, count, rejected]);
    if (box.dataset.state === state) return;
    const held = box.contains(document.activeElement) ? document.activeElement.dataset.tool : undefined;
    const tool = (name, text, done) =>
      corrections.action(text, done, { "data-tool": name, "aria-label": `${text}: class ${label}` });
    const restore = (text, said) => tool("restore", text, () => corrections.decide({ type: "restore", label }, said));
    box.dataset.state = state;
    box.classList.toggle("rejected", rejected);
    box.replaceChildren();
    if (rejected) {
      box.append(make("span", { class: "badge" }, "Rejected"), restore("Keep it", `Class ${label} is kept.`));
    } else {
      if (group.length > 1) box.append(make("span", { class: "badge" }, `Merged: classes ${group.join(" + ")}`));
      if (count) box.append(parts(label, count));
      box.append(tool("rename", "Rename", () => rename(box, label)), tool("merge", "Merge…", () => merge(label)));
      if (group.length > 1) box.append(restore("Unmerge", `Classes ${group.join(", ")} are apart again.`));
      else if (count) box.append(restore("Do not split", `Class ${label} is not split.`));
      else box.append(tool("split", "Split", () => split(label, 2)));
      box.append(tool("reject", "Reject", () => reject(label)));
    }
    if (held !== undefined) focusIn(box, held);
  };
  /** The tools of a class, for as long as the page is open. */
  function of(label) {
    const attributes = { class: "class-tools", role: "group", "aria-label": `Correct class ${label}` };
    const box = make("div", { ...attributes, "data-class": label });
    draw(box, label);
    document.addEventListener("decisions", () => draw(box, label));
    return box;
  }
  const boxes = new Map();
  /** The tools for the contact sheet of a class. */
  function inSheet(label) {
    if (label !== null && !boxes.has(label)) boxes.set(label, of(label));
    return boxes.get(label);
  }
  return { of, inSheet };
})();
