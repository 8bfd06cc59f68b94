// A small MCP host, driven by tests/test_views.py over stdin and stdout, a JSON value a line each way.
//
// It starts the real server over stdio with the official client, reads the view's HTML as a ui:// resource, shows it in
// a sandboxed iframe in headless Chromium, and connects the two with the official AppBridge. Every request that a page
// makes to anywhere is refused and remembered.
import readline from "node:readline";
import { fileURLToPath } from "node:url";
import { Client } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import { build } from "esbuild";
import { chromium } from "playwright-core";

const MIME = "text/html;profile=mcp-app";
const asked = [], errors = [];
let client, browser, page, frame, bundle;

const BRIDGE = `
import { AppBridge, PostMessageTransport } from "@modelcontextprotocol/ext-apps/app-bridge";
window.show = async ({ html, args, result, theme, serverTools, variables }) => {
  const iframe = document.querySelector("iframe");
  const capabilities = serverTools ? { serverTools: {} } : {};
  const hostContext = { theme, displayMode: "inline", ...(variables ? { styles: { variables } } : {}) };
  const bridge = (window.bridge = new AppBridge(null, { name: "test-host", version: "1" }, capabilities, { hostContext }));
  bridge.oncalltool = (params) => window.callTool(params);
  const ready = new Promise((resolve) => bridge.addEventListener("initialized", resolve));
  window.sizes = [];
  bridge.addEventListener("sizechange", (size) => { window.sizes.push(size); iframe.style.height = size.height + "px"; });
  await bridge.connect(new PostMessageTransport(iframe.contentWindow, iframe.contentWindow));
  iframe.srcdoc = html;
  await ready;
  await bridge.sendToolInput({ arguments: args });
  await bridge.sendToolResult(result);
  return bridge.getAppVersion();
};
window.teardown = () => window.bridge.teardownResource({});
window.setTheme = (theme) => window.bridge.setHostContext({ theme, displayMode: "inline" });
`;

const commands = {
  async start({ command, args, env, chromium: path }) {
    client = new Client({ name: "test-host", version: "1" }, { capabilities: { extensions: { "io.modelcontextprotocol/ui": { mimeTypes: [MIME] } } } });
    await client.connect(new StdioClientTransport({ command, args, env, stderr: "ignore" }));
    browser = await chromium.launch({ executablePath: path, args: ["--no-sandbox"] });
    const here = fileURLToPath(new URL(".", import.meta.url));
    const built = await build({ stdin: { contents: BRIDGE, resolveDir: here }, bundle: true, write: false, format: "iife", logLevel: "silent" });
    bundle = built.outputFiles[0].text;
    return (await client.listTools()).tools.filter((tool) => tool._meta?.ui).map(({ name, _meta }) => ({ name, ..._meta.ui }));
  },

  async fresh({ width, height, scheme }) {
    await page?.context().close();
    asked.length = errors.length = 0;
    const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme });
    page = await context.newPage();
    page.on("pageerror", (error) => errors.push(String(error)));
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    await context.route("**", (route) => {
      if (route.request().isNavigationRequest() && route.request().url().startsWith("file:")) return route.continue();
      asked.push(route.request().url());
      return route.abort();
    });
  },

  // a tool's view, as a host shows it
  async view({ tool, args, width = 800, height = 900, theme = "light", serverTools = true, variables = null }) {
    await commands.fresh({ width, height, scheme: theme });
    const uri = (await client.listTools()).tools.find(({ name }) => name === tool)._meta.ui.resourceUri;
    const content = (await client.readResource({ uri })).contents[0];
    const result = await client.callTool({ name: tool, arguments: args });
    await page.exposeFunction("callTool", (params) => client.callTool(params));
    await page.setContent(`<body style="margin:0"><iframe sandbox="allow-scripts" style="border:0;width:100%;height:${height}px"></iframe></body>`);
    await page.addScriptTag({ content: bundle });
    const app = await page.evaluate((given) => window.show(given), { html: content.text, args, result, theme, serverTools, variables });
    frame = page.frames()[1];
    return { app, mime: content.mimeType, text: result.content[0].text };
  },

  // a page of its own, from a file
  async file({ path, width = 800, height = 900, theme = "light" }) {
    await commands.fresh({ width, height, scheme: theme });
    await page.goto(`file://${path}`);
    frame = page.mainFrame();
  },

  // waitForFunction would need eval inside the view, which its policy forbids
  async until({ expression, ms = 120000 }) {
    for (const end = Date.now() + ms; ; await page.waitForTimeout(50)) {
      const found = await frame.evaluate(expression).catch((error) => (Date.now() > end ? Promise.reject(error) : null));
      if (found) return found;
      if (Date.now() > end) throw new Error(`never true: ${expression}\n${await frame.evaluate("document.body.innerText")}`);
    }
  },
  look: ({ expression }) => frame.evaluate(expression),
  outside: ({ expression }) => page.evaluate(expression),
  click: ({ selector }) => frame.click(selector),
  fill: ({ selector, text }) => frame.fill(selector, text),
  press: ({ key }) => page.keyboard.press(key),
  focus: ({ selector }) => frame.focus(selector),
  async shot({ path }) {
    const height = await page.evaluate("document.documentElement.scrollHeight");
    await page.setViewportSize({ width: page.viewportSize().width, height });
    await page.waitForTimeout(300);
    await page.screenshot({ path });
  },
  seen: () => ({ asked, errors }),
  async end() {
    await browser?.close();
    await client?.close();
  },
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { name, ...given } = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await commands[name](given)) ?? null };
  } catch (error) {
    answer = { error: String(error?.stack ?? error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
  if (name === "end") process.exit(0);
}
