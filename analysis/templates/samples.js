// The wall of samples: sort by any score, larger or smaller, one image enlarged; two designs face to face.
(() => {
  for (const wall of document.querySelectorAll(".wall")) {
    const table = wall.querySelector("table"), body = table.tBodies[0];
    const scores = JSON.parse(table.dataset.scores), columns = JSON.parse(table.dataset.columns);
    const above = [...body.rows].filter(row => row.classList.contains("reference"));
    const designs = [...body.rows].filter(row => !row.classList.contains("reference"));
    const nameOf = row => row.cells[0].childNodes[0].textContent.trim();
    const valuesOf = row => (row.dataset.values || "").split(" ").map(Number);
    const written = (row, i) => isNaN(valuesOf(row)[i]) ? "–" : valuesOf(row)[i].toPrecision(3);
    let shownScore = 0;

    const note = row => row.cells[0].querySelector("small");
    const first = new Map(designs.map(row => [row, note(row) && note(row).textContent]));
    const order = make("select", {}, ...scores.map(([label, up], i) => make("option", { value: i },
      `${label}, ${up === null ? "highest" : "best"} first`)), make("option", { value: "name" }, "name"));
    order.addEventListener("change", () => {
      const i = Number(order.value);
      const way = order.value !== "name" && scores[i][1] === false ? 1 : -1;
      const by = order.value === "name"
        ? (a, b) => nameOf(a).localeCompare(nameOf(b), undefined, { numeric: true })
        : (a, b) => {
          const [x, y] = [valuesOf(a)[i], valuesOf(b)[i]];
          return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) : way * (x - y);
        };
      body.append(...above, ...[...designs].sort(by));
      shownScore = order.value === "name" ? shownScore : i;
      for (const row of designs) {
        if (note(row)) note(row).textContent = shownScore ? `${scores[shownScore][0]} ${written(row, shownScore)}` : first.get(row);
      }
      faces.redraw();
    });
    const size = make("input", { type: "range", min: 2.5, max: 12, step: .1, value: 5.4 });
    size.addEventListener("input", () => table.style.setProperty("--cell", `${size.value}rem`));
    wall.prepend(make("div", { className: "tools" }, make("label", {}, "Sort by ", order),
      make("label", {}, "Size ", size), "Press an image to enlarge it."));

    // One image enlarged
    const picture = make("img", { alt: "" }), words = make("p"), close = make("button", { type: "button" }, "Close");
    const [back, on] = ["Previous", "Next"].map(text => make("button", { type: "button" }, text));
    const dialog = make("dialog", { "aria-label": "One sample, enlarged" }, words,
      make("div", { className: "tools" }, back, on, close));
    wall.append(dialog);
    let opened = null;
    const images = () => [...body.querySelectorAll("td img")];
    const enlarge = image => {
      opened = image;
      const row = image.closest("tr"), column = image.closest("td").cellIndex - 1;
      picture.src = image.src;
      dialog.prepend(picture);
      picture.alt = image.alt;
      const of = row.classList.contains("reference") ? (note(row) ? note(row).textContent : "")
        : scores.map(([label], i) => `${label} ${written(row, i)}`).join(", ");
      const drawn = row.querySelector("th").textContent.startsWith("reference") ? "" : columns[column];
      words.textContent = [nameOf(row), of, drawn].filter(Boolean).join(" · ");
      if (!dialog.open) dialog.showModal();
    };
    const go = step => {
      const all = images();
      enlarge(all[(all.indexOf(opened) + step + all.length) % all.length]);
    };
    back.addEventListener("click", () => go(-1));
    on.addEventListener("click", () => go(1));
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("keydown", event => {
      if (event.key === "ArrowRight") go(1);
      if (event.key === "ArrowLeft") go(-1);
    });
    // Buttons about the images, of which the tab key reaches one; arrows go to the others.
    for (const image of images()) {
      const button = make("button", { type: "button", tabIndex: -1 });
      image.replaceWith(button);
      button.append(image);
    }
    const buttons = () => [...body.querySelectorAll("td button")];
    if (buttons().length) buttons()[0].tabIndex = 0;
    body.addEventListener("click", event => {
      const button = event.target.closest("button");
      if (button) enlarge(button.firstChild);
    });
    body.addEventListener("keydown", event => {
      const cell = event.target.closest("td");
      const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] || [];
      if (!cell || down === undefined) return;
      event.preventDefault();
      let row = cell.parentElement, column = cell.cellIndex, next = null;
      do {
        row = down < 0 ? row.previousElementSibling : down > 0 ? row.nextElementSibling : row;
        column += right;
        next = row && row.cells[column];
      } while (next && !next.querySelector("button"));
      if (!next) return;
      for (const button of buttons()) button.tabIndex = -1;
      next.firstChild.tabIndex = 0;
      next.firstChild.focus();
    });

    const faces = designs.length > 1 ? faceToFace() : { redraw() {} };

    // Two rows over one another, parted by a line that one moves
    function faceToFace() {
      const rows = [...designs, ...above.filter(row => !nameOf(row).startsWith("reference"))];
      const choose = index => make("select", {}, ...rows.map((row, i) => make("option", { value: i, selected: i === index },
        nameOf(row))));
      const left = choose(0), right = choose(designs.length - 1), names = make("p", { className: "names" });
      const line = make("input", { type: "range", min: 0, max: 100, value: 50 });
      line.setAttribute("aria-label", "Where the left design ends and the right one begins, in percent");
      const strip = make("div", { className: "row" });
      const part = make("div", { className: "face" }, make("h3", {}, "Two designs face to face"),
        make("div", { className: "tools" }, make("label", {}, "Left ", left), make("label", {}, "Right ", right)), line, strip, names);
      const about = row => {
        const i = shownScore, values = row.dataset.values;
        return `${nameOf(row)}${values ? `: ${scores[i][0]} ${written(row, i)}` : ""}`;
      };
      const redraw = () => {
        const [a, b] = [rows[left.value], rows[right.value]];
        names.replaceChildren(...[a, b].map(row => make("span", {}, about(row))));
        strip.replaceChildren(...columns.flatMap((_, i) => {
          const pair = [a, b].map(row => row.cells[i + 1].querySelector("img"));
          if (pair.some(image => !image)) return [];
          return make("div", { className: "over" }, ...pair.map(image => make("img", { src: image.src, alt: image.alt })));
        }));
        if (!strip.children.length) strip.replaceChildren("These two have no samples from the same noise.");
      };
      line.addEventListener("input", () => part.style.setProperty("--at", `${line.value}%`));
      strip.addEventListener("pointermove", event => {
        const over = event.target.closest(".over");
        if (!over) return;
        const place = over.getBoundingClientRect();
        line.value = 100 * (event.clientX - place.left) / place.width;
        part.style.setProperty("--at", `${line.value}%`);
      });
      left.addEventListener("change", redraw);
      right.addEventListener("change", redraw);
      wall.after(part);
      redraw();
      return { redraw };
    }
  }
})();
