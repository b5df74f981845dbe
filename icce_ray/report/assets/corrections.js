// Decisions shown and kept: the bar, the list of what will happen, the browser's memory and the file. The state is that
// of decisions.js; choose.js acts on classes, select.js on images.
let decisions = null; // of this run, where its labels can be corrected; made by corrections.init

const corrections = (() => {
  let run; // {predictions, version, classes, images, part, command}
  let kept = true; // whether the browser keeps what is decided
  let saved = ""; // the text of the file that was saved last
  let gone = []; // decisions of a file that could not be taken up
  let bar;
  let list;
  let opener;

  const action = (text, done, attributes = {}) => {
    const button = make("button", { type: "button", ...attributes }, text);
    button.addEventListener("click", done);
    return button;
  };
  const say = (text) => {
    for (const place of [bar.said, list.said]) place.textContent = text;
  };
  /** Does what was decided and says it; of what cannot be, says why. */
  const decide = (step, said) => {
    try {
      if (decisions.apply(step)) say(said);
    } catch (error) {
      say(`Not possible: ${error.message}.`);
    }
  };
  const undo = () => decisions.undo() && (say("Undone."), true);
  const redo = () => decisions.redo() && (say("Done again."), true);
  /** A class in a sentence. */
  const inWords = (label) => (decisions.nameOf(label) ? `${label} (${decisions.nameOf(label)})` : String(label));
  /** The name under which the run knows an image. */
  const keyOf = (id) => imageOf(id)?.whole ?? imageOf(id)?.key ?? imageOf(id)?.uri;

  // ---- the browser's memory and the file -------------------------------------------------------------------------
  const memory = () => `icce-decisions ${run.predictions} ${run.version}`;
  const text = () => `${JSON.stringify(decisions.document(), null, 1)}\n`;
  const keep = () => {
    try {
      if (decisions.count()) localStorage.setItem(memory(), text());
      else localStorage.removeItem(memory());
      kept = true;
    } catch {
      kept = false; // refused, or full: the list says so
    }
  };
  const recall = () => {
    try {
      return localStorage.getItem(memory());
    } catch {
      kept = false;
      return null;
    }
  };
  /** Why the image of a move cannot be that of this run, in words; "" where it can. */
  const imageFault = ({ image_id: id, key }) => {
    if (id >= run.images) return `there is no image ${id}`;
    const known = keyOf(id);
    return known === undefined || known === key ? "" : `image ${id} of this run is ${known}`;
  };
  /** Takes up a file's text, by `take(decisions)`; returns what came of it, in words. */
  const takeUp = (content, name, take) => {
    const found = readDecisions(content, run, imageFault);
    if (found.fault) return `${name} was not opened: ${found.fault}.`;
    gone = found.gone;
    take(found.decisions);
    const left = gone.length ? ` ${counted(gone.length, "decision")} could not be, as listed below.` : "";
    return `${counted(decisions.count(), "decision")} of ${name} taken up.${left}`;
  };
  const replace = (given) => decisions.apply({ type: "replace", decisions: given });
  const open = async (file) => {
    const said = takeUp(await file.text(), file.name, replace);
    show();
    say(said);
  };
  const save = () => {
    saved = text();
    saveFile("decisions.json", new Blob([saved], { type: "application/json" }));
    show();
    say("Saved as decisions.json. Now run the command below.");
  };
  const copy = async (code) => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      say("Copied.");
    } catch {
      getSelection().selectAllChildren(code); // refused: the text is marked, so that a key copies it
      say("Press Ctrl+C to copy the marked command.");
    }
  };

  // ---- the list --------------------------------------------------------------------------------------------------
  const WORDS = {
    rename: ({ label, name }) => `Name class ${label} “${name}”`,
    merge: ({ label, group }) => `Merge classes ${group.join(", ")} into class ${inWords(label)}`,
    split: ({ label, parts }) => `Split class ${inWords(label)} into ${parts}`,
    reject: ({ label }) => `Reject class ${inWords(label)}`,
  };
  const rowOf = (words, undone, ...more) => {
    const remove = () => {
      decide(undone, `Removed: ${words}.`);
      (list.rows.querySelector("button") ?? list.close).focus();
    };
    const button = action("Remove", remove, { "aria-label": `Remove: ${words}` });
    return make("li", {}, make("span", {}, words), ...more, button);
  };
  /** Moves are listed by the class to which they lead. */
  const rowOfMoves = (to, moves) => {
    const ids = moves.map((one) => one.image_id);
    const words = `Move ${moves.length > 1 ? counted(moves.length, "image") : moves[0].key} to class ${inWords(to)}`;
    const shown = action("Show", () => listImages(words, ids), { "aria-label": `Show: ${words}` });
    return rowOf(words, { type: "stay", images: ids }, shown);
  };
  const rows = () => {
    const every = decisions.entries();
    const moves = every.filter(({ kind }) => kind === "move");
    return [
      ...every.filter(({ kind }) => kind !== "move").map((one) => rowOf(WORDS[one.kind](one), one.undone)),
      ...[...new Set(moves.map(({ to }) => to))].map((to) => rowOfMoves(to, moves.filter((one) => one.to === to))),
    ];
  };
  const state = () => {
    if (!decisions.count()) {
      return "None yet. Rename, merge, split or reject classes on their cards; select images to move them.";
    }
    if (saved === text()) return "Saved as decisions.json.";
    if (kept) return "Kept in this browser. Save them as a file to apply them.";
    return "This browser keeps nothing for this page: save the decisions before you close it.";
  };
  const draw = () => {
    const count = decisions.count();
    bar.count.textContent = counted(count, "decision");
    opener.textContent = `Decisions (${count.toLocaleString("en")})`;
    const held = document.activeElement;
    bar.undo.disabled = !decisions.canUndo();
    bar.redo.disabled = !decisions.canRedo();
    if (held === bar.undo && held.disabled) bar.redo.focus(); // a button that is disabled holds no focus
    if (held === bar.redo && held.disabled) bar.undo.focus();
    bar.save.hidden = !count;
    list.state.textContent = state();
    list.state.classList.toggle("warning", count > 0 && !kept);
    list.rows.replaceChildren(...rows());
    list.gone.replaceChildren(...gone.map((words) => make("li", {}, words)));
    list.goneBox.hidden = !gone.length;
    for (const one of [list.save, list.discard, list.next]) one.hidden = !count;
    drawBar();
  };
  const show = () => {
    draw();
    if (!list.dialog.open) list.dialog.showModal();
  };
  const ask = () => {
    list.sure.hidden = false;
    list.discard.hidden = true;
    list.sure.querySelector("button").focus();
  };
  const answer = (really) => {
    if (list.sure.hidden) return;
    list.sure.hidden = true;
    if (really) {
      gone = [];
      decide({ type: "discard" }, "All decisions are discarded. Undo brings them back.");
    }
    draw();
    (really ? list.close : list.discard).focus();
  };
  const makeList = () => {
    const picker = make("input", { type: "file", accept: ".json,application/json", hidden: true });
    picker.addEventListener("change", () => {
      if (picker.files.length) open(picker.files[0]);
      picker.value = "";
    });
    const code = make("code", {}, run.command);
    const sure = { class: "sure", role: "group", "aria-label": "Discard all decisions?", hidden: true };
    const made = {
      dialog: make("dialog", { id: "decisions", "aria-labelledby": "decisions-title" }),
      state: make("p"),
      said: make("p", { class: "said", role: "status" }),
      rows: make("ul", { class: "rows" }),
      gone: make("ul"),
      goneBox: make("div", { class: "warning" }, make("h3", {}, "Not taken up")),
      save: action("Save decisions.json", save, { class: "primary" }),
      discard: action("Discard all", ask),
      close: action("Close", () => made.dialog.close()),
      sure: make("span", sure, "Discard all? ", action("Yes", () => answer(true)), action("No", () => answer(false))),
      next: make("div", {}, make("h3", {}, "To apply them"), make("p", {}, "Save the file and run this where it lies:"),
        make("p", { class: "command" }, code, action("Copy", () => copy(code), { "aria-label": "Copy the command" }))),
    };
    made.goneBox.append(made.gone);
    const opened = action("Open decisions…", () => picker.click());
    const head = make("div", { class: "bar" }, make("h2", { id: "decisions-title" }, "Decisions"), made.close);
    const buttons = make("p", { class: "buttons" }, made.save, opened, made.discard, made.sure);
    made.dialog.append(head, made.state, made.rows, made.goneBox, buttons, picker, made.said, made.next);
    made.dialog.addEventListener("close", () => answer(false));
    return made;
  };

  // ---- the bar, which stays in sight -------------------------------------------------------------------------------
  const makeBar = () => {
    const made = {
      count: action("", show, { class: "total", "aria-haspopup": "dialog" }),
      undo: action("Undo", undo, { "aria-keyshortcuts": "Control+Z" }),
      redo: action("Redo", redo, { "aria-keyshortcuts": "Control+Shift+Z" }),
      save: action("Save", save, { class: "primary" }),
      said: make("p", { class: "said", role: "status" }),
      images: make("span", { class: "steps", hidden: true }),
    };
    made.history = make("span", { class: "steps history" }, made.count, made.undo, made.redo, made.save);
    const parts = [made.images, made.history, made.said];
    made.box = make("section", { id: "corrections", "aria-label": "Corrections" }, ...parts);
    return made;
  };
  const drawBar = () => {
    bar.history.hidden = !(decisions.count() || decisions.canUndo() || decisions.canRedo());
    bar.box.hidden = bar.history.hidden && bar.images.hidden;
    root.classList.toggle("correcting", !bar.box.hidden);
  };
  /** Where a dialog is open, all beneath it is out of reach: the bar goes along. */
  const placeBar = () => {
    const place = element("large").open ? element("large") : element("sheet").open ? element("sheet") : document.body;
    if (bar.box.parentElement !== place) place.append(bar.box);
  };

  // ---- the page -----------------------------------------------------------------------------------------------------
  const changed = () => {
    say(""); // of the last step; who made this one may say something
    keep();
    document.dispatchEvent(new Event("decisions"));
  };
  const listen = () => {
    document.addEventListener("decisions", draw);
    document.addEventListener("keydown", (event) => {
      const typing = event.target.matches("input, select, textarea");
      if (!(event.ctrlKey || event.metaKey) || event.altKey || typing) return;
      const key = event.key.toLowerCase();
      const step = key === "y" || (key === "z" && event.shiftKey) ? redo : key === "z" ? undo : null;
      if (step?.()) event.preventDefault();
    });
    addEventListener("dragover", (event) => {
      if (event.dataTransfer.types.includes("Files")) event.preventDefault();
    });
    addEventListener("drop", (event) => {
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      open(event.dataTransfer.files[0]);
    });
    // Another window of the same page has decided something.
    addEventListener("storage", (event) => {
      if (event.key !== memory() || event.newValue === text()) return;
      if (event.newValue) say(takeUp(event.newValue, "another window", replace));
      else decide({ type: "discard" }, "The decisions were discarded in another window.");
    });
    addEventListener("beforeunload", (event) => {
      if (decisions.count() && !kept && saved !== text()) event.preventDefault();
    });
    const watch = new MutationObserver(placeBar);
    for (const id of ["sheet", "large"]) watch.observe(element(id), { attributeFilter: ["open"] });
  };

  function init() {
    run = read("run");
    const { predictions, version, classes: count } = run;
    const size = (label) => classes[label].size;
    const original = { name: current.nameOf, size, label: (id) => imageOf(id)?.label, part: run.part };
    decisions = makeDecisions({ predictions, version, classes: count }, original, changed);
    const { nameOf, classOf, classOfLabel, groupOf, movedTo } = decisions;
    Object.assign(current, { nameOf, classOf, classOfLabel, groupOf, movedTo });
    cardTools.push(classTools.of);
    sheetTools.push(classTools.inSheet);
    tileTools.push(selection.dress);
    [list, bar] = [makeList(), makeBar()];
    opener = action("", show, { "aria-haspopup": "dialog" });
    element("tools").append(opener);
    document.body.append(list.dialog, bar.box);
    chooser.init();
    selection.init(bar);
    const before = recall();
    if (before) say(takeUp(before, "this browser", decisions.begin));
    draw();
    listen();
  }

  return { init, action, decide, inWords, keyOf, drawBar };
})();
