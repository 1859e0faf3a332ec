"use strict";
// Pictures in, answers out. Only chosen pictures are sent, and none is stored.

const MOST = 64; // pictures in a request, as the service allows
const percent = value => `${(100 * value).toFixed(value > 0.9899 || value < 0.0995 ? 1 : 0)} %`;
let titles = {};

async function start() {
  try {
    const known = await ask("attributes");
    titles = Object.fromEntries(known.attributes.map(attribute => [attribute.name, attribute.title]));
  } catch { /* shown above, or by the form */ }
}

async function predict(files) {
  const chosen = [...files].filter(file => file.size).slice(0, MOST);
  if (!chosen.length) return;
  const form = new FormData();
  for (const file of chosen) form.append("files", file, file.name || "picture");
  tell(chosen.length === 1 ? "Asking …" : `Asking about ${chosen.length} pictures …`);
  try {
    const answer = await ask("predict", {method: "POST", body: form});
    const shown = chosen.map((file, number) => draw(file, answer.images[number]));
    element("results").replaceChildren(...shown);
    const left = files.length - chosen.length;
    tell(`Version ${answer.version} answered in ${answer.seconds.toFixed(3)} s.` + (left ? ` ${left} were left out.` : ""));
  } catch (error) {
    tell(error.status === 401 ? "" : error.message, "notice bad"); // the form asks for the token
  }
}

function tell(text, className = "") {
  element("status").textContent = text;
  element("status").className = text && className;
}

function draw(file, answer) {
  const shown = element("result").content.cloneNode(true).firstElementChild;
  const picture = shown.querySelector("img");
  picture.src = URL.createObjectURL(file);
  picture.alt = file.name;
  picture.addEventListener("load", () => URL.revokeObjectURL(picture.src));
  picture.addEventListener("error", () => picture.remove());
  shown.querySelector("figcaption").textContent = file.name;
  const answers = shown.querySelector(".answers");
  if (answer.error) {
    answers.append(make("p", "notice bad", `This picture cannot be used: ${answer.error}`));
  } else {
    answers.append(...Object.entries(answer.attributes).map(([name, said]) => drawAnswer(titles[name] || name, said)));
  }
  return shown;
}

function drawAnswer(title, said) {
  const box = make("section", said.answered ? "answer" : "answer abstains");
  const head = make("h3", "", title);
  if (said.class === null) {
    head.append(make("span", "said abstained", "never answered"));
    box.append(head, make("p", "why", said.why));
    return box;
  }
  head.append(make("span", said.answered ? "said" : "said abstained", said.answered ? said.class : "abstained"));
  box.append(head);
  if (!said.answered) {
    const least = `${said.class} with ${percent(said.confidence)}, but ${percent(said.threshold)} is needed`;
    box.append(make("p", "why", `Not sure enough to answer: ${least}.`));
  }
  const bars = make("ul", "bars");
  for (const [name, value] of Object.entries(said.probabilities)) {
    const row = make("li", name === said.class ? "chosen" : "");
    row.append(make("span", "name", name), drawBar(value, name === said.class ? said.threshold : 0));
    row.append(make("span", "number", percent(value)));
    bars.append(row);
  }
  box.append(bars);
  return box;
}

function drawBar(value, threshold) {
  const track = make("span", "track");
  const fill = make("span", "fill");
  fill.style.width = `${100 * value}%`;
  track.append(fill);
  if (threshold > 0) {
    const mark = make("span", "threshold");
    mark.style.left = `${100 * threshold}%`;
    mark.title = `answered from ${percent(threshold)} on`;
    track.append(mark);
  }
  return track;
}

// ---- ways to give a picture ----

element("choose").addEventListener("click", () => element("files").click());
for (const id of ["files", "capture"]) {
  element(id).addEventListener("change", event => {
    predict(event.target.files).then(() => { event.target.value = ""; });
  });
}

const drop = element("drop");
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, event => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
addEventListener("dragleave", event => event.relatedTarget || drop.classList.remove("over"));
addEventListener("drop", event => {
  event.preventDefault();
  drop.classList.remove("over");
  predict(event.dataTransfer.files);
});
addEventListener("paste", event => predict(event.clipboardData.files));

// ---- the camera ----

const WITHOUT = "Choose a picture instead.";
const REFUSED = {
  NotAllowedError: "The browser does not let this page use the camera: allow it beside the address, and press again.",
  NotFoundError: `No camera was found. ${WITHOUT}`,
  NotReadableError: `The camera does not answer: another program may use it. ${WITHOUT}`,
};
let stream;

// Say why there is no picture from here. A phone's own camera takes one where the page may not.
function noCamera(why) {
  tell(why, "notice");
  if (matchMedia("(pointer: coarse)").matches) element("capture").click();
}

element("camera").addEventListener("click", async () => {
  if (!navigator.mediaDevices) {
    return noCamera(`Browsers allow the camera only on https pages and on http://localhost. ${WITHOUT}`);
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: "user"}});
  } catch (error) {
    return noCamera(REFUSED[error.name] || `The camera cannot be used (${error.name}). ${WITHOUT}`);
  }
  tell("");
  element("shoot").disabled = true; // until it shows something
  element("video").srcObject = stream;
  element("viewfinder").showModal();
});
element("video").addEventListener("loadeddata", () => {
  element("shoot").disabled = false;
  element("shoot").focus();
});
element("shoot").addEventListener("click", () => {
  const video = element("video"), canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob(blob => predict([new File([blob], "camera.jpg", {type: "image/jpeg"})]), "image/jpeg", 0.95);
  element("viewfinder").close();
});
element("cancel").addEventListener("click", () => element("viewfinder").close());
element("viewfinder").addEventListener("close", () => stream?.getTracks().forEach(track => track.stop()));

start();
