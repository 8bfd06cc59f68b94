// Which view it is, and where its data comes from: from the page itself, or from the server, through the host.
(() => {
  const root = document.getElementById("view");
  let shown = null;

  const draw = (data, source) => {
    if (shown?.view !== data.view) shown = { view: data.view, parts: views[data.view](root, source) };
    shown.parts.show(data);
  };

  const embedded = document.getElementById("data");
  if (embedded) return draw(JSON.parse(embedded.textContent), null);
  if (window.parent === window)
    return root.replaceChildren(el("p", {}, "This view is shown by an MCP host. For a page of its own: looptune open NAME."));

  const host = new Host();
  let name = null, given = {};
  const source = {
    get live() { return Boolean(host.can?.serverTools); },
    // all of it, and of rows or probes those that are asked for
    ask: async (changes = {}) => (await host.call("show", { name, query: String(new URLSearchParams({ ...given, ...changes })) })).data,
    call: (tool, values) => host.call(tool, values),
    stop: false,
  };
  const begin = async (data) => {
    if (data) draw(data, source);
    if (!source.live || !name) return;
    try {
      draw(await source.ask(), source);
    } catch (error) {
      complain(root, error);
    }
  };
  host.heard["tool-input"] = (params) => {
    name = params.arguments?.name ?? name;
    given = { first: 0, ...Object.fromEntries(new URLSearchParams(params.arguments?.query ?? "")) };
  };
  host.heard["tool-result"] = (result) => {
    if (result.isError) return complain(root, result.content?.[0]?.text ?? "the tool failed");
    const data = result.structuredContent?.data;
    name = data?.name ?? name;
    begin(data);
  };
  host.heard["tool-cancelled"] = (params) => complain(root, `The call was cancelled. ${params.reason ?? ""}`);
  host.heard.teardown = () => { source.stop = true; };
  host.connect().catch((error) => complain(root, error));
})();
