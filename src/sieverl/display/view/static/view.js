// The little that the pages cannot do by themselves: keys, the theme, a run that goes on, maths, and explanations in
// place. Without it every page works. No text of a page is ever made into markup here.
"use strict";

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// --- theme: the system's, or the one that was chosen ---
const root = document.documentElement;
const setTheme = (name) => { root.classList.remove("light", "dark"); if (name) root.classList.add(name); };
let theme = null;
try { theme = localStorage.getItem("theme"); } catch { /* no storage: the system's theme */ }
setTheme(theme);
const flip = () => {
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  theme = dark ? "light" : "dark";
  try { localStorage.setItem("theme", theme); } catch { /* as above */ }
  setTheme(theme);
};
$("#theme")?.addEventListener("click", flip);

// --- keys ---
const links = () => $$("a.groups-link");
const move = (by) => {
  const all = links(), at = all.indexOf(document.activeElement);
  all[Math.min(all.length - 1, Math.max(0, at + by))]?.focus();
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const marked = $(`[data-key="${CSS.escape(event.key)}"]`);
  if (marked) marked.click();
  else if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "t") flip();
  else if (event.key === "u" && location.pathname !== "/") location.href = "/";
  else if (event.key === "/" && $("input[type=search]")) $("input[type=search]").focus();
  else return;
  event.preventDefault();
});

// --- a run that goes on: the same page again, only if it has changed ---
const live = $("#live");
if (live) {
  let tag = null;
  const look = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(live.dataset.live, tag ? { headers: { "If-None-Match": tag }, cache: "no-store" } : {});
      if (answer.status !== 200) return;
      const first = tag === null;
      tag = answer.headers.get("ETag");
      if (first || live.contains(document.activeElement)) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      live.replaceChildren(...fresh.getElementById("live").childNodes);
    } catch { /* the viewer was stopped; the page stays as it is */ }
  };
  look();
  setInterval(look, 3000);
}

// --- maths, drawn when asked for ---
const formula = /\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\[([\s\S]+?)\\\]|\\\((.+?)\\\)|(\\boxed\{(?:[^{}]|\{[^{}]*\})*\})/g;
const draw = (node) => {
  const text = node.textContent, parts = [];
  let end = 0;
  for (const found of text.matchAll(formula)) {
    const span = document.createElement("span");
    const tex = found.slice(1).find((part) => part !== undefined);
    try {
      katex.render(tex, span, { throwOnError: true, trust: false, maxExpand: 100, maxSize: 20, strict: "ignore" });
    } catch { span.textContent = found[0]; }
    parts.push(text.slice(end, found.index), span);
    end = found.index + found[0].length;
  }
  if (end) node.replaceChildren(...parts, text.slice(end));
};
const maths = $("#maths");
maths?.addEventListener("click", () => {
  if (window.katex) return $$(".maths").forEach(draw);
  const sheet = Object.assign(document.createElement("link"), { rel: "stylesheet", href: "/static/katex/katex.min.css" });
  const script = Object.assign(document.createElement("script"), { src: "/static/katex/katex.min.js" });
  script.onload = () => { $$(".maths").forEach(draw); maths.disabled = true; };
  document.head.append(sheet, script);
});

// --- a verdict explained in its place ---
$$("form.verify").forEach((form) => form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const told = $(".told", form.parentElement);
  told.textContent = "verifying …";
  try {
    const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    told.replaceChildren(page.querySelector("#verdict") ?? page.querySelector("main"));
  } catch { told.textContent = "the viewer does not answer; was it stopped?"; }
}));
