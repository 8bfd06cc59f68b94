// A job: where it stands, its curves, and a button that stops it.
(() => {
  const ACTIVE = ["queued", "running", "stopping"];
  const POLL_MS = 2000;
  function build(root, source) {
    const title = el("h1"), badge = el("span", { class: "badge", role: "status" }), about = el("p", { class: "soft small" });
    const bar = el("progress", { "aria-label": "steps done" }), where = el("p", { role: "status" }), why = el("p", { class: "soft" });
    const tiles = el("div", { class: "tiles" });
    const loss = new Chart("Loss, nats a token", ""), memory = new Chart("Memory, GB", "GB", { zero: true });
    const speed = new Chart("Speed, tokens a second", "tokens/s", { zero: true, digits: 0 });
    const charts = el("div", { class: "charts" }, loss.node, memory.node, speed.node);
    const settings = el("div"), figures = el("div"), log = el("pre", { tabindex: "0" });
    const cancel = canceller(source, (state) => show({ ...latest, ...state }));
    root.replaceChildren(
      el("div", { class: "head" }, title, badge, cancel.node), about, bar, where, why, tiles, charts,
      el("details", {}, el("summary", {}, "Settings"), settings),
      el("details", {}, el("summary", {}, "Figures as a table"), figures),
      el("details", {}, el("summary", {}, "End of the log"), log));
    let latest = {}, timer = null;

    function show(data) {
      latest = data;
      const now = data.metrics ?? {}, series = data.series ?? {}, result = data.result ?? {};
      const active = ACTIVE.includes(data.state), train = data.kind === "train";
      title.replaceChildren(data.id);
      badge.replaceChildren(data.state);
      badge.className = `badge ${{ finished: "good", failed: "bad", stopped: "fair" }[data.state] ?? ""}`;
      about.replaceChildren([data.about, asOf(data.written)].filter(Boolean).join(", "));
      bar.max = Math.max(1, data.total || 1);
      bar.hidden = !active && data.state !== "stopped";
      if (data.total || !active) bar.value = data.step; else bar.removeAttribute("value");
      where.replaceChildren(`${data.step} of ${data.total || "?"} ${train ? "steps" : "parts"} done${active && data.message ? `: ${data.message}` : ""}`);
      why.replaceChildren([data.reason, data.next_step && `Next: ${data.next_step}`].filter(Boolean).join(" "));
      const held = now.memory_gb ?? result.peak_memory_gb, limit = data.limit_gb;
      tiles.replaceChildren(...[
        train && tile("training loss", number(now.loss, 4)),
        train && tile(data.state === "finished" ? `validation loss, best, from ${number(result.valid_loss_before, 3)}` : "validation loss",
          number(result.valid_loss ?? now.valid_loss, 4)),
        held !== undefined && tile(limit ? `GB of memory, of ${number(limit, 1)} allowed` : "GB of memory", number(held), limit && held > 0.9 * limit ? "bad" : ""),
        (now.tokens_per_second ?? result.tokens_per_second) !== undefined && tile("tokens a second", number(now.tokens_per_second ?? result.tokens_per_second, 0)),
        active && now.seconds_left !== undefined && tile("time left", duration(now.seconds_left)),
        !active && data.seconds !== null && data.seconds !== undefined && tile("from start to end", duration(data.seconds)),
      ].filter(Boolean));
      charts.hidden = !train || !series.loss;
      if (series.loss) {
        loss.set([{ name: "training", tone: "blue", points: series.loss }, { name: "validation", tone: "rust", dots: true, points: series.valid_loss }]);
        memory.set([{ name: "process", tone: "blue", points: series.memory_gb }], limit ? { value: limit, name: `limit ${number(limit, 1)} GB` } : null);
        speed.set([{ name: "speed", tone: "blue", points: series.tokens_per_second }]);
        const valid = new Map(series.valid_loss), held = new Map(series.memory_gb), fast = new Map(series.tokens_per_second);
        figures.replaceChildren(table("Figures by step", ["step", "loss", "validation", "GB", "tokens/s"],
          [...new Set([...series.loss, ...series.valid_loss].map(([step]) => step))].sort((a, b) => a - b).map((step) =>
            [step, number(new Map(series.loss).get(step), 4), number(valid.get(step), 4), number(held.get(step)), number(fast.get(step), 0)])));
      }
      settings.replaceChildren(table("Settings", ["setting", "value"], Object.entries(data.settings ?? {}).map(([name, value]) =>
        [name, Array.isArray(value) ? value.join(", ") : String(value)])));
      log.replaceChildren((data.log ?? []).join("\n") || "nothing yet");
      cancel.show(data);
      clearTimeout(timer);
      if (active && source?.live) timer = setTimeout(poll, POLL_MS);
    }

    async function poll() {
      if (source.stop) return;
      try {
        if (!document.hidden) return show(await source.ask());
      } catch (error) {
        complain(root, error);
      }
      timer = setTimeout(poll, POLL_MS);
    }
    return { show };
  }

  // Stopping takes two presses, and says what is kept.
  function canceller(source, changed) {
    const ask = el("button", { type: "button", class: "danger" }, "Stop this job …");
    const yes = el("button", { type: "button", class: "danger" }, "Stop it");
    const no = el("button", { type: "button" }, "Go on");
    const kept = el("span", {});
    const sure = el("span", { class: "row", role: "group", "aria-label": "Stop this job?" }, kept, yes, no);
    const node = el("span", { class: "push" }, ask, sure);
    let run = null;
    const open = (is) => { ask.hidden = is; sure.hidden = !is; };
    open(false);
    ask.addEventListener("click", () => { open(true); no.focus(); });
    no.addEventListener("click", () => { open(false); ask.focus(); });
    node.addEventListener("keydown", (event) => { if (event.key === "Escape" && !sure.hidden) no.click(); });
    yes.addEventListener("click", async () => {
      yes.disabled = true;
      try {
        const state = await source.call("cancel_training", { run });
        open(false);
        changed({ state: state.state, reason: state.reason });
      } catch (error) {
        complain(document.getElementById("view"), error);
      }
      yes.disabled = false;
    });
    return {
      node,
      show(data) {
        run = data.id;
        node.hidden = !source?.live || !["queued", "running"].includes(data.state);
        kept.replaceChildren(data.kind === "train" ? "A checkpoint is kept." : "What is finished is kept.");
      },
    };
  }

  views.run = build;
})();
