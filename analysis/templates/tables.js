// Tables: sort by a column, filter rows, copy what is shown as CSV or LaTeX.

// The number that a cell begins with, or NaN: "−0.12", "1 234", "82%", "< 0.001", "0.12 to 0.34".
function numberIn(text) {
  const plain = text.replace(/\u2212/g, "-").replace(/[\u202f\u00a0](?=\d)/g, "").replace(/^[<>≥≤]\s*/, "");
  const found = plain.match(/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/i);
  return found ? Number(found[0]) - (/^</.test(text) ? 1e-12 : 0) : NaN;
}

// Order of two cells; what is empty or "–" comes last whichever way one sorts.
function compareCells(a, b, numeric, way) {
  if (numeric) {
    const [x, y] = [numberIn(a), numberIn(b)];
    if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
    return way * (x - y);
  }
  const [none, other] = [a === "" || a === "–", b === "" || b === "–"];
  if (none || other) return none - other;
  return way * a.localeCompare(b, undefined, { numeric: true });
}

function csvOf(rows) {
  // An apostrophe before what a spreadsheet would run as a formula; numbers stay.
  const safe = cell => /^[=+\-@\t\r]/.test(cell) && isNaN(Number(cell)) ? `'${cell}` : cell;
  const plain = cell => cell.replace(/\u2212(?=\d)/g, "-").replace(/\u202f(?=\d)/g, "");
  const quoted = cell => /[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
  return rows.map(row => row.map(cell => quoted(safe(plain(cell)))).join(",")).join("\n") + "\n";
}

function latexOf(rows, numeric) {
  const signs = {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "$<$", ">": "$>$",
    "→": "$\\to$", "−": "$-$", "–": "--", "±": "$\\pm$", "×": "$\\times$", "η": "$\\eta$", "ω": "$\\omega$",
    "²": "\\textsuperscript{2}", "ₚ": "\\textsubscript{p}", "\u202f": "\\,", "≥": "$\\ge$",
  };
  const escaped = cell => cell.replace(/[\\~^<>→−–±×ηω²ₚ\u202f≥]|[&%$#_{}]/g, sign => signs[sign] || `\\${sign}`);
  const [head, ...body] = rows.map(row => row.map(escaped).join(" & ") + " \\\\");
  return [`\\begin{tabular}{${numeric.map(n => n ? "r" : "l").join("")}}`, "\\toprule", head, "\\midrule", ...body,
    "\\bottomrule", "\\end{tabular}", ""].join("\n");
}

(() => {
  const FEW = 8; // rows that need no filter
  for (const holder of document.querySelectorAll(".table")) {
    const table = holder.querySelector("table"), body = table.tBodies[0], rows = [...body.rows];
    if (!rows.length) continue;
    const heads = [...table.tHead.rows[0].cells], numeric = heads.map(head => head.classList.contains("n"));
    const names = heads.map(head => head.textContent.trim());
    if (rows.length > 1) heads.forEach((head, i) => {
      const button = make("button", { type: "button", title: `Sort by ${names[i]}` }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        // Numbers fall at first: one wants to see the largest.
        const way = before === "descending" ? 1 : before === "ascending" ? -1 : numeric[i] ? -1 : 1;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
        const text = row => row.cells[i].textContent.trim();
        body.append(...[...body.rows].sort((a, b) => compareCells(text(a), text(b), numeric[i], way)));
      });
    });
    if (rows.length > FEW) {
      const count = make("span", { role: "status" });
      const field = make("input", { type: "search", size: 14, autocomplete: "off" });
      field.addEventListener("input", () => {
        const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
        let shown = 0;
        for (const row of rows) {
          const text = row.textContent.toLowerCase();
          shown += !(row.hidden = !wanted.every(word => text.includes(word)));
        }
        count.textContent = wanted.length ? `${shown} of ${rows.length} rows` : "";
      });
      holder.querySelector(".scroll").before(make("div", { className: "tools" },
        make("label", {}, "Filter ", field), count));
    }
    const seen = () => [names, ...[...body.rows].filter(row => !row.hidden).map(
      row => [...row.cells].map(cell => cell.textContent.trim()))];
    for (const [what, write] of [["CSV", csvOf], ["LaTeX", rows => latexOf(rows, numeric)]]) {
      const button = make("button", { type: "button" }, `copy ${what}`);
      button.setAttribute("aria-label", `copy ${what} of the rows shown`);
      button.addEventListener("click", async () => {
        await copy(write(seen()), what);
        button.textContent = "copied";
        setTimeout(() => { button.textContent = `copy ${what}`; }, 1500);
      });
      holder.querySelector(".links .anchor").before(button, " · ");
    }
  }
})();
