// A dataset: what it is made of, what repeats, and its rows, with the loss mask on their tokens.
(() => {
  const COUNT = 10;
  const counts = (value) => Object.entries(value ?? {});
  const plural = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;

  function build(root, source) {
    const top = el("div"), rows = el("section", { "aria-label": "Rows" });
    root.replaceChildren(top, rows);
    let latest = {}, find = "", tokens = true, first = 0;

    function show(data) {
      latest = data;
      const repeated = data.duplicate_rows ?? {};
      top.replaceChildren(
        el("div", { class: "head" }, el("h1", {}, data.name),
          el("span", { class: `badge ${{ valid: "good", invalid: "bad" }[data.status] ?? "fair"}`, role: "status" }, data.status)),
        el("p", { class: "soft small" }, [data.about, asOf(data.written)].filter(Boolean).join(", ")),
        el("div", { class: "tiles" },
          tile("rows", number(data.rows)), tile("for training", number(data.train_rows)), tile("held back", number(data.valid_rows)),
          ...(data.report ? [
            tile("errors", number(data.error_count), data.error_count ? "bad" : ""),
            tile("exact duplicates", number(repeated.exact), repeated.exact ? "bad" : ""),
            tile("near duplicates", number(repeated.near), repeated.near ? "fair" : ""),
            tile("contradictions", number(data.contradictions), data.contradictions ? "bad" : ""),
          ] : [])),
        ...(data.warnings ?? []).map((warning) => el("p", { class: "fair" }, warning)),
        el("div", { class: "charts" }, ...[
          ["Kinds", counts(data.kinds)], ["Parts", counts(data.sections)],
          ["Length of the answers, characters", (data.lengths ?? []).map((bin) => [`to ${number(bin.up_to)}`, bin.rows])],
          ["Preservation levels", counts(data.levels)],
        ].filter(([, bins]) => bins.length).map(([title, bins]) => bars(title, bins))),
        ...problems(data));
      if (data.page) showRows(data.page);
    else if (source?.live) rows.replaceChildren(el("p", { class: "soft", role: "status" }, "Loading the rows and the tokenizer …"));
    }

    function problems(data) {
      const found = [];
      if (data.errors?.length) found.push(el("details", { open: true }, el("summary", {}, plural(data.error_count, "error")),
        table("Errors", ["line", "field", "what is wrong"], data.errors.map((e) => [e.line, e.field, e.message]))));
      if (data.duplicates?.length) found.push(el("details", {}, el("summary", {}, 
        `Rows that repeat each other: ${plural(data.duplicate_groups, "group")}${data.duplicates.length < data.duplicate_groups ? `, the first ${data.duplicates.length}` : ""}`),
        table("Rows that repeat each other", ["lines", "kind", "alike", "what they share"], data.duplicates.map((d) =>
          [d.lines.join(", "), d.kind, percent(d.similarity), d.text]))));
      return found;
    }

    function showRows(page) {
      first = page.first;
      const count = source ? page.count : COUNT;
      const total = source ? page.total : filtered().length;
      const shown = source ? page.rows : filtered().slice(first, first + COUNT);
      const input = el("input", { type: "search", "aria-label": "Find in rows", placeholder: "Find in rows", value: find });
      // no form: a host's sandbox may forbid to submit one
      const look = () => { find = input.value.trim(); go(0); };
      input.addEventListener("keydown", (event) => { if (event.key === "Enter") look(); });
      const form = el("div", { class: "row", role: "search" },
        input, el("button", { type: "button", onclick: look }, "Find"),
        page.base && el("button", { type: "button", "aria-pressed": String(tokens), onclick: (event) => {
          tokens = !tokens;
          event.currentTarget.setAttribute("aria-pressed", String(tokens));
          list.replaceChildren(...shown.map((row) => article(row, tokens)));
          legend.hidden = !tokens;
        } }, "As tokens"));
      const legend = el("p", { class: "small soft", hidden: !tokens || !page.base },
        `Tokens of ${page.base ?? ""}; the loss is taken of `, el("span", { class: "tokens" }, el("span", { class: "trained" }, "marked")), " ones",
        page.max_length ? `, and ${number(page.max_length)} tokens is where a row is cut.` : ".");
      const list = el("div", {}, shown.map((row) => article(row, tokens)));
      rows.replaceChildren(el("h2", {}, "Rows"), form, page.note ? el("p", { class: "fair small" }, page.note) : "", legend,
        pager({ first, count, total, what: "rows" }, go), list, total > count ? pager({ first, count, total, what: "rows" }, go) : "");
    }

    const filtered = () => (find ? latest.page.rows.filter((row) => `${row.question}\n${row.answer}`.toLowerCase().includes(find.toLowerCase())) : latest.page.rows);

    async function go(to) {
      if (source) {
        try {
          showRows((latest = { ...latest, ...(await source.ask({ first: to, find })) }).page);
        } catch (error) {
          return complain(root, error);
        }
      } else {
        showRows({ ...latest.page, first: to });
      }
      rows.querySelector("input").focus({ preventScroll: true });
    }
    return { show };
  }

  function article(row, asTokens) {
    const chips = [`line ${row.line}`, row.part, row.kind, row.level, ...row.rules].filter(Boolean);
    const body = asTokens && row.tokens
      ? [el("p", { class: "small soft" }, `${plural(row.trained, "token")} of ${row.tokens.length} trained${row.cut ? `, ${row.cut} cut off` : ""}`), masked(row)]
      : [...(row.system ? [el("p", { class: "small soft" }, `system: ${row.system}`)] : []),
         ...(row.history ?? []).flatMap(([question, answer]) => [el("p", { class: "ask" }, question), el("pre", {}, answer)]),
         el("p", { class: "ask" }, row.question), el("pre", {}, row.answer)];
    return el("article", {}, el("div", { class: "chips" }, chips.map((chip) => el("span", { class: "chip" }, chip))), ...body);
  }

  function masked(row) {
    const keep = row.tokens.length - row.cut;
    const isTrained = (place) => row.spans.some(([begin, end]) => begin <= place && place < end);
    const box = el("div", { class: "tokens" });
    row.tokens.forEach((text, place) => {
      const kind = place >= keep ? "cut" : isTrained(place) ? "trained" : "";
      box.append(el("span", { class: kind, title: kind === "cut" ? "cut off" : kind ? "trained" : "read, not trained" }, text.replace(/\n/g, "⏎\n")));
    });
    return box;
  }

  views.dataset = build;
})();
