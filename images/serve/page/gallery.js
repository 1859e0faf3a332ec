"use strict";
// The gallery. The address holds all that is chosen: its query is that of /search, word for word, and behind the # stands
// an image that is open, or one that others look like. So a view can be bookmarked, and the browser's back button works.

const counted = new Intl.NumberFormat("en").format;
const percent = share => `${(100 * share).toFixed(share > 0.99 && share < 1 ? 1 : 0)} %`;
const AGAIN_MS = 2000;
const ANSWERED = {"": "either", yes: "all attributes", no: "not all"};
const LABELS = {agrees: "all agree", differs: "one differs", none: "no label"};

let known = ""; // attributes and lots of the controls
let titles = {}; // attribute -> title
let parameters = {}; // attribute -> its name in an address
let rows = []; // on this page
let listed = null; // what they were found for
let opener = null; // image whose card had the focus before the dialog
let asking = new AbortController();
let again = 0;

// An element with properties and children; text is never taken for HTML.
function build(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const words = () => new URLSearchParams(location.search);
const view = () => new URLSearchParams(location.hash.slice(1));
const at = (like, image) => [like && `like=${like}`, image && `image=${image}`].filter(Boolean).join("&");
const field = name => element("filters").elements[name];

// Go to other words, or to another view, and show what is there.
function go(query, hash = "", replace = false) {
  const text = query.toString();
  const address = location.pathname + (text && `?${text}`) + (hash && `#${hash}`);
  history[replace ? "replaceState" : "pushState"](null, "", address);
  show();
}

// The words that the controls ask for.
function chosen(page = 1) {
  const query = new URLSearchParams();
  for (const [name, value] of new FormData(element("filters"))) {
    if (value && !(name === "min_confidence" && Number(value) === 0)) query.append(name, value);
  }
  if (element("sort").value !== "file") query.set("sort", element("sort").value);
  if (page > 1) query.set("page", page);
  return query;
}

// ---- asking ----

async function show() {
  clearTimeout(again);
  asking.abort();
  asking = new AbortController();
  const {signal} = asking, wanted = `${words()}#${view().get("like") || ""}`;
  try {
    if (wanted !== listed) await find(signal);
    listed = wanted;
    await open(signal);
  } catch (error) {
    if (signal.aborted) return;
    listed = null;
    refuse(error);
  }
}

async function find(signal) {
  const query = words(), like = view().get("like");
  listed = null;
  element("found").setAttribute("aria-busy", "true");
  const result = await ask(`search?${query}`, {signal});
  prepare(result);
  fill(query, result);
  const alike = like && await ask(similar(query, like), {signal});
  rows = like ? alike.rows : result.rows;
  element("total").textContent = like
    ? `The ${counted(rows.length)} most similar of ${counted(result.total)} images`
    : `${counted(result.total)} of ${counted(result.images)} images`;
  element("like").hidden = !like;
  if (like) showLike(alike.image);
  element("order").hidden = Boolean(like);
  element("pages").hidden = Boolean(like) || result.pages < 2;
  list(query);
  tell(result.problem || stale(result), false);
}

function similar(query, like) {
  const asked = new URLSearchParams(query);
  for (const name of ["page", "sort"]) asked.delete(name);
  asked.set("image", like);
  return `similar?${asked}`;
}

function stale({champion, version}) {
  if (!champion || champion === version) return "";
  return `These are the answers of ${version}: stage predict has not run with ${champion} yet.`;
}

function tell(text, bad) {
  element("notice").textContent = text;
  element("notice").hidden = !text;
  element("notice").classList.toggle("bad", bad);
}

function refuse(error) {
  element("found").removeAttribute("aria-busy");
  if (error.status === 401) return; // the form is there
  const passing = !error.status || error.status === 503;
  tell(error.message, !passing);
  if (passing) again = setTimeout(show, AGAIN_MS);
}

// ---- filters ----

// Make the controls, once for the attributes and lots that there are.
function prepare(result) {
  const lots = Object.keys(result.lots);
  const attributes = result.attributes;
  const all = JSON.stringify([attributes.map(of => [of.parameter, of.title, Object.keys(of.counts)]), lots]);
  if (all === known) return;
  known = all;
  titles = Object.fromEntries(attributes.map(attribute => [attribute.name, attribute.title]));
  parameters = Object.fromEntries(attributes.map(attribute => [attribute.name, attribute.parameter]));
  element("attributes").replaceChildren(...attributes.map(attribute => {
    const choices = Object.keys(attribute.counts).map(value => choice("checkbox", attribute.parameter, value, value));
    return build("fieldset", {}, build("legend", {textContent: attribute.title}), ...choices);
  }));
  addChoices("answered", "radio", "answered", ANSWERED);
  addChoices("labels", "checkbox", "label", LABELS);
  element("lot").replaceChildren(option("", "all"), ...lots.map(lot => option(lot, lot)));
  const orders = [option("file", "file"), option("-file", "file, backwards")];
  for (const {parameter, title, learned} of [{parameter: "confidence", title: "", learned: true}, ...attributes]) {
    const of = title && `${title}: `;
    if (learned) orders.push(option(parameter, `${of}least sure`), option(`-${parameter}`, `${of}most sure`));
  }
  element("sort").replaceChildren(...orders);
  element("search").hidden = false;
}

const option = (value, textContent) => build("option", {value, textContent});

function choice(type, name, value, text) {
  const input = build("input", {type, name, value});
  return build("label", {className: "choice"}, input, make("span", "", text), make("span", "count"));
}

function addChoices(id, type, name, texts) {
  const choices = Object.entries(texts).map(([value, text]) => choice(type, name, value, text));
  element(id).replaceChildren(element(id).querySelector("legend"), ...choices);
}

// Set the controls to the query in the address, with the number of images of each choice.
function fill(query, result) {
  const counts = {answered: result.answered, label: result.labels};
  for (const attribute of result.attributes) counts[attribute.parameter] = attribute.counts;
  for (const input of element("filters").querySelectorAll(".choice input")) {
    const given = query.getAll(input.name), label = input.closest("label"), all = counts[input.name];
    const images = all[input.value], sum = Object.values(all).reduce((sum, count) => sum + count, 0);
    input.checked = input.value ? given.includes(input.value) : !given.length;
    label.querySelector(".count").textContent = images === undefined ? "" : counted(images);
    label.style.setProperty("--part", images ? `${(100 * images) / sum}%` : "0%");
    label.classList.toggle("none", images === 0);
  }
  for (const lot of element("lot").options) {
    if (lot.value) lot.textContent = `${lot.value} (${counted(result.lots[lot.value])})`;
  }
  element("labels").hidden = !(result.labels.agrees + result.labels.differs) && !query.has("label");
  element("lot").value = query.get("lot") || "";
  field("file").value = query.get("file") || "";
  field("min_confidence").value = query.get("min_confidence") || 0;
  showLeast();
  element("sort").value = query.get("sort") || "file";
  Object.assign(element("page"), {value: result.page, max: result.pages});
  element("last").textContent = counted(result.pages);
  element("previous").disabled = result.page <= 1;
  element("next").disabled = result.page >= result.pages;
  const active = [...query.keys()].filter(name => !["page", "sort", "size"].includes(name)).length;
  element("active").textContent = active ? `(${active} chosen)` : "";
  element("clear").disabled = !active;
}

function showLeast() {
  const value = Number(field("min_confidence").value);
  element("least").textContent = value ? `≥ ${percent(value)}` : "any";
}

// ---- images ----

function list(query) {
  const asked = Object.keys(titles).filter(name => query.has(parameters[name]));
  const cards = rows.map(row => {
    const lines = asked.map(name => described(row.answers[name]));
    if (row.likeness !== undefined) lines.unshift(`likeness ${row.likeness.toFixed(3)}`);
    const name = make("b", "", row.filename);
    const text = build("span", {className: "text"}, name, lines.join(" · ") || `lot ${row.lot}`);
    return build("li", {}, build("a", {href: `#${at(view().get("like"), row.id)}`, id: row.id}, thumbnail(row), text));
  });
  element("found").replaceChildren(...(cards.length ? cards : [make("li", "empty", "No image matches: remove a filter.")]));
  element("found").removeAttribute("aria-busy");
}

function thumbnail(row) {
  const image = build("img", {alt: "", loading: "lazy", decoding: "async", src: `thumbnails/${row.id}`});
  image.addEventListener("error", () => { image.alt = "no longer available"; }, {once: true});
  return image;
}

function described(answer) {
  if (answer.class === null) return "no answer";
  return `${answer.answered ? "" : "unsure: "}${answer.class} ${percent(answer.confidence)}`;
}

function showLike(image) {
  const back = build("button", {type: "button", className: "second", textContent: "Back to all"});
  back.addEventListener("click", () => go(words()));
  const text = build("p", {}, "Images that look like ", make("b", "", image.filename), " to the model");
  element("like").replaceChildren(thumbnail(image), text, back);
}

// ---- one image ----

// Show the image that the address names, or none.
async function open(signal) {
  const id = view().get("image"), dialog = element("image");
  if (!id) return dialog.open && dialog.close();
  const result = await ask(`history/${encodeURIComponent(id)}`, {signal});
  element("name").textContent = `${result.filename}, lot ${result.lot}`;
  Object.assign(element("picture"), {src: `images/${result.id}`, alt: `The image ${result.filename}`});
  Object.assign(element("download"), {href: `images/${result.id}`, download: result.filename.split("/").pop()});
  element("alike").href = `#like=${result.id}`;
  const here = rows.findIndex(row => row.id === id);
  element("before").disabled = here <= 0;
  element("after").disabled = here < 0 || here === rows.length - 1;
  element("about").replaceChildren(answers(result), make("h3", "", "Answers of each version"), versions(result));
  opener = id;
  if (!dialog.open) dialog.showModal();
}

function answers(result) {
  const list = make("dl");
  for (const [name, answer] of Object.entries(result.answers)) {
    const part = make("div", answer.answered ? "" : "unsure"), bar = make("span", "fill"), track = make("dd", "track");
    bar.style.setProperty("--part", `${100 * answer.confidence}%`);
    track.append(bar);
    const said = answer.class === null ? "never answered" : `${answer.class} ${percent(answer.confidence)}`;
    part.append(make("dt", "", titles[name] || name), make("dd", "", said), track);
    if (answer.class !== null && !answer.answered) part.append(make("dd", "note", "abstained: below the threshold"));
    if (answer.label !== undefined) {
      const right = answer.label === answer.class;
      part.append(make("dd", `note ${right ? "right" : "wrong"}`, `${right ? "✓" : "✗"} label: ${answer.label}`));
    }
    list.append(part);
  }
  return list;
}

// A row per version, the newest first; an answer that differs from that of the next newer version is marked.
function versions(result) {
  const names = Object.keys(result.answers);
  const heads = ["Version", "Predicted", ...names.map(name => titles[name] || name)];
  const table = build("table", {}, build("tr", {}, ...heads.map(textContent => build("th", {scope: "col", textContent}))));
  result.versions.forEach((made, place) => {
    const cells = names.map(name => {
      const answer = made.answers[name], newer = result.versions[Math.max(0, place - 1)].answers[name];
      return make("td", answer && newer && answer.class !== newer.class ? "changed" : "", answer ? described(answer) : "");
    });
    const version = build("th", {scope: "row", textContent: made.version});
    table.append(build("tr", {}, version, make("td", "", made.predicted.slice(0, 16).replace("T", " ")), ...cells));
  });
  return build("div", {className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Answers of each version"}, table);
}

function step(by) {
  const here = rows.findIndex(row => row.id === view().get("image")), next = rows[here + by];
  if (here >= 0 && next) go(words(), at(view().get("like"), next.id), true);
}

// ---- what people do ----

element("filters").addEventListener("change", () => {
  go(chosen(), at(view().get("like")));
});
element("filters").addEventListener("submit", event => {
  event.preventDefault();
  go(chosen());
});
element("filters").addEventListener("reset", event => {
  event.preventDefault();
  const sort = words().get("sort");
  go(new URLSearchParams(sort ? {sort} : {}));
});
field("min_confidence").addEventListener("input", showLeast);
element("sort").addEventListener("change", () => go(chosen()));

function turn(page) {
  const last = Number(element("page").max);
  go(chosen(Math.min(Math.max(1, Math.trunc(page) || 1), last)));
  element("total").scrollIntoView({block: "start"});
}

element("previous").addEventListener("click", () => turn(words().get("page") - 1));
element("next").addEventListener("click", () => turn(Number(words().get("page") || 1) + 1));
element("page").addEventListener("change", event => turn(Number(event.target.value)));

element("before").addEventListener("click", () => step(-1));
element("after").addEventListener("click", () => step(1));
element("close").addEventListener("click", () => element("image").close());
element("alike").addEventListener("click", () => { opener = null; });
element("image").addEventListener("click", event => event.target === element("image") && element("image").close());
element("image").addEventListener("keydown", event => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
element("image").addEventListener("close", () => {
  if (view().has("image")) go(words(), at(view().get("like")));
  if (opener) document.getElementById(opener)?.focus();
});

addEventListener("popstate", show); // also of links to another #
if (matchMedia("(max-width: 46rem)").matches) element("panel").open = false;
show();
