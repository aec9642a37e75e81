// transformers.js as a client, the same code in Node and in a browser: opens a folder, answers questions.
//   node transformers_js.mjs PACKAGE FOLDER DTYPE     questions as lines of JSON on standard input, answers likewise

async function opened(library, where, name, dtype, device) {
  library.env.allowRemoteModels = false;
  library.env.allowLocalModels = true;
  library.env.localModelPath = where;
  library.env.useBrowserCache = false;
  const tokenizer = await library.AutoTokenizer.from_pretrained(name);
  // one thread: several that wait for each other spend CPU seconds on it
  const options = { dtype, device, session_options: { intraOpNumThreads: 1 } };
  const model = await library.AutoModelForCausalLM.from_pretrained(name, options);
  return { library, tokenizer, model };
}

async function answered({ library, tokenizer, model }, { call, ids, count, text, messages }) {
  const numbers = (values) => Array.from(values, Number);
  if (call === "tokenize") return numbers(tokenizer.encode(text));
  if (call === "chat") return tokenizer.apply_chat_template(messages, { tokenize: false, add_generation_prompt: true });
  const row = (values) => new library.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
  const inputs = { input_ids: row(ids), attention_mask: row(ids.map(() => 1)) };
  if (call === "greedy") {
    // an end-of-text token does not end it, as it does not end the reference
    const made = await model.generate({ ...inputs, max_new_tokens: count, do_sample: false, eos_token_id: -1 });
    return numbers(made.data).slice(ids.length);
  }
  const { logits } = await model(inputs);
  const bytes = new Uint8Array(logits.to("float32").data.buffer.slice(0));
  const parts = [];
  for (let begin = 0; begin < bytes.length; begin += 0x6000) parts.push(btoa(String.fromCharCode(...bytes.subarray(begin, begin + 0x6000))));
  return { shape: logits.dims.slice(1), base64: parts.join("") };
}

if (globalThis.process?.argv?.[2]) {
  const [, , library, folder, dtype] = process.argv;
  const { default: path } = await import("node:path");
  const { createInterface } = await import("node:readline");
  const client = await opened(await import(library), path.dirname(folder) + "/", path.basename(folder), dtype, "cpu");
  console.log(JSON.stringify({ answer: "ready" }));
  for await (const line of createInterface({ input: process.stdin })) {
    const before = process.cpuUsage();
    const answer = await answered(client, JSON.parse(line));
    const { user, system } = process.cpuUsage(before);
    console.log(JSON.stringify({ answer, cpu_seconds: (user + system) / 1e6 }));
  }
}
