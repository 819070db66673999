const data = JSON.parse(document.getElementById("data").textContent);
const byId = new Map((data.samples || []).map((sample) => [sample.id, sample]));

const answer = (name, s) => said(name, s.answered ? s.response : "(not answered)");

function options(select, values, label) {
  for (const value of values) {
    const option = make("option", "", label ? label(value) : value);
    option.value = String(value);
    select.append(option);
  }
}

const distinct = (values) => [...new Set(values)].filter((value) => value !== "");

// A list drawn a page at a time: `drawn` rows of `found` stand in the document.
function pages(list, more, counter, size, draw, noun) {
  let found = [], drawn = 0;
  function grow() {
    const part = document.createDocumentFragment();
    for (const each of found.slice(drawn, drawn + size)) part.append(draw(each));
    list.append(part);
    drawn = Math.min(drawn + size, found.length);
    more.hidden = drawn === found.length;
    more.textContent = "Show more (" + (found.length - drawn).toLocaleString("en") + " left)";
  }
  more.addEventListener("click", () => {
    const first = drawn;  // the keyboard goes on at the first new row, not behind all of them
    grow();
    list.children[first].focus();
  });
  return (rows, all) => {
    found = rows;
    drawn = 0;
    list.replaceChildren();
    counter.textContent = rows.length.toLocaleString("en") + " of " + all.toLocaleString("en") + " " + noun;
    grow();
  };
}

function later(run) {
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(run, 120); };
}

const verdictText = (s) => s.verdict === "dropped" ? "dropped: " + s.rule : s.verdict === "validation" ? "validation seed" : s.verdict;

function metaLine(s) {
  const line = make("div", "meta");
  line.append(make("b", s.verdict, verdictText(s)), make("span", "", s.round ? "round " + s.round : "seeds"));
  if (s.history) line.append(make("span", "", "turn " + (s.history.length + 1)));
  if (s.category) line.append(make("span", "", s.category));
  line.append(make("span", "", s.id));
  return line;
}

function samples() {
  const list = document.getElementById("samples");
  if (!list) return;
  const at = (name) => document.getElementById("sample-" + name);
  const search = at("search"), round = at("round"), verdict = at("verdict"), rule = at("rule"), category = at("category");
  options(round, distinct(data.samples.map((s) => s.round)), (value) => value ? "round " + value : "seeds");
  options(verdict, distinct(data.samples.map((s) => s.verdict)));
  options(rule, distinct(data.samples.map((s) => s.rule)).sort());
  options(category, distinct(data.samples.map((s) => s.category)).sort());
  const text = new Map();
  const textOf = (s) => {
    if (!text.has(s)) text.set(s, [s.id, ...(s.history || []).flat(), s.prompt, s.response, s.evidence].join("\n").toLowerCase());
    return text.get(s);
  };
  const show = pages(list, at("more"), at("count"), 50, (s) => {
    const row = make("button", "row");
    row.type = "button";
    row.append(metaLine(s), ...(s.history ? [said("earlier", "after: " + s.history.at(-1)[0])] : []));
    row.append(said("prompt", s.prompt), answer("answer", s));
    row.addEventListener("click", () => open(s.id));
    return row;
  }, "samples");
  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    show(data.samples.filter((s) =>
      (round.selectedIndex === 0 || String(s.round) === round.value) &&
      (verdict.selectedIndex === 0 || s.verdict === verdict.value) &&
      (rule.selectedIndex === 0 || s.rule === rule.value) &&
      (category.selectedIndex === 0 || s.category === category.value) &&
      words.every((word) => textOf(s).includes(word))), data.samples.length);
  };
  search.addEventListener("input", later(update));
  for (const select of [round, verdict, rule, category]) select.addEventListener("change", update);
  update();
}

// The lineage of a sample, in a dialog; `trail` leads back from a demonstration to the sample that was shown it.
const trail = [];

function part(title, ...children) {
  const section = make("section");
  section.append(make("h3", "", title), ...children);
  return section;
}

function pairs(entries) {
  const box = make("div", "scroll"), table = make("table");
  for (const [name, value] of entries) {
    const row = make("tr");
    row.append(make("td", "text", name), make("td", "text", String(value)));
    table.append(row);
  }
  box.append(table);
  return box;
}

// What was said before a prompt, each text under who said it.
function turns(history) {
  return (history || []).flatMap((pair) => pair.map((text, place) => {
    const box = make("div", "turn");
    box.append(make("div", "meta", place ? "assistant" : "user"), said("", text));
    return box;
  }));
}

function sampleLink(id) {
  const button = make("button", "", "open " + id);
  button.type = "button";
  button.addEventListener("click", () => open(id));
  return button;
}

function demonstration([id, near]) {
  const shown = byId.get(id), button = make("button", "row demo"), line = make("div", "meta");
  button.type = "button";
  line.append(make("span", "", id), make("span", "", near === null ? "drawn at random" : "similarity " + near.toFixed(3)));
  button.append(line);
  if (shown) {
    button.append(said("prompt", shown.prompt), answer("answer", shown));
    button.addEventListener("click", () => open(id));
  }
  return button;
}

