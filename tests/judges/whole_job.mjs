// One whole job through the TypeScript SDK's client: node whole_job.mjs PYTHON HOME
// Prints one JSON object; exits 1 with the reason when a step is not answered as it should be.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";

const [python, home] = process.argv.slice(2);
const transport = new StdioClientTransport({
  command: python,
  args: ["-P", "-m", "server"],
  env: { LOOPTUNE_HOME: home, PATH: process.env.PATH ?? "" },
});
const client = new Client({ name: "looptune-judge", version: "1.0.0" });
const heard = [];

async function call(name, args) {
  const onprogress = (progress) => heard.push(progress.message ?? "");
  const result = await client.callTool({ name, arguments: args }, undefined, { onprogress, timeout: 60_000 });
  if (result.isError) throw new Error(`${name}: ${result.content[0].text}`);
  if (result.content[0].text.length > 1500) throw new Error(`${name} says too much`);
  return result.structuredContent;
}

async function finished(id) {
  for (;;) {
    const status = await call("training_status", { run: id, wait_seconds: 20, log_lines: 20 });
    if (status.state === "finished") return status.result;
    if (!["queued", "running", "stopping"].includes(status.state)) throw new Error(JSON.stringify(status));
  }
}

try {
  await client.connect(transport);
  const tools = (await client.listTools()).tools; // from here on the client checks results against output schemas
  const quick = { base: "tiny", epochs: 1, batch_size: 8, learning_rate: 0.01 };
  const term = { term: "soft hold", meaning: "a reservation that lapses by itself after 15 minutes" };
  await call("generate_examples", { terms: [term], count: 40, name: "holds" });
  const valid = await call("validate_dataset", { dataset: "holds" });
  const plan = await call("plan_training", { dataset: "holds", settings: quick });
  const run = (await call("start_training", { dataset: "holds", settings: quick, idempotency_key: "once" })).id;
  const again = await call("start_training", { dataset: "holds", settings: quick, idempotency_key: "once" });
  const trained = await finished(run);
  const evaluated = await finished((await call("evaluate_model", { run, max_tokens: 4 })).id);
  const model = (await finished((await call("quantize", { run })).id)).model;
  const answer = await call("ask_model", { prompt: "What is a soft hold?", model, max_tokens: 4 });
  const kept = await call("remember", { text: "A soft hold lapses after 15 minutes.", kind: "definition" });
  const found = await call("query_memory", { query: "when does a soft hold lapse?" });
  const index = JSON.parse((await client.readResource({ uri: "run://index" })).contents[0].text);
  const ref = { type: "ref/resource", uri: "dataset://{name}" };
  const names = (await client.complete({ ref, argument: { name: "name", value: "ho" } })).completion.values;
  const refusal = await client.callTool({ name: "training_status", arguments: { run: "nope" } });
  console.log(
    JSON.stringify({
      tools: tools.length,
      valid: valid.ok,
      fits: plan.fits,
      run,
      once: again.id === run && again.new === false,
      steps: trained.steps,
      models: Object.keys(evaluated.models),
      answered: answer.kind,
      remembered: found.hits[0].id === kept.id,
      runs: index.count,
      names,
      refused: refusal.isError && refusal.content[0].text.includes("run://index"),
      progress: heard.length > 0,
    }),
  );
  await client.close();
} catch (error) {
  console.error(error);
  process.exit(1);
}
