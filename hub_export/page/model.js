// The worker: loads the model, answers conversations token by token. Messages in: load, answer, stop; out: see `post`.

import { AutoModelForCausalLM, AutoTokenizer, Tensor, env } from "./run/transformers.min.js";
import { resultAtEnd } from "./calculator.js";

const here = new URL(".", import.meta.url).href;
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = new URL(here).pathname; // an address would be taken for a remote one
env.useBrowserCache = false; // the browser's own cache asks whether a file has changed
env.useWasmCache = false;
env.backends.onnx.wasm.wasmPaths = {
  mjs: here + "run/ort-wasm-simd-threaded.asyncify.mjs",
  wasm: here + "run/ort-wasm-simd-threaded.asyncify.wasm",
};

let tokenizer, model, settings, ends, stopped;
const post = (kind, more) => self.postMessage({ kind, ...more });

self.onmessage = async ({ data }) => {
  try {
    if (data.kind === "load") await load(data.device);
    if (data.kind === "answer") await answer(data);
    if (data.kind === "stop") stopped = true;
  } catch (error) {
    post("wrong", { text: String(error?.message ?? error), during: data.kind });
  }
};

async function load(wanted) {
  settings = await (await fetch(here + "settings.json")).json();
  tokenizer = await AutoTokenizer.from_pretrained("model");
  const gpu = wanted !== "wasm" && (await usableGpu());
  let device = gpu ? "webgpu" : "wasm";
  try {
    model = await load_on(device);
  } catch (error) {
    if (!gpu) throw error;
    post("note", { text: `WebGPU did not work (${error?.message ?? error}); WebAssembly does it.` });
    model = await load_on((device = "wasm"));
  }
  const ids = model.generation_config?.eos_token_id ?? model.config.eos_token_id ?? [];
  ends = new Set([ids, tokenizer.eos_token_id ?? []].flat().map(Number));
  post("ready", { device, dtype: settings.types[device] });
}

function load_on(device) {
  const progress_callback = ({ status, file, loaded, total }) => {
    if (status === "progress" && file.endsWith(".onnx")) post("progress", { loaded, total });
    if (status === "done" && file.endsWith(".onnx")) post("starting");
  };
  return AutoModelForCausalLM.from_pretrained("model", { device, dtype: settings.types[device], progress_callback });
}

async function usableGpu() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    return adapter && (!settings.types.webgpu.endsWith("16") || adapter.features.has("shader-f16"));
  } catch {
    return false;
  }
}

/** What fits of the conversation: the oldest questions and answers go first. */
function encoded(messages, room) {
  const ids = (some) =>
    tokenizer.chat_template
      ? tokenizer.apply_chat_template(some, { add_generation_prompt: true, tokenize: true, return_tensor: false, return_dict: false })
      : tokenizer.encode(some.map((each) => each.content).join(""));
  let dropped = 0;
  while (ids(messages.slice(dropped)).length > room && dropped + 2 < messages.length) dropped += 2;
  return { prompt: Array.from(ids(messages.slice(dropped)), Number), dropped };
}

async function answer({ messages, calculator, newTokens = settings.newTokens }) {
  stopped = false;
  const { prompt, dropped } = encoded(messages, settings.longest - newTokens);
  if (prompt.length > settings.longest - newTokens) {
    post("done", { text: "", ids: [], prompt, why: "long", dropped, results: 0 });
    return;
  }
  const made = [];
  let past = null, forced = [], results = 0, why = "cut", text = "";
  try {
    while (made.length < newTokens) {
      const next = await step(made.length ? made.slice(-1) : prompt, prompt.length + made.length, past);
      past = next.past;
      if (calculator && !forced.length && made.length) {
        const result = resultAtEnd(tokenizer.decode(made.slice(-100), { skip_special_tokens: false }));
        if (result !== null) {
          forced = Array.from(tokenizer.encode(`${result}>>`, { add_special_tokens: false }), Number);
          results++;
        }
      }
      made.push(forced.length ? forced.shift() : next.token);
      text = tokenizer.decode(made, { skip_special_tokens: true });
      if (ends.has(made.at(-1))) why = "end";
      else post("token", { text: text.replace(/\ufffd+$/, "") }); // the rest of a character is still to come
      await new Promise((resolve) => setTimeout(resolve)); // lets `stop` in
      if (stopped) why = "stopped";
      if (why !== "cut") break;
    }
  } finally {
    release(past);
  }
  post("done", { text: text.trim(), ids: made, prompt, why, dropped, results });
}

/** The likeliest next token after `ids`, the last of `total` tokens, and the cache with them. */
async function step(ids, total, past) {
  const row = (values) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
  const outputs = await model({
    input_ids: row(ids),
    attention_mask: row(Array(total).fill(1)),
    position_ids: row(ids.map((_, place) => total - ids.length + place)),
    num_logits_to_keep: new Tensor("int64", [1n], []),
    past_key_values: past,
  });
  release(past);
  const logits = outputs.logits.to("float32").data;
  let token = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[token]) token = id;
  const named = Object.entries(outputs).filter(([name]) => name.startsWith("present"));
  return { token, past: Object.fromEntries(named.map(([name, each]) => [name.replace("present", "past_key_values"), each])) };
}

function release(past) {
  for (const tensor of Object.values(past ?? {})) if (tensor.location === "gpu-buffer") tensor.dispose();
}