function trainedText([round, rule, evidence]) {
  return "round " + round + (rule === null ? "" : ": dropped by " + rule + (evidence ? ", " + evidence : ""));
}

function lineage(s) {
  const body = document.getElementById("lineage-body");
  const earlier = turns(s.history), first = s.prompt_demonstrations.filter(([id]) => byId.has(id)).map(([id]) => sampleLink(id));
  const parts = [part("verdict", metaLine(s), ...(s.evidence ? [said("", s.evidence)] : [])),
    ...(earlier.length ? [part("earlier turns", ...earlier, ...first)] : []),
    part("prompt (ended by " + s.prompt_finish + ")", said("", s.prompt)),
    part(s.answered ? "response (ended by " + s.response_finish + ")" : "response", answer("", s))];
  if (s.before !== undefined) parts.push(part("what the model wrote, before a person edited it", said("", s.before)));
  const scores = Object.entries(s.scores).map(([name, value]) => [name, value === null ? "not a number" : value]);
  if (scores.length) parts.push(part("scores", pairs(scores)));
  if (Object.keys(s.metadata).length) parts.push(part("metadata", pairs(Object.entries(s.metadata))));
  if (s.prompt_demonstrations.length && !earlier.length) parts.push(part("demonstrations when the prompt was written", ...s.prompt_demonstrations.map(demonstration)));
  if (s.response_demonstrations.length) parts.push(part("demonstrations when the response was written", ...s.response_demonstrations.map(demonstration)));
  if (s.round) parts.push(part("written by", make("div", "", s.round > 1 ? "the model of round " + (s.round - 1) : "the base model")));
  if (s.trained.length) parts.push(part("trained into", ...s.trained.map((each) => make("div", "", trainedText(each)))));
  body.replaceChildren(...parts);
  document.getElementById("lineage-id").textContent = s.id;
  const dialog = document.getElementById("lineage"), back = document.getElementById("lineage-back");
  back.hidden = trail.length < 2;
  if (!dialog.open) dialog.showModal();
  (back.hidden ? document.getElementById("lineage-close") : back).focus();  // what had the focus may be gone with the old body
  dialog.scrollTop = 0;
}

function open(id) {
  trail.push(id);
  lineage(byId.get(id));
}

function dialogs() {
  const dialog = document.getElementById("lineage");
  if (!dialog) return;
  dialog.addEventListener("close", () => { trail.length = 0; });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.getElementById("lineage-close").addEventListener("click", () => dialog.close());
  document.getElementById("lineage-back").addEventListener("click", () => { trail.pop(); lineage(byId.get(trail[trail.length - 1])); });
}

function outcomeText(outcomes) {
  return Object.entries(outcomes).map(([name, value]) =>
    name.replaceAll("_", " ") + " " + (value === null ? "–" : String(Number.isInteger(value) ? value : value.toFixed(2)).replace("-", "−"))).join(" · ");
}

function heldOut() {
  const list = document.getElementById("held");
  if (!list) return;
  const at = (name) => document.getElementById("held-" + name);
  const best = Number(list.dataset.best), search = at("search"), stage = at("stage"), changed = at("changed");
  options(stage, distinct(data.held_out.map((each) => each.stage)));
  stage.hidden = stage.options.length < 3;
  const end = (each) => [each.answers[0], each.answers.find((a) => a.round === best) || each.answers[each.answers.length - 1]];
  const marks = (answer) => Object.entries(answer.outcomes).filter(([, value]) => Number.isInteger(value) && Math.abs(value) <= 1);
  const differs = (each) => {
    const [first, last] = end(each);
    if (changed.value === "text") return first.text !== last.text;
    return marks(first).some(([name, value]) => Object.hasOwn(last.outcomes, name) && last.outcomes[name] !== value);
  };
  const show = pages(list, at("more"), at("count"), 20, (each) => {
    const card = make("article", "card held"), asked = said("prompt", each.prompt), answers = make("div", "answers"), line = make("div", "meta");
    line.append(make("span", "", each.id));
    for (const answer of each.answers) {
      const chosen = answer.round > 0 && answer.round === best;
      const box = make("div", chosen ? "best" : ""), meta = make("div", "meta");
      meta.append(make("span", "", (answer.round ? "round " + answer.round : "base model") + (chosen ? ", shipped" : "")));
      if (answer.finish !== "stop") meta.append(make("span", "", "cut: " + answer.finish));
      box.append(meta, said("", answer.text), make("div", "meta", outcomeText(answer.outcomes)));
      answers.append(box);
    }
    card.tabIndex = -1;
    card.append(line, ...turns(each.history), asked, answers);
    return card;
  }, "prompts");
  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    show(data.held_out.filter((each) =>
      (stage.selectedIndex === 0 || each.stage === stage.value) &&
      (changed.selectedIndex === 0 || differs(each)) &&
      words.every((word) => [each.id, ...(each.history || []).flat(), each.prompt, ...each.answers.map((a) => a.text)].join("\n").toLowerCase().includes(word))),
      data.held_out.length);
  };
  search.addEventListener("input", later(update));
  for (const select of [stage, changed]) select.addEventListener("change", update);
  update();
}

samples();
dialogs();
heldOut();
