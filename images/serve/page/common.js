"use strict";
// Shared by all pages: requests to the service, the form for the token, and problems of the version.

const element = id => document.getElementById(id);

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// The answer in JSON; throws an Error with the service's own line, and the status if there is one.
async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The service does not answer: is it running?");
  }
  if (response.status === 401) showLogin();
  const answer = await response.json().catch(() => ({}));
  if (!response.ok && !answer.images) {
    const text = answer.error || `The service answers ${response.status}.`;
    throw Object.assign(new Error(text), {status: response.status});
  }
  return answer;
}

function showLogin() {
  element("login").hidden = false;
  element("token").focus();
}

element("login").addEventListener("submit", async event => {
  event.preventDefault();
  const response = await fetch("login", {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify({token: element("token").value.trim()}),
  });
  if (response.ok) {
    location.reload();
  } else {
    showProblem((await response.json()).error);
  }
});

function showProblem(text) {
  element("problem").textContent = text;
  element("problem").hidden = !text;
}

// Show the version that answers, and its problem, every few seconds.
async function showVersion() {
  try {
    const response = await fetch("ready");
    const ready = await response.json();
    element("version").textContent = ready.version ? `Version ${ready.version} answers` : "No version answers";
    showProblem(ready.problem || "");
  } catch {
    showProblem("The service does not answer: is it running?");
  }
}

showVersion();
setInterval(() => document.hidden || showVersion(), 5000);
