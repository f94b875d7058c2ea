"use strict";
// What the other scripts share: making elements, saying something to readers of screens, copying.

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const said = make("div", { className: "said", role: "status" });
document.body.append(said);

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no permission, or a browser that does not let files copy: the old way
    const area = make("textarea", { value: text, className: "said" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  said.textContent = `${what} copied.`;
}

// Contents: mark the section that is read.
(() => {
  const links = new Map([...document.querySelectorAll("nav a")].map(a => [a.hash.slice(1), a]));
  const heads = [...document.querySelectorAll("main h2[id]")].filter(h => links.has(h.id));
  if (!heads.length) return;
  let current = null;
  const mark = () => {
    const passed = heads.filter(h => h.getBoundingClientRect().top < innerHeight * .35);
    const link = links.get((passed[passed.length - 1] || heads[0]).id);
    if (link === current) return;
    if (current) current.removeAttribute("aria-current");
    (current = link).setAttribute("aria-current", "true");
    const list = link.closest("ul"); // moves only the bar, never the page
    list.scrollLeft = link.offsetLeft - list.offsetLeft - (list.clientWidth - link.offsetWidth) / 2;
  };
  let waiting = false;
  addEventListener("scroll", () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; mark(); });
    waiting = true;
  }, { passive: true });
  mark();
})();

// A page that is loaded again, as one of a study under way is by itself, keeps the chosen figures and what was unfolded.
(() => {
  const key = `sdpet ${location.pathname}`;
  const parts = () => [...document.querySelectorAll("details")];
  const nameOf = part => part.querySelector("summary").textContent;
  try {
    const kept = JSON.parse(sessionStorage.getItem(key) || "null");
    if (kept && performance.getEntriesByType("navigation")[0].type === "reload") {
      for (const id of kept.chosen) {
        const input = document.getElementById(id);
        if (input) input.checked = true;
      }
      for (const part of parts()) part.open = kept.open.includes(nameOf(part)) || part.open;
    }
    addEventListener("pagehide", () => sessionStorage.setItem(key, JSON.stringify({
      chosen: [...document.querySelectorAll(".choice > input:checked")].map(input => input.id),
      open: parts().filter(part => part.open).map(nameOf),
    })));
  } catch { /* a browser that lets files keep nothing */ }
})();

// On paper nothing unfolds: the whole conclusion is printed.
(() => {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.detail:not([open])")];
    for (const part of opened) part.open = true;
  });
  addEventListener("afterprint", () => { for (const part of opened) part.open = false; });
})();

// A link to something inside a closed part opens it.
(() => {
  const open = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const parts = [...target.querySelectorAll(":scope > details")];
    for (let e = target.closest("details"); e; e = e.parentElement.closest("details")) parts.push(e);
    for (const part of parts) part.open = true;
    if (parts.length) target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();
})();
