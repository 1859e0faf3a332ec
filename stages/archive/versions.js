"use strict";
// The page of all versions. Its data are JSON in the page; every text of theirs is shown as text, never parsed as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byName = new Map(data.versions.map((version) => [version.name, version]));
  const PICTURES = 60; // shown at a time
  const SLICES = 20; // of those that changed most
  const PARAMETERS = 8; // that may vary before their columns are hidden at first
  const at = (id) => document.getElementById(id);

  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") node.addEventListener(name, value);
      else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== undefined));
    return node;
  };
  const link = (text, address) => (/^[\w./-]+$/.test(address || "") ? make("a", { href: address }, text) : text);
  const badge = (text, tone, sign) => make("span", { class: `badge ${tone}` }, `${sign} ${text}`);
  const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));
  const share = (value) => (value === null || value === undefined ? "–" : value.toFixed(4));
  const between = (ends) => (ends && ends[0] !== null ? ` (${ends[0].toFixed(3)} to ${ends[1].toFixed(3)})` : "");
  const sum = (values) => Object.values(values || {}).reduce((total, value) => total + value, 0);
  const day = (time) => time.replace("T", " ").replace("Z", "");

  // ---- tables ----

  const cell = (column, text) => make("td", { class: column.n ? "n" : column.long ? "long" : /^\S{1,24}$/.test(text) ? "word" : undefined }, text);

  // columns: {title, value(row) -> what it is sorted by, show(row) -> text or node, n: a figure, long: a text}
  const table = (columns, rows, { label, tall, sorted, name } = {}) => {
    const body = make("tbody");
    const made = new Map(rows.map((row) => [row, make("tr", name ? { "data-name": name(row) } : {}, ...columns.map((column) =>
      cell(column, (column.show || column.value)(row) ?? "–")))]));
    const heads = columns.map((column, position) => make("th", { scope: "col", class: column.n ? "n" : undefined },
      sorted === undefined ? column.title : make("button", { type: "button", click: () => sort(position) }, column.title)));
    const order = (a, b) => {
      const known = (value) => value !== null && value !== undefined && value !== "";
      if (!known(a) || !known(b)) return known(b) - known(a); // what is not known comes last, both ways
      return undefined;
    };
    const sort = (position, down) => {
      const head = heads[position], value = columns[position].value;
      const state = head.getAttribute("aria-sort");
      const falling = down ?? (state === "none" ? Boolean(columns[position].n) : state === "ascending"); // figures: the highest first
      const turn = falling ? -1 : 1;
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const keyed = rows.map((row) => [value(row), row]);
      keyed.sort(([a], [b]) => order(a, b) ?? turn * (typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true })));
      body.append(...keyed.map(([, row]) => made.get(row)));
    };
    if (sorted === undefined) body.append(...made.values());
    else {
      for (const head of heads) head.setAttribute("aria-sort", "none");
      sort(sorted, true);
    }
    const node = make("div", { class: tall ? "scroll tall" : "scroll", tabindex: "0", role: "region", "aria-label": label },
      make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body));
    return { node, made };
  };
  const plain = (label, titles, rows) => table(titles.map((title, position) => ({
    title, n: position > 0 && rows.every((row) => typeof row[position] === "number"), long: false,
    value: (row) => row[position], show: (row) => (typeof row[position] === "number" ? number(row[position]) : row[position]),
  })), rows, { label }).node;

  // ---- all versions ----

  const values = (version, position) => (version.params ? data.params.values[version.params[position]] : undefined);
  const varying = data.params.names.map((name, position) => ({ name, position }))
    .filter(({ position }) => new Set(data.versions.filter((version) => version.params).map((version) => version.params[position])).size > 1);
  const groups = { attributes: true, parameters: varying.length <= PARAMETERS };
  const chosen = []; // names of the two versions side by side

  const columns = () => [
    { title: "Version", value: (version) => Number(version.name.slice(1)), show: (version) => make("label", {},
      make("input", { type: "checkbox", "aria-label": `compare ${version.name}`, change: (event) => choose(version.name, event.target.checked) }), ` ${version.name}`) },
    { title: "Made, UTC", value: (version) => version.created, show: (version) => link(day(version.created), version.report) },
    { title: "Card", value: (version) => (version.card ? "card" : ""), show: (version) => (version.card ? link("model card", version.card) : "–") },
    { title: "Released", value: (version) => version.state, show: (version) => (version.state === "champion" ? badge("champion", "good", "✓") : version.state ? badge("released", "plain", "–") : "no") },
    { title: "Gate", value: (version) => (version.fit ? "fit" : "not fit"), show: (version) => (version.fit ? badge("fit", "good", "✓") : badge("not fit", "bad", "✗")) },
    { title: "Accuracy", n: true, value: (version) => version.accuracy, show: (version) => share(version.accuracy) },
    { title: "Balanced accuracy", n: true, value: (version) => version.balanced, show: (version) => share(version.balanced) },
    ...(groups.attributes ? data.attributes.map((attribute, position) => ({
      title: attribute.title, n: true, value: (version) => version.attributes?.[position]?.accuracy, show: (version) => share(version.attributes?.[position]?.accuracy) })) : []),
    { title: "Lots", n: true, value: (version) => version.lots.length, show: (version) => number(version.lots.length) },
    { title: "Images", n: true, value: (version) => version.images, show: (version) => number(version.images) },
    { title: "Labels", n: true, value: (version) => version.labels, show: (version) => number(version.labels) },
    { title: "Seconds", n: true, value: (version) => (version.seconds ? Math.round(sum(version.seconds)) : undefined), show: (version) => (version.seconds ? number(Math.round(sum(version.seconds))) : "–") },
    ...(groups.parameters ? varying.map(({ name, position }) => ({ title: name, n: true, value: (version) => asNumber(values(version, position)), show: (version) => values(version, position) ?? "–" })) : []),
    { title: "Reasons of the gate", long: true, value: (version) => version.reasons.join("; ") },
  ];
  const asNumber = (text) => (text === undefined || text === "" || Number.isNaN(Number(text)) ? text : Number(text));

  const words = new Map(data.versions.map((version) => [version, [
    version.name, version.created, version.state || "unreleased", version.fit ? "fit" : "unfit", version.reasons.join(" "), version.model, version.against,
    ...version.lots.map((lot) => data.lots[lot]), ...(version.params || []).map((value, position) => `${data.params.names[position]}=${data.params.values[value]}`),
  ].join(" ").toLowerCase()]));
  const wordsOfRun = new Map(data.runs.map((run) => [run, `${run.time} ${run.run} ${run.version}`.toLowerCase()]));

  let shown, shownRuns;
  const filter = () => {
    const wanted = at("words").value.toLowerCase().split(/\s+/).filter(Boolean), which = at("which").value;
    const has = (text) => wanted.every((word) => text.includes(word));
    const kinds = { "": () => true, released: (version) => version.state !== "", fit: (version) => version.fit, unfit: (version) => !version.fit };
    let count = 0;
    for (const [version, row] of shown.made) {
      row.hidden = !(has(words.get(version)) && kinds[which](version));
      count += !row.hidden;
    }
    for (const [run, row] of shownRuns.made) row.hidden = !has(wordsOfRun.get(run)) && !has(words.get(byName.get(run.version)) || "");
    at("count").textContent = `${number(count)} of ${number(data.versions.length)} versions. Choose two to compare them below.`;
  };
  const draw = () => {
    shown = table(columns(), data.versions, { label: "All versions", tall: true, sorted: 0, name: (version) => version.name });
    at("versions").replaceChildren(shown.node);
    filter();
    mark();
  };
  const mark = () => {
    for (const [version, row] of shown.made) {
      const here = chosen.includes(version.name);
      row.classList.toggle("chosen", here);
      row.querySelector("input").checked = here;
    }
    at("first").value = chosen[0] || "";
    at("second").value = chosen[1] || "";
  };
  const choose = (name, on) => {
    if (!on) chosen.splice(chosen.indexOf(name), 1);
    else if (chosen.push(name) > 2) chosen.shift();
    mark();
    compare();
  };

  // ---- two side by side ----

  const differs = (first, second) => {
    const said = (version) => {
      const found = new Map();
      for (let k = 0; k < version.unlike.length; k += 3) found.set(`${version.unlike[k]} ${version.unlike[k + 1]}`, version.unlike[k + 2]);
      return (image, column) => found.get(`${image} ${column}`) ?? data.images[image][3][column];
    };
    const theirs = new Set(data.sets[second.set]), common = data.sets[first.set].filter((image) => theirs.has(image));
    const both = Object.keys(first.attributes).filter((column) => second.attributes[column]);
    const [one, other] = [said(first), said(second)];
    const found = { images: common.length, labels: 0, first: 0, second: 0, unlike: [] };
    for (const image of common) for (const column of both) {
      const [label, a, b] = [data.images[image][2][column], one(image, column), other(image, column)];
      if (label >= 0) found.labels += 1;
      if (label >= 0 && a === label && b !== label) found.first += 1;
      if (label >= 0 && b === label && a !== label) found.second += 1;
      if (a !== b) found.unlike.push({ image, column, label, a, b });
    }
    return { ...found, slices: slices(common, both, one, other) };
  };

  // pairs of classes of two attributes with the largest numbers of changed answers
  const slices = (common, both, one, other) => {
    const found = new Map(), label = (image, column) => data.images[image][2][column];
    const right = (said, image, column) => said(image, column) === label(image, column);
    for (const image of common) {
      const known = both.filter((column) => label(image, column) >= 0);
      for (const column of known.filter((each) => right(one, image, each) !== right(other, image, each)))
        known.forEach((first, k) => known.slice(k + 1).forEach((second) => {
          const pair = [[first, label(image, first)], [second, label(image, second)]], key = JSON.stringify([pair, column]);
          if (!found.has(key)) found.set(key, { pair, column, lost: 0, won: 0 });
          found.get(key)[right(one, image, column) ? "lost" : "won"] += 1;
        }));
    }
    const most = [...found.values()].sort((a, b) => Math.abs(b.lost - b.won) - Math.abs(a.lost - a.won)).slice(0, SLICES);
    return most.map(({ pair, column, lost, won }) => {
      const images = common.filter((image) => label(image, column) >= 0 && pair.every(([each, answer]) => label(image, each) === answer));
      const accuracy = (said) => share(images.filter((image) => right(said, image, column)).length / images.length);
      const name = pair.map(([each, answer]) => `${data.attributes[each].title}: ${data.attributes[each].classes[answer]}`).join(", ");
      return [name, data.attributes[column].title, images.length, accuracy(one), accuracy(other), lost, won];
    });
  };

  const curve = (title, name, first, second) => {
    const lines = [first, second].map((version) => version.curves.epoch.map((epoch, k) => [epoch, version.curves[name][k]]).filter(([, value]) => value !== null));
    const points = lines.flat();
    if (!points.length) return undefined;
    const [low, high] = [Math.min(...points.map(([, y]) => y)), Math.max(...points.map(([, y]) => y))], last = Math.max(...points.map(([x]) => x));
    const svg = (tag, attributes) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      return node;
    };
    const x = (epoch) => (last > 1 ? (100 * (epoch - 1)) / (last - 1) : 50), y = (value) => (high > low ? (100 * (high - value)) / (high - low) : 50);
    const ends = lines.map((line) => (line.length ? share(line[line.length - 1][1]) : "–"));
    const drawing = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img",
      "aria-label": `${title} over ${last} epochs: ${first.name} ends at ${ends[0]}, ${second.name} at ${ends[1]}` });
    lines.forEach((line, k) => drawing.append(svg("path", { class: k ? "line second" : "line",
      d: line.map(([epoch, value], j) => `${j ? "L" : "M"}${x(epoch).toFixed(2)} ${y(value).toFixed(2)}`).join(" ") })));
    return make("figure", { class: "box chart" }, make("figcaption", {}, make("b", {}, title), make("span", {}, `at the end ${ends[0]} and ${ends[1]}`)),
      make("div", { class: "area" }, make("div", { class: "scale" }, make("span", {}, share(high)), make("span", {}, share(low))), drawing,
        make("div", { class: "ends" }, make("span", {}, "epoch 1"), make("span", {}, `epoch ${last}`))));
  };

  const figures = (first, second) => {
    const rows = [], difference = (a, b) => (a === null || a === undefined || b === null || b === undefined ? "–" : `${b - a < 0 ? "−" : "+"}${Math.abs(b - a).toFixed(4)}`);
    const add = (title, a, b, ends = [undefined, undefined]) => rows.push([title, share(a) + between(ends[0]), share(b) + between(ends[1]), difference(a, b)]);
    add("Mean accuracy", first.accuracy, second.accuracy);
    add("Mean balanced accuracy", first.balanced, second.balanced);
    const classes = [], lots = [];
    data.attributes.forEach((attribute, column) => {
      const [a, b] = [first.attributes?.[column], second.attributes?.[column]];
      if (!a && !b) return;
      add(attribute.title, a?.accuracy, b?.accuracy, [a?.interval, b?.interval]);
      attribute.classes.forEach((name) => {
        const [c, d] = [a, b].map((figures) => figures?.per_class.find((row) => row[0] === name));
        for (const [what, k] of [["precision", 2], ["recall", 5]]) if (c || d)
          classes.push([`${attribute.title}: ${name}, ${what}`, share(c?.[k]) + between(c?.slice(k + 1, k + 3)), share(d?.[k]) + between(d?.slice(k + 1, k + 3)), difference(c?.[k], d?.[k])]);
      });
    });
    for (const lot of new Set([...Object.keys(first.by_lot || {}), ...Object.keys(second.by_lot || {})])) {
      const [a, b] = [first.by_lot?.[lot], second.by_lot?.[lot]], cell = (counts) => (counts ? `${share(counts[1])} of ${number(counts[0])}` : "–");
      lots.push([data.lots[lot], cell(a), cell(b), difference(a?.[1], b?.[1])]);
    }
    return { rows, classes, lots };
  };
  const folded = (title, ...nodes) => make("details", {}, make("summary", {}, title), ...nodes);
  const heading = (text) => make("h3", {}, text);
  const note = (text) => make("p", { class: "sub" }, text);

  const pictures = (first, second, found) => {
    const grid = make("div", { class: "pictures" }), more = make("button", { type: "button", click: () => next() });
    let done = 0;
    const name = (column, answer) => (answer >= 0 ? data.attributes[column].classes[answer] : "no answer");
    const next = () => {
      for (const { image, column, label, a, b } of found.unlike.slice(done, done + PICTURES)) {
        const [digest, file] = data.images[image], picture = make("img", { src: /^[0-9a-f]+$/.test(digest) ? `pictures/${digest}.jpg` : undefined, alt: `picture of ${file}`, loading: "lazy",
          error: (event) => event.target.replaceWith(make("div", { class: "tile" }, "picture not kept")) });
        grid.append(make("figure", {}, picture, make("figcaption", {}, make("span", {}, file), make("span", {}, `${data.attributes[column].title}: ${label >= 0 ? data.attributes[column].classes[label] : "label unknown"}`),
          make("span", {}, `${first.name} ${a === label ? "✓" : label >= 0 ? "✗" : ""} ${name(column, a)}`), make("span", {}, `${second.name} ${b === label ? "✓" : label >= 0 ? "✗" : ""} ${name(column, b)}`))));
      }
      done = Math.min(done + PICTURES, found.unlike.length);
      more.hidden = done >= found.unlike.length;
      more.textContent = `Show more: ${number(done)} of ${number(found.unlike.length)} shown`;
    };
    next();
    return [grid, more];
  };

  const compare = () => {
    const [first, second] = chosen.map((name) => byName.get(name)), parts = [], titles = (title) => [title, first.name, second.name];
    if (!second) {
      at("compare").replaceChildren(note("Choose two versions, in the table or here."));
      return;
    }
    const { rows, classes, lots } = figures(first, second);
    parts.push(heading("Figures"), note("Each version on its own test images; in brackets the interval that contains the true figure with 95 % (Wilson). The difference is the second minus the first."),
      plain("Figures", [...titles("Measure"), "Difference"], rows));
    if (classes.length) parts.push(folded("Classes: precision and recall", plain("Classes", [...titles("Class"), "Difference"], classes)));
    if (lots.length) parts.push(folded("Lots: accuracy of all answers, and test labels", plain("Lots", [...titles("Lot"), "Difference"], lots)));
    const old = [first, second].filter((version) => !version.attributes).map((version) => version.name);
    if (old.length) parts.push(note(`${old.join(" and ")} was registered by earlier code, which stored no further figures for this page.`));
    else {
      const found = differs(first, second);
      parts.push(heading("Test images that both answer differently"));
      parts.push(note(found.images ? `${number(found.images)} of the kept test images are the same (by picture), with ${number(found.labels)} labels of attributes that both answer. Only ${first.name} is right on ${number(found.first)} of these labels, only ${second.name} on ${number(found.second)}. ${number(found.unlike.length)} answers differ.`
        : "They share no test image, so their figures are from different pictures."));
      if (found.slices.length) parts.push(folded("Slices: pairs of classes that changed most, on these images",
        note("Among so many slices, chance alone makes some change. The release gate tests for that; see the report of a version."),
        plain("Slices", ["Images of", "Attribute", "Labels", first.name, second.name, `only ${first.name} right`, `only ${second.name} right`], found.slices)));
      if (found.unlike.length) parts.push(...pictures(first, second, found));
      const curves = [["Loss on training images", "train_loss"], ["Loss on validation images", "val_loss"], ["Accuracy on validation images", "val_mean_accuracy"]].map(([title, name]) => curve(title, name, first, second)).filter(Boolean);
      if (curves.length) parts.push(heading("Training"), make("p", { class: "key" }, make("span", {}, first.name), make("span", {}, second.name)), make("div", { class: "bunch" }, ...curves));
      const changed = data.params.names.map((name, k) => [name, values(first, k) ?? "–", values(second, k) ?? "–"]).filter(([, a, b]) => a !== b);
      parts.push(heading("Changes of parameters"), changed.length ? plain("Parameters", titles("Parameter"), changed) : note("Nothing."),
        heading("Changes of data"), ...changes(first, second));
      const stages = [...new Set([...Object.keys(first.seconds), ...Object.keys(second.seconds)])];
      parts.push(heading("Seconds"), plain("Seconds", titles("Stage"), [...stages.map((stage) => [stage, ...[first, second].map((version) => number(version.seconds[stage] && Math.round(version.seconds[stage])))]), ["all", number(Math.round(sum(first.seconds))), number(Math.round(sum(second.seconds)))]]));
    }
    parts.push(heading("Verdict of the gate"), plain("Gate", titles(""), [["verdict", first.fit ? "fit" : "not fit", second.fit ? "fit" : "not fit"], ["against", first.against || "nothing", second.against || "nothing"], ["reasons", first.reasons.join("; "), second.reasons.join("; ")], ["model", first.model, second.model]]));
    at("compare").replaceChildren(...parts);
  };
  const changes = (first, second) => {
    const named = (lots) => `${lots.slice(0, 20).map((lot) => data.lots[lot]).join(", ")}${lots.length > 20 ? ` and ${lots.length - 20} more` : ""}` || "none";
    const only = (one, other) => named(one.lots.filter((lot) => !other.lots.includes(lot)));
    const inputs = [...new Set([...Object.keys(first.inputs), ...Object.keys(second.inputs)])];
    const rows = [["images", number(first.images), number(second.images)], ["labels", number(first.labels), number(second.labels)],
      ...["train", "val", "test"].map((split) => [`images of ${split}`, number(first.splits[split]), number(second.splits[split])]),
      ["lots", number(first.lots.length), number(second.lots.length)], ["lots of this version only", only(first, second), only(second, first)],
      ...inputs.map((input) => [`digest of ${input}`, first.inputs[input] ?? "–", second.inputs[input] ?? "–"])];
    return [plain("Data", ["", first.name, second.name], rows)];
  };

  // ---- start ----

  const counted = (things, name) => `${number(things.length)} ${name}${things.length === 1 ? "" : "s"}`;
  at("made").textContent = `${counted(data.versions, "version")} and ${counted(data.runs, "run")}, as of ${day(data.made)} UTC.`;
  for (const id of ["first", "second"]) {
    at(id).append(make("option", { value: "" }, "–"), ...data.versions.map((version) => make("option", { value: version.name }, version.name)).reverse());
    at(id).addEventListener("change", () => {
      chosen.splice(0, 2, ...[...new Set([at("first").value, at("second").value])].filter(Boolean));
      mark();
      compare();
    });
  }
  for (const [name, title, there] of [["attributes", "Attributes", data.attributes.length], ["parameters", "Parameters that vary", varying.length]]) if (there)
    at("groups").append(make("label", { class: "tick" }, make("input", { type: "checkbox", checked: groups[name], change: (event) => { groups[name] = event.target.checked; draw(); } }), title));
  shownRuns = table([
    { title: "Made, UTC", value: (run) => run.time, show: (run) => link(day(run.time), run.page) },
    { title: "Run", value: (run) => run.run, show: (run) => run.run || "by hand" },
    { title: "Version", value: (run) => run.version },
    { title: "Champion at the time", value: (run) => run.champion },
    { title: "Accuracy", n: true, value: (run) => run.accuracy, show: (run) => share(run.accuracy) },
  ], data.runs, { label: "Runs", tall: true, sorted: 0 });
  at("runs").append(data.runs.length ? shownRuns.node : note("None."));
  at("releases").append(data.releases.length ? plain("Releases", ["Time, UTC", "Version", "Action", "Reason"], data.releases.map((release) => [day(release.time), release.version, release.action, release.reason]).reverse()) : note("None."));
  at("words").addEventListener("input", filter);
  at("which").addEventListener("change", filter);
  draw();
  const champion = data.versions.findLast((version) => version.state === "champion"), newest = data.versions[data.versions.length - 1];
  if (champion && champion !== newest) chosen.push(champion.name, newest.name);
  else if (data.versions.length > 1) chosen.push(data.versions[data.versions.length - 2].name, newest.name);
  mark();
  compare();
  at("unscripted").hidden = true;
  at("page").hidden = false;
})();
