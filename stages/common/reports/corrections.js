"use strict";
// Lets people correct the labels of the pictures on a report. Every text of data is shown as text, never parsed as HTML.
// Airflow's plugin saves corrections; in a copy of the report they are downloaded. Both are the same CSV: filename, a
// column per attribute with the name of the right class (or unknown, where nobody can tell it), corrected_by,
// corrected_at (UTC).
(() => {
  const attributes = JSON.parse(document.getElementById("attributes").textContent);
  const REPORTS = location.pathname.match(/^(.*)\/[a-z0-9_]+\/(?:[0-9a-f]{64}|failed-[0-9a-f]+)\//)?.[1]; // in Airflow
  const PLUGIN = `${REPORTS}/corrections`;
  const UNKNOWN = "unknown"; // for stage validate: the label cannot be told; no class has this name
  const MOST_BUTTONS = 9; // more classes, for which there are no keys, are a list
  const figures = [...document.querySelectorAll("figure[data-labels]")];
  const questions = []; // those that are made, in the order of the page
  const changed = new Map(); // key -> what is not saved yet: {filename, column, class}
  const saved = new Map(); // key -> the newest correction that is saved: {class, by, at}
  const key = (filename, column) => JSON.stringify([filename, column]);

  const make = (tag, properties = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (typeof value === "function") node.addEventListener(name, value);
      else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children);
    return node;
  };
  const count = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
  const time = (at) => at.replace("T", " ").replace("Z", " UTC");

  // ---- a question: which class an attribute of a picture has ----

  const choose = (question, chosen) => {
    if (chosen === undefined || chosen === before(question)) changed.delete(question.key);
    else changed.set(question.key, { filename: question.filename, column: question.column, class: chosen });
    show();
  };
  const before = (question) => saved.get(question.key)?.class ?? question.label;

  const ask = (labels, at) => {
    const { title, column, classes } = attributes[at];
    const answers = [...classes, UNKNOWN];
    const label = labels.known[at] === null ? UNKNOWN : classes[labels.known[at]];
    const question = { key: key(labels.filename, column), filename: labels.filename, column, classes, label };
    const suggested = classes[labels.suggested[at]];
    const told = make("span", { class: "told" });
    const box = make("div", { class: "classes" });
    if (classes.length > MOST_BUTTONS) {
      const list = make("select", { "aria-label": title, change: () => choose(question, list.value) },
        ...answers.map((name) => make("option", { value: name }, name)));
      question.show = (chosen) => { list.value = chosen; };
      box.append(list);
    } else {
      const buttons = answers.map((name, position) => make("button",
        { type: "button", tabindex: "-1", class: name === suggested ? "suggested" : undefined, click: () => choose(question, name) },
        `${position < classes.length ? position + 1 : "U"} ${name}`));
      question.show = (chosen) => buttons.forEach((button, position) =>
        button.setAttribute("aria-pressed", String(answers[position] === chosen)));
      box.append(...buttons);
      question.buttons = buttons;
    }
    question.told = told;
    question.node = make("div", { class: "ask", role: "group", tabindex: "0", "aria-label": `${title} of ${labels.filename}` },
      make("b", {}, title), box, told);
    question.node.addEventListener("keydown", (event) => press(event, question));
    questions.push(question);
    return question;
  };

  const show = () => {
    for (const question of questions) {
      const change = changed.get(question.key), done = saved.get(question.key);
      question.show(change?.class ?? before(question));
      question.node.classList.toggle("changed", Boolean(change));
      const annotated = `annotated ${question.label}`;
      const by = done ? `; ${done.class} by ${done.by}, ${time(done.at)}` : "";
      question.told.textContent = change ? `${annotated}${by}; now ${change.class}, not saved` : `${annotated}${by}`;
    }
    bar.show?.();
  };

  // ---- the keyboard ----

  const seen = () => [...document.querySelectorAll(".ask")].filter((node) => node.getClientRects().length);
  const go = (from, steps) => {
    const all = seen();
    all[Math.min(Math.max(all.indexOf(from) + steps, 0), all.length - 1)]?.focus();
  };
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const press = (event, question) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    if (STEPS[event.key]) go(question.node, STEPS[event.key]);
    else if (event.key === "0") choose(question, undefined);
    else if (event.key.toLowerCase() === "u") choose(question, UNKNOWN);
    else if (/^[1-9]$/.test(event.key) && question.classes[event.key - 1]) choose(question, question.classes[event.key - 1]);
    else return;
    event.preventDefault();
  };

  // ---- the bar below ----

  const status = make("p", { role: "status" });
  const row = make("div", { class: "row" });
  const bar = make("section", { class: "corrections", "aria-label": "Corrections" });
  const say = (text, ...nodes) => status.replaceChildren(text, ...nodes);
  const help = () => make("p", { class: "sub" }, "Keys: ", make("kbd", {}, "Tab"), " to a label, ", make("kbd", {}, "←"), " ", make("kbd", {}, "→"),
    " to the next one, ", make("kbd", {}, "1"), " to ", make("kbd", {}, "9"), " for its class, ", make("kbd", {}, "U"), " if it cannot be told, ", make("kbd", {}, "0"), " to undo it.");

  // It stands at the end of the page, and over its lower edge where people correct: while such a picture is seen, and
  // as long as something is not saved.
  const inView = new Set();
  const place = () => {
    const over = inView.size > 0 || changed.size > 0;
    bar.classList.toggle("over", over);
    const root = document.documentElement; // what has the focus is not behind the bar
    root.style.scrollPaddingBottom = document.body.style.paddingBottom = over ? `${bar.offsetHeight + 12}px` : "";
  };
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) inView[isIntersecting ? "add" : "delete"](target);
    place();
  });

  const start = () => {
    for (const figure of figures) {
      const labels = JSON.parse(figure.dataset.labels);
      if (within.test(labels.filename)) continue;
      observer.observe(figure);
      const others = attributes.map((_, at) => at).filter((at) => !labels.asked.includes(at));
      figure.append(...labels.asked.map((at) => ask(labels, at).node));
      if (!others.length) continue;
      const more = make("details", {}, make("summary", {}, labels.asked.length ? "other labels" : "labels"));
      more.addEventListener("toggle", () => { // made on request: there may be many
        if (more.open && more.children.length === 1) { more.append(...others.map((at) => ask(labels, at).node)); show(); }
      });
      figure.append(more);
    }
    const clear = make("button", { type: "button", click: () => { changed.clear(); show(); } }, "Undo all");
    row.append(clear);
    bar.append(status, row, help());
    bar.show = () => {
      clear.disabled = changed.size === 0;
      bar.button.disabled = changed.size === 0;
      if (changed.size) say(`${count(changed.size, "correction")}, not saved yet.`);
      else if (!bar.said) say("No corrections yet.");
      bar.said = bar.said && !changed.size;
      place();
    };
    document.body.append(bar);
    addEventListener("beforeunload", (event) => { if (changed.size) event.preventDefault(); });
  };
  const remember = (corrections) => {
    for (const correction of corrections) saved.set(key(correction.filename, correction.column), correction); // the newest last
  };

  // ---- in Airflow ----

  const send = async (address, body) => {
    const headers = { Accept: "application/json", ...(body && { "Content-Type": "application/json" }) };
    const answer = await fetch(address, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
    const text = await answer.text();
    if (!answer.ok) throw new Error(answer.status === 401 ? "You are not logged in any more: log in again in another tab." : text.slice(0, 300));
    return JSON.parse(text);
  };

  const online = (found) => {
    if (!found.may) {
      bar.append(make("p", {}, "Your role may only view these labels. To correct them, ask for a role that may trigger DAGs."));
      document.body.append(bar);
      return;
    }
    remember(found.saved);
    if (!found.writable) {
      offline();
      bar.prepend(make("p", {}, "This data folder is not writable: download your corrections instead."));
      return;
    }
    bar.button = make("button", { type: "button", class: "save", click: save }, "Save");
    row.append(bar.button);
    start();
    for (const { dag, title } of found.starts) {
      const button = make("button", { type: "button", click: () => trigger(dag, button) }, title);
      row.append(button);
    }
    show();
  };

  const save = async () => {
    const sent = [...changed.values()];
    bar.button.disabled = true;
    try {
      const answer = await send(PLUGIN, { corrections: sent });
      const others = answer.saved.filter(({ by, filename, column, at }) => by !== answer.by && changed.has(key(filename, column))
        && saved.get(key(filename, column))?.at !== at);
      for (const correction of sent) { // a class that was chosen meanwhile stays
        const at = key(correction.filename, correction.column);
        if (changed.get(at)?.class === correction.class) changed.delete(at);
      }
      remember(answer.saved);
      bar.said = true;
      show();
      const met = others.map((other) => ` ${other.by} had corrected ${other.filename} to ${other.class} at ${time(other.at)}; your correction is newer and counts.`);
      if (!changed.size) say(`Saved ${count(sent.length, "correction")} as ${answer.file}.${met.join("")}`);
    } catch (error) {
      show();
      say(`Not saved: ${error.message}`);
    }
  };

  const trigger = async (dag, button) => {
    if (changed.size) { say(`Save the ${count(changed.size, "correction")} first, or undo them.`); return; }
    button.disabled = true;
    try {
      const run = (await send(`${REPORTS}/../api/v2/dags/${dag}/dagRuns`, { logical_date: null })).dag_run_id;
      bar.said = true;
      say(`Started ${dag}: `, make("a", { href: `${REPORTS}/dag-run/${dag}/${encodeURIComponent(run)}` }, run));
    } catch (error) {
      say(`Not started: ${error.message}`);
    }
    button.disabled = false;
  };

  // ---- in a copy of the report ----

  // Texts that a spreadsheet would run as a formula: a file name then begins with its folder, any other text with '.
  const within = /[;|]['"\s]*[-=+@＝＋－＠]/; // such an image must be corrected by hand
  const formula = /^['"\s]*[-=+@＝＋－＠]/;
  const quoted = (cell) => (/[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  const file = (by, at) => {
    const images = new Map();
    for (const change of changed.values()) images.set(change.filename, { ...images.get(change.filename), [change.column]: change.class });
    const columns = attributes.map((attribute) => attribute.column).filter((column) => [...images.values()].some((classes) => column in classes));
    const person = by.replace(/[^\p{L}\p{N}_.@ -]/gu, " ").trim();
    const who = formula.test(person) ? `'${person}` : person;
    const rows = [...images].map(([name, classes]) =>
      [formula.test(name) ? `./${name}` : name, ...columns.map((column) => classes[column] ?? ""), who, at]);
    return [["filename", ...columns, "corrected_by", "corrected_at"], ...rows].map((cells) => `${cells.map(quoted).join(",")}\n`).join("");
  };

  const offline = () => {
    const name = make("input", { "aria-label": "Your name", placeholder: "Your name", autocomplete: "name", maxlength: "100" });
    bar.button = make("button", { type: "button", class: "save", click: () => {
      const by = name.value.trim();
      if (!by) { say("Enter your name first."); name.focus(); return; }
      const at = `${new Date().toISOString().slice(0, 19)}Z`;
      const known = by.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40) || "somebody";
      const called = `corrections_${at.replaceAll(":", "")}_${known}.csv`;
      const address = URL.createObjectURL(new Blob([file(by, at)], { type: "text/csv" }));
      make("a", { href: address, download: called }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
      remember([...changed.values()].map((change) => ({ ...change, by, at })));
      const number = changed.size;
      changed.clear();
      bar.said = true;
      show();
      say(`Downloaded ${count(number, "correction")} as ${called}: put it into the folder annotations/ or corrections/ of the data.`);
    } }, "Download");
    row.append(name, bar.button);
    start();
    show();
  };

  if (location.protocol.startsWith("http") && REPORTS !== undefined) send(PLUGIN).then(online, offline);
  else offline();
})();
