// Everything the page does beyond showing: theme, picking a picture, filtering, sorting, and loading details on demand.
// Whatever a model wrote is only ever put in place as text (textContent), never as markup.
(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("scripted");
  const byId = (id) => document.getElementById(id);
  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };

  // Theme: auto, light, dark. Storage may be refused for a page on a disk; the choice then lasts as long as the page.
  const themes = ["auto", "light", "dark"];
  let theme = "auto";
  const showTheme = () => {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    byId("theme").textContent = "Theme: " + theme;
  };
  try { theme = themes.find((name) => name === localStorage.getItem("steelyard-theme")) || "auto"; } catch (refused) { theme = "auto"; }
  showTheme();
  byId("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    showTheme();
    try { localStorage.setItem("steelyard-theme", theme); } catch (refused) { /* not kept */ }
  });

  // Quality against cost: show the picture of the pair chosen.
  const pictures = [...document.querySelectorAll(".picture[data-quality]")];
  if (pictures.length) {
    const pick = () => {
      let found = false;
      for (const picture of pictures) {
        picture.hidden = picture.dataset.quality !== byId("quality").value || picture.dataset.cost !== byId("cost").value;
        found = found || !picture.hidden;
      }
      byId("no-picture").hidden = found;
    };
    for (const id of ["quality", "cost"]) byId(id).addEventListener("change", pick);
    pick();
  }

  // Samples that changed: filter, and show some at a time.
  const flips = [...document.querySelectorAll(".flip")];
  if (flips.length) {
    const step = 25;
    let shown = step;
    const show = () => {
      const wanted = { arm: byId("flip-arm").value, task: byId("flip-task").value, way: byId("flip-way").value };
      const chosen = flips.filter((flip) => Object.keys(wanted).every((key) => !wanted[key] || flip.dataset[key] === wanted[key]));
      const visible = new Set(chosen.slice(0, shown));
      for (const flip of flips) flip.hidden = !visible.has(flip);
      byId("flip-count").textContent = `${Math.min(shown, chosen.length)} of ${chosen.length}`;
      byId("flip-more").hidden = chosen.length <= shown;
    };
    for (const id of ["flip-arm", "flip-task", "flip-way"]) byId(id).addEventListener("change", () => { shown = step; show(); });
    byId("flip-more").addEventListener("click", () => {
      const first = flips.filter((flip) => !flip.hidden).length;
      shown += step;
      show();
      const next = flips.filter((flip) => !flip.hidden)[first];
      if (next) next.querySelector("summary").focus();
    });
    flips[0].open = true;
    show();
  }

  // All cells: filters from what the columns hold, headings that sort.
  const table = byId("all-cells");
  const rows = [...table.tBodies[0].rows];
  const word = (row, column) => {
    const cell = row.cells[column];
    return (cell.querySelector(".chip") ? cell.querySelector(".chip").lastChild : cell).textContent.trim(); // the word beside the glyph
  };
  const filters = [...document.querySelectorAll("[data-filter]")];
  const filter = () => {
    let count = 0;
    for (const row of rows) {
      row.hidden = !filters.every((select) => !select.value || word(row, Number(select.dataset.filter)) === select.value);
      count += row.hidden ? 0 : 1;
    }
    byId("cell-count").textContent = `${count} of ${rows.length}`;
  };
  for (const select of filters) {
    select.append(new Option("all", ""));
    for (const value of new Set(rows.map((row) => word(row, Number(select.dataset.filter))))) select.append(new Option(value, value));
    select.addEventListener("change", filter);
  }
  filter();
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make("button", head.textContent);
    button.type = "button";
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => (row.cells[column].dataset.v === undefined ? word(row, column) : row.cells[column].dataset.v);
      const numeric = rows.some((row) => row.cells[column].dataset.v !== undefined);
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (numeric && (x === "" || y === "")) return (x === "") - (y === ""); // what was not measured stays last
        return (numeric ? Number(x) - Number(y) : x.localeCompare(y)) * (down ? -1 : 1);
      };
      rows.sort(order);
      table.tBodies[0].append(...rows);
    });
  });

  // Details: scripts beside the page that hand their rows to steelyardDetails.
  const manifest = byId("manifest") ? JSON.parse(byId("manifest").textContent) : [];
  const loaded = new Map(); // "arm\ntask" -> rows
  const keyOf = (arm, task) => arm + "\n" + task;
  window.steelyardDetails = (arm, task, part) => {
    const key = keyOf(arm, task);
    loaded.set(key, (loaded.get(key) || []).concat(part));
  };
  const fetched = new Map();
  const load = (file) => {
    if (!fetched.has(file)) {
      fetched.set(file, new Promise((done, fail) => {
        const script = document.createElement("script");
        script.src = file;
        script.onload = done;
        script.onerror = () => { fetched.delete(file); fail(new Error(file)); };
        document.head.append(script);
      }));
    }
    return fetched.get(file);
  };
  const rowsOf = async (arm, task) => {
    const entry = manifest.find((one) => one.arm === arm && one.task === task);
    for (const file of entry ? entry.files : []) await load(file);
    return loaded.get(keyOf(arm, task)) || [];
  };
  if (manifest.length) {
    const base = manifest[0].arm;
    const [armSelect, taskSelect, out, count, more] = ["details-arm", "details-task", "details-rows", "details-count", "details-more"].map(byId);
    for (const arm of new Set(manifest.map((one) => one.arm))) armSelect.append(new Option(arm, arm));
    for (const [task, title] of new Map(manifest.map((one) => [one.task, one.title]))) taskSelect.append(new Option(title, task));
    const step = 20;
    let chosen = [];
    let others = new Map();
    const values = (row) => Object.entries(row.values).map(([name, value]) => `${name} ${value === null ? "not scored" : Array.isArray(value) ? value.join("/") : value}`).join(", ");
    const side = (name, row) => {
      const box = make("div");
      const head = make("h3", name);
      head.append(make("span", row ? values(row) : "no record"));
      const text = make("div", row ? row.text : "", "text");
      text.dir = "auto";
      box.append(head, text);
      return box;
    };
    const show = () => {
      for (const row of chosen.slice(out.children.length, out.children.length + step)) {
        const box = make("div", undefined, "record");
        const list = make("dl");
        for (const [name, text] of [["Sample", row.sample], ["Question", row.question], ["Expected", row.expected]]) {
          if (!text) continue;
          const item = make("dd", text, "text");
          item.dir = "auto";
          list.append(make("dt", name), item);
        }
        const sides = make("div", undefined, "sides");
        if (armSelect.value !== base) sides.append(side(base, others.get(row.sample)));
        sides.append(side(armSelect.value, row));
        box.append(list, sides);
        out.append(box);
      }
      more.hidden = out.children.length >= chosen.length;
      count.textContent = `${out.children.length} of ${chosen.length}`;
    };
    more.addEventListener("click", show);
    byId("details").addEventListener("submit", async (event) => {
      event.preventDefault();
      out.replaceChildren();
      more.hidden = true;
      count.textContent = "loading";
      try {
        const task = taskSelect.value;
        others = new Map((await rowsOf(base, task)).map((row) => [row.sample, row]));
        const wanted = byId("details-text").value.toLowerCase();
        chosen = (await rowsOf(armSelect.value, task)).filter((row) => {
          const other = others.get(row.sample);
          const differs = !byId("details-differ").checked || !other || other.text !== row.text;
          return differs && (!wanted || (row.question + "\n" + row.expected + "\n" + row.text).toLowerCase().includes(wanted));
        });
        show();
      } catch (missing) {
        count.textContent = `${missing.message} is not beside this page. Put the folder "details" there, or ignore this part.`;
      }
    });
  }

  // On paper nothing can be unfolded.
  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll(".key, .check details")) part.open = true; // long lists of cells stand in the table of all
    for (const flip of flips.filter((one) => !one.hidden).slice(0, 10)) flip.open = true;
  });
})();
