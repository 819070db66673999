"use strict";
// What is edited reaches a field through its value.
const at = (id) => document.getElementById(id);
const decided = new Map();  // id to {verdict, reason, response}; what was decided last stands at the end
const drafts = new Map();  // id to an edit that was begun and not saved
let all = { pairs: [] }, place = 0, busy = false, ended = false;

const current = () => all.pairs[place];
const typing = () => !at("rejecting").hidden || !at("editing").hidden || at("finishing").open;

function draw() {
  const pair = current(), now = decided.get(pair.id), line = make("div", "meta"), card = at("pair");
  line.append(make("b", now ? now.verdict : "", now ? now.verdict + (now.reason ? ": " + now.reason : "") : "not decided"));
  line.append(make("span", "", (place + 1) + " of " + all.pairs.length), make("span", "", pair.id));
  if (pair.category) line.append(make("span", "", pair.category));
  for (const [name, value] of Object.entries(pair.scores || {})) line.append(make("span", "", name + " " + (value === null ? "–" : value)));
  const parts = [line];
  if (pair.system) parts.push(make("h3", "", "System text"), said("", pair.system));
  for (const [prompt, response] of pair.history || []) {
    const turn = make("div", "turn");
    turn.append(said("prompt", prompt), said("", response));
    parts.push(make("h3", "", "Earlier"), turn);
  }
  parts.push(make("h3", "", "Prompt"), said("prompt", pair.prompt));
  if (pair.preferred !== undefined) parts.push(make("h3", "", "Preferred answer"), said("", pair.preferred));
  if (now && now.verdict === "edited") parts.push(make("h3", "", "Answer of the model"), said("before", pair.response), make("h3", "", "Edited answer"), said("answer", now.response));
  else parts.push(make("h3", "", pair.preferred !== undefined ? "Answer to be rejected in its favour" : "Answer"), said("answer", pair.response));
  card.replaceChildren(...parts);
  card.hidden = at("actions").hidden = false;
  for (const id of ["rejecting", "editing"]) at(id).hidden = true;
  at("edit").disabled = Boolean(pair.fixed);
  at("undo").disabled = decided.size === 0;
  const done = all.pairs.filter((each) => decided.has(each.id)).length, left = all.pairs.length - done;
  const sampled = all.pairs.length < all.total ? " of a sample of " + all.pairs.length + " (the round has " + all.total + ")" : "";
  at("bar").max = Math.max(all.pairs.length, 1);
  at("bar").value = done;
  at("progress").textContent = left + " left" + sampled + ", " + done + " decided";
  at("message").textContent = "";
}

function go(to) {
  place = Math.min(Math.max(to, 0), all.pairs.length - 1);
  draw();
  at("pair").focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

async function ask(path, body) {
  let answer;
  try {
    answer = await fetch(path, body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  } catch {
    throw new Error("No answer: `selfalign review` does not run any more. What was decided before is recorded; start it again.");
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

// One request at a time; what the record did not take is not shown as decided.
async function tell(work) {
  if (busy || ended) return;
  busy = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (error) {
    at("message").textContent = error.message;
  } finally {
    busy = false;
    document.body.setAttribute("aria-busy", "false");
  }
}

function decide(verdict, more) {
  const pair = current();
  return tell(async () => {
    await ask("decide", { id: pair.id, verdict, ...more });
    decided.delete(pair.id);
    decided.set(pair.id, { verdict, reason: "", ...more });
    drafts.delete(pair.id);
    const open = all.pairs.findIndex((each, i) => i > place && !decided.has(each.id));
    const first = open < 0 ? all.pairs.findIndex((each) => !decided.has(each.id)) : open;
    go(first < 0 ? place : first);
    if (first < 0) finish();
  });
}

function undo() {
  const last = [...decided.keys()].at(-1);
  if (last === undefined) return;
  tell(async () => {
    await ask("decide", { id: last, verdict: "undone" });
    decided.delete(last);
    const there = all.pairs.findIndex((each) => each.id === last);
    go(there < 0 ? place : there);
  });
}

function show(form, field, value) {
  for (const id of ["rejecting", "editing"]) at(id).hidden = id !== form;
  at("actions").hidden = true;
  at(field).value = value;
  at(field).focus();
}

function reject() {
  const now = decided.get(current().id);
  show("rejecting", "reason", now ? now.reason : "");
}

function edit() {
  const pair = current(), now = decided.get(pair.id);
  if (pair.fixed) at("message").textContent = "This answer is not to be imitated, so that an edit would teach nothing: keep or reject it.";
  else show("editing", "response", drafts.get(pair.id) ?? (now && now.verdict === "edited" ? now.response : pair.response));
}

function cancel() {
  if (!at("editing").hidden) drafts.set(current().id, at("response").value);
  draw();
  at("pair").focus({ preventScroll: true });
}

function finish() {
  const left = all.total - [...decided.keys()].length, choices = at("finish-choices");
  at("finish-text").textContent = left ? left + (left === 1 ? " pair is" : " pairs are") + " not decided on. What shall become of the rest?" : "Every pair is decided on. The run goes on with the same command.";
  const button = (text, rest) => {
    const made = make("button", "", text);
    made.type = "button";
    made.addEventListener("click", () => tell(async () => {
      const found = await ask("done", { rest });
      ended = true;
      at("finishing").close();
      at("actions").hidden = at("pair").hidden = true;
      at("progress").textContent = found.text + ". The same `selfalign run` command goes on; this page can be closed.";
    }));
    return made;
  };
  const back = make("button", "", "Back to the pairs");
  back.type = "button";
  back.addEventListener("click", () => at("finishing").close());
  choices.replaceChildren(...(left ? [button("Keep the rest", "keep"), button("Drop the rest", "drop")] : [button("Done", null)]), back);
  at("finishing").showModal();
}

const KEYS = { k: () => decide("kept"), r: reject, e: edit, u: undo, n: () => go(place + 1), p: () => go(place - 1), ArrowRight: () => go(place + 1), ArrowLeft: () => go(place - 1) };

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !at("finishing").open && typing()) return cancel();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !at("editing").hidden) return at("editing").requestSubmit();
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || typing() || ended || event.ctrlKey || event.metaKey || event.altKey || event.repeat || !all.pairs.length) return;
  event.preventDefault();  // or the key would be typed into the field that it opens
  act();
});
for (const [id, act] of Object.entries({ keep: KEYS.k, reject, edit, undo, next: KEYS.n, previous: KEYS.p, finish })) at(id).addEventListener("click", act);
for (const each of document.querySelectorAll(".cancel")) each.addEventListener("click", cancel);
at("rejecting").addEventListener("submit", (event) => { event.preventDefault(); decide("rejected", { reason: at("reason").value.trim() }); });
at("editing").addEventListener("submit", (event) => {
  event.preventDefault();
  const response = at("response").value;
  drafts.set(current().id, response);
  // A text field has one kind of line break: an answer that differs in these alone is the model's own.
  if (response === current().response.replace(/\r\n?/g, "\n")) decide("kept");
  else decide("edited", { response });
});

tell(async () => {
  all = await ask("pairs");
  for (const { id, ...rest } of all.decided) decided.set(id, rest);
  at("title").textContent = all.title;
  document.title = all.title;
  const first = all.pairs.findIndex((each) => !decided.has(each.id));
  go(Math.max(first, 0));
});
