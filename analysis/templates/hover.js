// What a mark stands for, beside the pointer; with the keyboard, arrows go from mark to mark of a figure.
(() => {
  const box = make("div", { id: "tip", hidden: true });
  document.body.append(box);
  let at = null;
  const words = new Map();
  for (const title of document.querySelectorAll("figure svg .tip > title")) {
    words.set(title.parentElement, title.textContent);
    title.remove(); // the browser's own would show a second time
  }
  const hide = () => {
    if (at) at.classList.remove("at");
    at = null;
    box.hidden = true;
  };
  const show = (mark, x, y) => {
    if (at !== mark) {
      hide();
      (at = mark).classList.add("at");
      box.textContent = words.get(mark);
    }
    box.hidden = false;
    const left = Math.min(x + 14, document.documentElement.clientWidth - box.offsetWidth - 8);
    const top = y + 18 + box.offsetHeight > innerHeight ? y - box.offsetHeight - 12 : y + 18;
    box.style.left = `${Math.max(left, 8) + scrollX}px`;
    box.style.top = `${Math.max(top, 4) + scrollY}px`;
  };
  const markOf = event => event.target instanceof Element ? event.target.closest(".tip") : null;
  let where = "";
  document.addEventListener("pointermove", event => {
    const now = `${event.screenX} ${event.screenY}`; // a page that scrolls below the pointer is no movement of it
    if (now === where) return;
    where = now;
    const mark = markOf(event);
    if (mark && words.has(mark)) show(mark, event.clientX, event.clientY);
    else if (at && !at.ownerSVGElement.matches(":focus")) hide();
  });
  document.addEventListener("pointerdown", event => { // touch
    const mark = markOf(event);
    if (mark && words.has(mark)) show(mark, event.clientX, event.clientY); else hide();
  });
  for (const svg of document.querySelectorAll("figure svg")) {
    const marks = [...svg.querySelectorAll(".tip")].filter(mark => words.has(mark));
    if (!marks.length) continue;
    let now = -1;
    svg.tabIndex = 0;
    svg.setAttribute("aria-label", `${svg.getAttribute("aria-label")}. Arrow keys read its ${marks.length} marks.`);
    svg.addEventListener("keydown", event => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") return hide();
      if (!step) return;
      event.preventDefault();
      now = now < 0 ? (step > 0 ? 0 : marks.length - 1) : (now + step + marks.length) % marks.length;
      const next = marks[now];
      const place = next.getBoundingClientRect();
      show(next, place.right - 10, place.bottom - 10);
      said.textContent = words.get(next).replaceAll("\n", ", ");
    });
    svg.addEventListener("blur", hide);
  }
  document.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
})();
