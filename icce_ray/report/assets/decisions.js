// What people decide about classes and images, as plain values that never change: every action makes new ones, so
// undo is the one before. No word of the page is known here. The file is what `icce refine --decisions` reads.
const { makeDecisions, readDecisions } = (() => {
  const FORMAT = { format: "icce-decisions", version: 1 };
  const [LONGEST_NAME, MOST_PARTS] = [200, 100];
  const NOTHING = Object.freeze({ rename: {}, merge: [], split: {}, reject: [], move: {} });

  const without = (object, keys) =>
    Object.fromEntries(Object.entries(object).filter(([key]) => !keys.some((one) => String(one) === key)));
  const inOrder = (labels) => [...new Set(labels)].sort((a, b) => a - b);
  const byFirst = (groups) => [...groups].sort((a, b) => a[0] - b[0]);
  const groups = new WeakMap(); // of each state's merges: a map asks for the class of every one of its points
  const groupOf = (state, label) => {
    if (!groups.has(state.merge)) {
      groups.set(state.merge, new Map(state.merge.flatMap((group) => group.map((one) => [one, group]))));
    }
    return groups.get(state.merge).get(label) ?? [label];
  };
  /** Visible characters on one line, as a name must be. */
  const asName = (text) => {
    const visible = text.replace(/[\p{Z}\s]+/gu, " ").replace(/\p{C}/gu, "").trim();
    return [...visible].slice(0, LONGEST_NAME).join("").trim();
  };
  const finalClass = (state, label) => groupOf(state, label)[0];
  /** The state without merge, split or rejection of these classes, as each may be in one of them only. */
  const freed = (state, labels) => ({
    ...state,
    merge: state.merge.filter((group) => !group.some((label) => labels.includes(label))),
    split: without(state.split, labels),
    reject: state.reject.filter((label) => !labels.includes(label)),
  });

  /** What each action makes of a state; `original` as in `makeDecisions`. Throws what cannot be, in words. */
  const ACTIONS = {
    /** An empty name takes the name back. */
    rename(state, { label, name }, original) {
      const group = groupOf(state, label);
      const text = asName(name);
      const given = text && text !== original.name(group[0]) ? { [group[0]]: text } : {};
      return { ...state, rename: { ...without(state.rename, group), ...given } };
    },
    merge(state, { labels }) {
      const group = inOrder(labels.flatMap((label) => groupOf(state, label)));
      if (group.length < 2) throw new Error("a merge needs two classes");
      const rest = freed(state, group);
      return { ...rest, merge: byFirst([...rest.merge, group]) };
    },
    split(state, { label, parts }, original) {
      if (groupOf(state, label).length > 1) throw new Error(`class ${label} is merged; take the merge back first`);
      if (!isParts(parts)) throw new Error(`a class is split into 2 to ${MOST_PARTS} parts`);
      const [has, needs] = [original.size(label), parts * original.part];
      if (has < needs) throw new Error(`class ${label} has ${has} images, and ${parts} parts need ${needs}`);
      const rest = freed(state, [label]);
      return { ...rest, split: { ...rest.split, [label]: parts } };
    },
    /** Images that were moved to the class stay where they were. */
    reject(state, { label }) {
      const group = groupOf(state, label);
      const rest = freed(state, group);
      const elsewhere = Object.entries(rest.move).filter(([, { to }]) => !group.includes(to));
      return { ...rest, reject: inOrder([...rest.reject, ...group]), move: Object.fromEntries(elsewhere) };
    },
    /** Takes back the merge, split or rejection of a class. */
    restore: (state, { label }) => freed(state, groupOf(state, label)),
    move(state, { images, to }, original) {
      if (state.reject.includes(to)) throw new Error(`class ${to} is rejected; take that back first`);
      const move = { ...state.move };
      for (const { image_id, key } of images) {
        const own = original.label(image_id);
        const lies = own !== undefined && !state.reject.includes(own);
        if (lies && finalClass(state, own) === finalClass(state, to)) delete move[image_id];
        else move[image_id] = { key, to };
      }
      return { ...state, move };
    },
    /** Takes moves back. */
    stay: (state, { images }) => ({ ...state, move: without(state.move, images) }),
    discard: () => NOTHING,
    replace: (state, { decisions }) => decisions,
  };

  /**
   * The decisions about one run, with undo and redo.
   *
   * run: {predictions, version, classes}, as in the file. original: {name(label), size(label), label(image_id)},
   * what the page shows without any decision, and part, the fewest images of a part of a class. changed(): called after
   * every change.
   */
  function makeDecisions(run, original, changed) {
    let state = NOTHING;
    const [past, future] = [[], []];
    const step = (from, onto) => {
      if (!from.length) return false;
      onto.push(state);
      state = from.pop();
      changed();
      return true;
    };
    const nameOf = (label) => {
      const group = groupOf(state, label);
      const renamed = group.find((one) => state.rename[one]);
      return renamed === undefined ? (group.map(original.name).find(Boolean) ?? "") : state.rename[renamed];
    };
    const renamed = () => inOrder(Object.keys(state.rename).map((label) => finalClass(state, Number(label))));
    const moves = () => Object.entries(state.move).map(([id, one]) => ({ image_id: Number(id), ...one }));
    /** A merged class keeps the name that it has on the page, also where that is not the smallest number's. */
    const names = () => {
      const labels = inOrder([...renamed(), ...state.merge.map((group) => group[0])]);
      const changes = labels.filter((label) => nameOf(label) !== original.name(label));
      return Object.fromEntries(changes.map((label) => [label, nameOf(label)]));
    };
    /** Every decision: {kind, label or image_id, ..., undone: the action that removes it alone}. */
    const entries = () => {
      const restored = (label) => ({ label, undone: { type: "restore", label } });
      const named = (label) => ({ label, name: nameOf(label), undone: { type: "rename", label, name: "" } });
      return [
        ...renamed().map((label) => ({ kind: "rename", ...named(label) })),
        ...state.merge.map((group) => ({ kind: "merge", group, ...restored(group[0]) })),
        ...Object.entries(state.split).map(([label, parts]) => ({ kind: "split", parts, ...restored(Number(label)) })),
        ...state.reject.map((label) => ({ kind: "reject", ...restored(label) })),
        ...moves().map((one) => ({ kind: "move", ...one, undone: { type: "stay", images: [one.image_id] } })),
      ];
    };
    return {
      nameOf,
      entries,
      /** The class of an image with all merges and moves. */
      classOf: (id) => finalClass(state, state.move[id]?.to ?? original.label(id)),
      /** The class that a class becomes: the smallest number of those that are merged. */
      classOfLabel: (label) => finalClass(state, label),
      groupOf: (label) => groupOf(state, label),
      partsOf: (label) => state.split[label] ?? 0,
      isRejected: (label) => state.reject.includes(label),
      isMoved: (id) => id in state.move,
      movedTo: (label) => moves().filter(({ to }) => finalClass(state, to) === label).map(({ image_id }) => image_id),
      count: () => entries().length,
      canUndo: () => past.length > 0,
      canRedo: () => future.length > 0,
      undo: () => step(past, future),
      redo: () => step(future, past),
      /** Begins with decisions of earlier, which are no action of now. */
      begin(decisions) {
        state = decisions;
      },
      /** Returns whether anything changed. Throws what cannot be, in words. */
      apply(action) {
        const after = ACTIONS[action.type](state, action, original);
        if (JSON.stringify(after) === JSON.stringify(state)) return false;
        past.push(state);
        future.length = 0;
        state = after;
        changed();
        return true;
      },
      /** The content of the file. */
      document: () => ({
        ...FORMAT, run, rename: names(), merge: state.merge, split: state.split, reject: state.reject,
        move: moves().sort((a, b) => a.image_id - b.image_id),
      }),
    };
  }

  // ---- files -----------------------------------------------------------------------------------------------------
  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
  const isCount = (value) => Number.isSafeInteger(value) && value >= 0;
  const isParts = (value) => isCount(value) && value >= 2 && value <= MOST_PARTS;
  const isName = (value) => typeof value === "string" && value !== "" && asName(value) === value.trim();
  const isGroup = (value) => Array.isArray(value) && value.every(isCount) && new Set(value).size > 1;
  const isMove = (one) =>
    isObject(one) && Object.keys(one).sort().join() === "image_id,key,to" && isCount(one.image_id)
    && typeof one.key === "string" && isCount(one.to);
  const listOf = (value, test) => Array.isArray(value) && value.every(test);
  const byClass = (value, test) =>
    isObject(value) && Object.entries(value).every(([key, one]) => /^(0|[1-9][0-9]*)$/.test(key) && test(one));
  /** Every field of a file: whether it is as it must be, and how that is. */
  const FIELDS = {
    run: [isObject, "say to which run the decisions belong"],
    rename: [(value) => byClass(value, isName), "give names by class"],
    merge: [(value) => listOf(value, isGroup), "be lists of two classes or more"],
    split: [(value) => byClass(value, isParts), `give 2 to ${MOST_PARTS} parts by class`],
    reject: [(value) => listOf(value, isCount), "be a list of classes"],
    move: [(value) => listOf(value, isMove), "be a list of image_id, key and to"],
  };

  /** What is wrong with the form of a file, in words; "" where nothing is. */
  function faultOf(file) {
    if (!isObject(file) || file.format !== FORMAT.format) return "it is not a file of decisions about classes";
    if (file.version !== FORMAT.version) {
      return `its format has version ${file.version}, and this page reads version ${FORMAT.version}`;
    }
    const known = [...Object.keys(FORMAT), ...Object.keys(FIELDS)];
    const unknown = Object.keys(file).find((name) => !known.includes(name));
    if (unknown !== undefined) return `it has a field ${unknown}, which is unknown`;
    for (const [name, [test, must]] of Object.entries(FIELDS)) if (!test(file[name])) return `its ${name} must ${must}`;
    const once = new Set();
    for (const label of [...file.merge.flat(), ...Object.keys(file.split).map(Number), ...file.reject]) {
      if (once.has(label)) return `class ${label} is there more than once in merge, split and reject`;
      once.add(label);
    }
    const images = new Set();
    for (const { image_id, to } of file.move) {
      if (images.has(image_id)) return `image ${image_id} is moved twice`;
      if (file.reject.includes(to)) return `image ${image_id} is moved to class ${to}, which is rejected`;
      images.add(image_id);
    }
    return "";
  }

  /**
   * The text of a file, read for a run: {fault} in words, or {decisions, gone}.
   *
   * gone: in words, the decisions about classes and images that the run does not have; the others count.
   * imageFault(move): why an image cannot be one of this run; "" where it can.
   */
  function readDecisions(text, run, imageFault) {
    let file;
    try {
      file = JSON.parse(text);
    } catch {
      return { fault: "it is not JSON" };
    }
    const fault = faultOf(file);
    if (fault) return { fault };
    if (file.run.predictions !== run.predictions) {
      const of = `it is of version ${file.run.version}, this page of version ${run.version}`;
      return { fault: `it belongs to another run, or to other labels of this one (${of})` };
    }
    if (file.run.version !== run.version) {
      return { fault: `it belongs to version ${file.run.version} of the run; this page shows version ${run.version}` };
    }
    const gone = [];
    const there = (label, what) => label < run.classes || !gone.push(`${what}: there is no class ${label}`);
    const kept = (object, what) =>
      Object.fromEntries(Object.entries(object).filter(([label, value]) => there(Number(label), what(label, value))));
    const groups = file.merge.map((group) => group.filter((label) => there(label, `Merge of ${group.join(", ")}`)));
    const move = file.move.filter((one) => {
      const why = imageFault(one);
      if (why) gone.push(`Move of ${one.key}: ${why}`);
      return !why && there(one.to, `Move of ${one.key}`);
    });
    const decisions = {
      rename: kept(file.rename, (label, name) => `Name ${name}`),
      merge: byFirst(groups.filter((group) => group.length > 1).map(inOrder)),
      split: kept(file.split, (label) => `Split of class ${label}`),
      reject: inOrder(file.reject.filter((label) => there(label, `Rejection of class ${label}`))),
      move: Object.fromEntries(move.map(({ image_id, key, to }) => [image_id, { key, to }])),
    };
    return { decisions, gone };
  }

  return { makeDecisions, readDecisions };
})();
