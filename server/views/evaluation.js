// An evaluation: the models in a row with what each step fixed and broke, families, and probes with every answer.
(() => {
  const COUNT = 12;
  const FILTERS = [["changed", "fixed or broken"], ["fixed", "fixed"], ["broken", "broken"], ["wrong", "wrong at the end"], ["all", "all"]];
  const NAMES = { base: "base", adapter: "adapter", f16: "GGUF f16", q4_k_m: "Q4_K_M" };
  const named = (label) => NAMES[label] ?? label;
  function build(root, source) {
    const top = el("div"), probes = el("section", { "aria-label": "Probes" });
    root.replaceChildren(top, probes);
    let latest = {}, only = "changed";

    function show(data) {
      latest = data;
      only = source ? data.page?.only ?? only : data.counts.changed ? "changed" : "all";
      const passed = data.passed;
      top.replaceChildren(
        el("div", { class: "head" }, el("h1", {}, data.name),
          passed === true || passed === false
            ? el("span", { class: `badge ${passed ? "good" : "bad"}`, role: "status" }, passed ? "gate passed" : "gate: no") : "",
          data.promoted ? el("span", { class: "badge good" }, "promoted") : ""),
        el("p", { class: "soft small" }, [`probes: ${data.suite}`,
          ...Object.entries(data.others ?? {}).map(([label, run]) => `${named(label)} from ${run}`), asOf(data.written)].filter(Boolean).join(", ")),
        data.reason ? el("p", { class: passed === false ? "bad" : "" }, data.reason) : "",
        el("p", { class: "small" }, data.verdict),
        el("div", { class: "steps" }, data.models.flatMap((model, place) => [
          place ? between(data.steps[place - 1]) : null, card(model)]).filter(Boolean)),
        data.families?.length ? families(data) : "");
      if (data.page) showProbes(data.page);
    }

    function showProbes(page) {
      const all = source ? page.rows : page.rows.filter((row) => matches(row, only));
      const first = page.first, count = source ? page.count : COUNT, total = source ? page.total : all.length;
      const shown = source ? all : all.slice(first, first + COUNT);
      const filters = el("div", { class: "row", role: "group", "aria-label": "Which probes" }, FILTERS.map(([value, label]) =>
        el("button", { type: "button", "aria-pressed": String(value === only), onclick: () => go(0, value) }, `${label} (${number(latest.counts[value])})`)));
      const turn = () => pager({ first, count, total, what: "probes" }, (to) => go(to, only));
      probes.replaceChildren(el("h2", {}, "Probes, answer by answer"), filters, turn(), ...shown.map(article), total > count ? turn() : "");
    }

    async function go(first, filter) {
      only = filter;
      if (source) {
        try {
          showProbes((latest = { ...latest, ...(await source.ask({ first, only })) }).page);
        } catch (error) {
          return complain(root, error);
        }
      } else {
        showProbes({ ...latest.page, first });
      }
      [...probes.querySelectorAll("[role=group] button")].find((button) => button.getAttribute("aria-pressed") === "true")?.focus({ preventScroll: true });
    }

    const article = (row) => el("article", {},
      el("div", { class: "chips" }, [row.kind, row.family, row.id].map((chip) => el("span", { class: "chip" }, chip))),
      el("p", { class: "ask" }, row.prompt),
      el("div", { class: "answers" }, row.cells.map((cell, place) => el("div", { class: cell.word },
        el("span", { class: "small" }, `${named(latest.models[place].label)}: `, el("b", { class: cell.word }, cell.word), cell.by === "agent" ? " (agent)" : ""),
        el("pre", {}, cell.answer || "(no answer)"),
        cell.why ? el("p", { class: "small soft" }, cell.why) : ""))));
    return { show };
  }

  function matches(row, only) {
    const words = row.cells.slice(1).map((cell) => cell.word);
    if (only === "changed") return words.includes("fixed") || words.includes("broken");
    if (only === "wrong") return ["wrong", "broken"].includes(row.cells[row.cells.length - 1].word);
    return only === "all" || words.includes(only);
  }

  function card(model) {
    const score = (name, found) => !found ? [] : [
      el("dt", {}, `${name} (${found.right}/${found.total})`), el("dd", {}, percent(found.share)),
      el("div", { class: "share", role: "img", "aria-label": `${name} ${percent(found.share)}, 95 % interval ${percent(found.low)} to ${percent(found.high)}` },
        el("i", { style: { width: `${100 * (found.share ?? 0)}%` } }),
        el("u", { style: { left: `${100 * found.low}%`, width: `${100 * (found.high - found.low)}%` } }))];
    return el("div", { class: "model" }, el("h3", {}, named(model.label)), el("dl", {},
      score("recall", model.recall), score("controls", model.control),
      el("dt", {}, "perplexity"), el("dd", {}, number(model.perplexity)),
      el("dt", {}, "size"), el("dd", {}, `${number(model.size_mb, 0)} MB`),
      el("dt", {}, "tokens/s"), el("dd", {}, number(model.tokens_per_second, 0)),
      model.pending ? [el("dt", {}, "to judge"), el("dd", {}, number(model.pending))] : []));
  }

  const between = (step) => el("div", { class: "between", role: "img", "aria-label": `${step.from} to ${step.to}: ${step.fixed} fixed, ${step.broken} broken` },
    el("span", { class: step.fixed ? "good" : "soft" }, `+${step.fixed}`), el("span", { "aria-hidden": "true" }, "→"),
    el("span", { class: step.broken ? "bad" : "soft" }, `−${step.broken}`));

  function families(data) {
    const shade = (share) => `color-mix(in srgb, var(--good) ${Math.round(45 * share)}%, var(--pale))`;
    return el("details", { open: true }, el("summary", {}, "By family"), table("By family", ["", ...data.models.map((model) => named(model.label))],
      data.families.map((family) => [`${family.kind}: ${family.family}`, ...family.cells.map(([right, total]) =>
        el("td", { class: "heat", style: total ? { background: shade(right / total) } : {} }, total ? `${right} of ${total}` : "–"))])));
  }

  views.evaluation = build;
})();
