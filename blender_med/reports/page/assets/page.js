"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;
  root.classList.add("js");

  // Every text goes into the page as text, never as markup.
  function make(name, properties, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(properties || {})) {
      if (key === "class") element.className = value;
      else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else element.setAttribute(key, value);
    }
    for (const child of children.flat()) {
      if (child !== null && child !== undefined) element.append(child);
    }
    return element;
  }

  // --- light and dark ---------------------------------------------------------------------
  function remembered(key, value) {
    try {
      if (value !== undefined) localStorage.setItem(key, value);
      return localStorage.getItem(key);
    } catch {
      return null; // a browser may keep nothing for files
    }
  }
  const isDark = () =>
    (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) ===
    "dark";
  const named = () => (byId("theme").textContent = isDark() ? "Light" : "Dark");
  if (["light", "dark"].includes(remembered("theme"))) root.dataset.theme = remembered("theme");
  named();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", named);
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remembered("theme", root.dataset.theme);
    named();
  });

  // --- figures: tooltips under pointer and keyboard ------------------------------------------
  const tip = byId("tip");
  const GUIDES = new Set(["axis", "legend", "title"]);
  const marksOf = (svg) =>
    [...svg.querySelectorAll('[role="graphics-symbol"][aria-label]')].filter(
      (mark) => !GUIDES.has(mark.getAttribute("aria-roledescription"))
    );
  function show(mark) {
    const box = mark.getBoundingClientRect();
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    const left = box.left + box.width / 2 - tip.offsetWidth / 2;
    tip.style.left = `${Math.max(8, Math.min(left, innerWidth - tip.offsetWidth - 8))}px`;
    const above = box.top - tip.offsetHeight - 8;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  }
  function hide(svg) {
    tip.hidden = true;
    svg.querySelector("[data-current]")?.removeAttribute("data-current");
  }
  for (const svg of document.querySelectorAll("figure svg")) {
    const marks = marksOf(svg);
    for (const mark of marks) {
      mark.setAttribute("data-mark", "");
      mark.addEventListener("pointerenter", () => show(mark));
      mark.addEventListener("pointerleave", () => hide(svg));
    }
    let place = -1;
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") hide(svg);
      if (!step || !marks.length) return;
      event.preventDefault();
      hide(svg);
      place = (place + step + marks.length + (place < 0 && step < 0 ? 1 : 0)) % marks.length;
      marks[place].setAttribute("data-current", "");
      show(marks[place]);
    });
    svg.addEventListener("blur", () => hide(svg));
  }

  // --- blocks -------------------------------------------------------------------------------
  const blocks = [...document.querySelectorAll("section.block")];
  const tabs = [...document.querySelectorAll(".tabs button")];
  function choose(number) {
    blocks.forEach((block) => (block.hidden = block.dataset.block !== number));
    tabs.forEach((tab) => tab.setAttribute("aria-pressed", String(tab.dataset.block === number)));
  }
  tabs.forEach((tab) => tab.addEventListener("click", () => choose(tab.dataset.block)));
  if (blocks.length) choose("0");

  // --- questions: parts of data -------------------------------------------------------------
  const browser = byId("browser");
  if (!browser) return;
  const waiting = new Map();
  window.blenderPart = (name, data) => waiting.get(name)?.(data);

  function raw(name) {
    const inline = document.querySelector(`script[data-part="${name}"]`);
    if (inline) return Promise.resolve(inline.textContent);
    return new Promise((resolve, reject) => {
      waiting.set(name, resolve);
      const script = make("script", { src: `${browser.dataset.folder}/${name}.js` });
      script.addEventListener("error", () => reject(new Error(`${script.src} is missing`)));
      document.head.append(script);
    });
  }
  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }
  const parts = new Map();
  function part(name) {
    if (!parts.has(name)) parts.set(name, raw(name).then(unpack));
    return parts.get(name);
  }

  // --- questions: search and filters ----------------------------------------------------------
  const MOST_HITS = 200;
  const filters = ["block", "method", "outcome", "slice"].map(byId);
  const [blockBox, methodBox, outcomeBox, sliceBox] = filters;
  const search = byId("search");
  const deep = byId("deep");
  let index = null;
  let hits = [];
  let shown = MOST_HITS;
  let current = -1;

  const options = (box, entries) =>
    box.replaceChildren(...entries.map(([value, text]) => make("option", { value }, text)));
  const blockOf = () => Number(blockBox.value);
  const isChoice = () => index.blocks[blockOf()][1] === "mcq";
  const rivalOf = (method) => index.rivals[method];

  function fillBlocks() {
    const names = index.blocks.map(([data, task, protocol, split], i) => [
      i, `${data}, ${task}, ${protocol}: ${split}`,
    ]);
    options(blockBox, names);
    const test = index.blocks.findIndex((block) => block[3] === "test");
    blockBox.value = String(Math.max(0, test));
  }
  function follow(tab) {
    const same = [...blockBox.options].find((option) => option.text === tab.textContent);
    if (!same || same.value === blockBox.value) return;
    blockBox.value = same.value;
    blockBox.dispatchEvent(new Event("change"));
  }
  function fillFilters() {
    const own = index.block.flatMap((block, i) => (block === blockOf() ? [i] : []));
    const kept = methodBox.value;
    const methods = Object.keys(index.values).filter((m) => own.some((i) => index.values[m][i] !== null));
    options(methodBox, methods.map((m) => [m, m]));
    const first = verdictMethod();
    methodBox.value = methods.includes(kept) ? kept : methods.includes(first) ? first : methods[0] || "";
    fillOutcomes();
    const slices = [["", "all"]];
    for (const [key, column] of Object.entries(index.slices)) {
      const values = [...new Set(own.map((i) => column[i]).filter(Boolean))].sort();
      if (values.length > 1) values.forEach((v) => slices.push([JSON.stringify([key, v]), `${key.replaceAll("_", " ")}: ${v}`]));
    }
    options(sliceBox, slices);
  }
  function fillOutcomes() {
    const kept = outcomeBox.value;
    const outcomes = [["", "all"]];
    const rival = rivalOf(methodBox.value);
    if (index.values[rival] && rival !== methodBox.value) {
      outcomes.push(["better", `better than ${rival}`], ["equal", `equal to ${rival}`], ["worse", `worse than ${rival}`]);
    }
    if (isChoice()) outcomes.push(["right", "right"], ["wrong", "wrong"], ["none", "no candidate is right"]);
    outcomes.push(["missed", "a better candidate was there"]);
    options(outcomeBox, outcomes);
    outcomeBox.value = outcomes.some(([value]) => value === kept) ? kept : "";
  }
  function verdictMethod() {
    const [data, task, protocol] = index.blocks[blockOf()];
    return browserMethods.get(`${data}, ${task}, ${protocol}`) || "";
  }
  const browserMethods = new Map(
    [...document.querySelectorAll(".verdict")].map((v) => [v.dataset.family, v.dataset.method])
  );

  const CHECKS = {
    "": () => true,
    better: (own, rival) => rival !== null && own > rival,
    equal: (own, rival) => rival !== null && own === rival,
    worse: (own, rival) => rival !== null && own < rival,
    right: (own) => own === 1,
    wrong: (own) => own === 0,
    none: (own, rival, best) => best === 0,
    missed: (own, rival, best) => best !== null && own < best,
  };
  const valueOf = (method, i) => (index.values[method] ? index.values[method][i] : null);
  function fits(i) {
    if (index.block[i] !== blockOf()) return false;
    const own = valueOf(methodBox.value, i);
    const check = outcomeBox.value;
    if (check && (own === null || !CHECKS[check](own, valueOf(rivalOf(methodBox.value), i), index.oracle[i]))) return false;
    if (!sliceBox.value) return true;
    const [key, value] = JSON.parse(sliceBox.value);
    return index.slices[key][i] === value;
  }
  async function texts(i) {
    const details = (await part(String(Math.floor(i / index.size))))[i % index.size];
    const answers = [...details.candidates, ...details.answers].map((a) => a.text);
    return [details.question, details.reference, details.options, ...answers].join("\n");
  }
  let turn = 0;
  async function find() {
    const own = ++turn;
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    for (let i = 0; i < index.ids.length; i++) {
      if (!fits(i)) continue;
      let text = `${index.ids[i]}\n${index.texts[i]}`;
      if (words.length && deep.checked) text += `\n${await texts(i)}`;
      if (own !== turn) return;
      text = text.toLowerCase();
      if (words.every((word) => text.includes(word))) found.push(i);
    }
    hits = found;
    shown = MOST_HITS;
    list();
    if (!hits.includes(current)) hits.length ? open(hits[0], false) : byId("question").replaceChildren();
  }
  const places = 3;
  function verdictOf(i) {
    const own = valueOf(methodBox.value, i);
    const rival = valueOf(rivalOf(methodBox.value), i);
    if (own === null) return make("small", {}, index.ids[i]);
    const difference = rival === null ? 0 : own - rival;
    const arrow = difference > 0 ? "\u25b2 " : difference < 0 ? "\u25bc " : "";
    const text = isChoice() ? (own === 1 ? "right" : "wrong") : own.toFixed(places);
    const kind = difference > 0 ? "up" : difference < 0 ? "down" : "";
    return make("small", {}, make("b", { class: kind }, arrow + text), ` \u00b7 ${index.ids[i]}`);
  }
  function list() {
    const total = index.block.filter((block) => block === blockOf()).length;
    byId("count").textContent = `${hits.length} of ${total} questions`;
    const items = hits.slice(0, shown).map((i) =>
      make("li", {}, make("button", { type: "button", "data-i": i, "aria-current": String(i === current), onclick: () => open(i, true) },
        index.texts[i] || "(no text)", verdictOf(i)))
    );
    if (hits.length > shown) {
      const more = () => { shown += MOST_HITS; list(); };
      items.push(make("li", {}, make("button", { type: "button", onclick: more }, "Show more")));
    }
    byId("hits").replaceChildren(...items);
  }
  byId("hits").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const buttons = [...byId("hits").querySelectorAll("button")];
    buttons[buttons.indexOf(document.activeElement) + step]?.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) return;
    event.preventDefault();
    search.focus();
  });

  // --- one question ---------------------------------------------------------------------------
  async function open(i, chosen) {
    current = i;
    const details = (await part(String(Math.floor(i / index.size))))[i % index.size];
    if (current !== i) return;
    byId("question").replaceChildren(...view(details));
    byId("hits").querySelectorAll("[data-i]").forEach((b) => b.setAttribute("aria-current", String(Number(b.dataset.i) === i)));
    if (chosen) {
      history.replaceState(null, "", `#q=${encodeURIComponent(index.ids[i])}`);
      if (innerWidth <= 800) byId("question").scrollIntoView();
    }
  }
  function view(details) {
    const answer = details.answers.find((a) => a.method === methodBox.value);
    return [
      make("p", { class: "where" }, index.ids[current]),
      make("h3", {}, details.question),
      folded("Context", details.context, false),
      optionList(details),
      folded("Reference", details.reference, true),
      answer && final(answer, details),
      make("h4", {}, `Candidates (${details.candidates.length})`),
      make("div", { class: "cards" }, details.candidates.map((c) => card(c, details, answer))),
      ...Object.entries(details.rankings).filter(([, r]) => r.logits).map(([name, r]) => matrix(name, r)),
    ].filter(Boolean);
  }
  function folded(title, text, isOpen) {
    if (!text) return null;
    return make("details", isOpen ? { open: "" } : {}, make("summary", {}, title), make("p", { class: "text" }, text));
  }
  function optionList(details) {
    if (!details.options) return null;
    const isGold = (line) => line === details.gold || line.startsWith(`${details.gold}. `);
    return make("ul", { class: "options" }, details.options.split("\n").map((line) =>
      make("li", isGold(line) ? { class: "gold" } : {}, isGold(line) ? `${line} \u2713` : line)));
  }
  function final(answer, details) {
    const source = details.candidates.find((c) => c.key === answer.candidate);
    const text = answer.text || (source ? source.text : "");
    const body = answer.sentences.length ? answer.sentences.flatMap(sentence) : [text || "(no answer)"];
    const chips = [];
    if (answer.choice) chips.push(`choice ${answer.choice}`);
    if (answer.value !== null) chips.push(`${details.primary} ${answer.value}`);
    if (answer.confidence !== null) chips.push(`confidence ${answer.confidence.toFixed(2)}`);
    chips.push(source ? `the words of ${source.key}` : "a new text");
    const legend = answer.sentences.length
      ? make("p", { class: "where" }, "Shaded: rests on the candidates named by it. Underlined: on none, or contradicted.") : null;
    return make("div", { class: "final" }, make("b", {}, `Answer of ${answer.method}`),
      make("p", { class: "text" }, body), chipList(chips), legend);
  }
  function sentence(item) {
    const loose = item.flags.length || !item.links.length;
    const told = item.flags.filter(([kind]) => kind !== "unsupported"); // has no words of its own
    const why = told.map(([kind, reason, text]) => `${kind} ${reason}: ${text}`);
    if (!item.links.length) why.unshift("no candidate says this");
    const note = loose ? why.join("; ") : `from ${item.links.map(([key, number]) => `${key} sentence ${number}`).join(", ")}`;
    const mark = make("span", { class: loose ? "loose" : "held", title: note }, item.text);
    return [mark, make("small", {}, ` [${note}] `)];
  }
  const chipList = (texts) => make("ul", { class: "chips" }, texts.map((t) => make("li", {}, t)));
  function card(candidate, details, answer) {
    const taken = answer && answer.candidate === candidate.key;
    const scores = Object.entries(candidate.scores).map(([name, value]) => `${name} ${value}`);
    const ranks = Object.entries(details.rankings).map(([name, r]) => {
      const rank = r.ranks[r.keys.indexOf(candidate.key)];
      return rank === undefined ? null : make("li", rank === 1 ? { class: "strong" } : {}, `${name}: rank ${rank}`);
    });
    const takers = details.answers.filter((a) => a.candidate === candidate.key).map((a) => a.method);
    return make("div", { class: taken ? "card taken" : "card" },
      make("header", {}, make("b", {}, candidate.key), make("span", {}, candidate.choice)),
      make("p", { class: "text", tabindex: "0" }, candidate.text || "(empty)"),
      chipList(scores), make("ul", { class: "chips" }, ranks),
      takers.length ? make("p", { class: "where" }, `taken by ${takers.join(", ")}`) : null);
  }
  function matrix(name, ranking) {
    const largest = Math.max(...ranking.logits.flat().map((v) => Math.abs(v || 0))) || 1;
    const cell = (value, i, j) => {
      if (i === j || value === null) return make("td", {}, "");
      const share = Math.round((60 * Math.abs(value)) / largest);
      const colour = value >= 0 ? "--blue" : "--orange";
      const box = make("td", {}, value.toFixed(2));
      box.style.background = `color-mix(in srgb, var(${colour}) ${share}%, transparent)`;
      return box;
    };
    const head = make("tr", {}, make("th", {}, ""), ranking.keys.map((k) => make("th", { scope: "col" }, k)));
    const rows = ranking.logits.map((row, i) =>
      make("tr", {}, make("th", { scope: "row" }, ranking.keys[i]), row.map((v, j) => cell(v, i, j))));
    return make("details", { open: "" }, make("summary", {}, `${name}: above 0, the row beats the column`),
      make("div", { class: "scroll" }, make("table", { class: "matrix" }, make("thead", {}, head), make("tbody", {}, rows))));
  }

  // --- start ------------------------------------------------------------------------------------
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  tabs.forEach((tab) => tab.addEventListener("click", () => follow(tab)));
  blockBox.addEventListener("change", () => { outcomeBox.value = ""; fillFilters(); find(); });
  methodBox.addEventListener("change", fillOutcomes);
  for (const box of [methodBox, outcomeBox, sliceBox, deep]) {
    box.addEventListener("change", async () => { await find(); if (current >= 0 && hits.includes(current)) open(current, false); });
  }
  let timer = 0;
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(find, 150); });
  async function start() {
    index = await part("index");
    fillBlocks();
    const asked = decodeURIComponent((location.hash.match(/^#q=(.*)/) || [])[1] || "");
    const linked = index.ids.indexOf(asked);
    if (linked >= 0) blockBox.value = String(index.block[linked]);
    fillFilters();
    if (linked >= 0) current = linked;
    await find();
    if (linked >= 0) { await open(linked, false); byId("question").scrollIntoView(); }
    browser.dataset.ready = "true";
  }
  start().catch((error) => (byId("count").textContent = `The questions cannot be read: ${error.message}`));
})();
