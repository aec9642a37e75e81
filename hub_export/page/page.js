// What is seen: the conversation, the field, how far loading is. The model itself lives in a worker (model.js).
// Enter sends, Shift+Enter makes a line, Escape stops. Who hears the page is told whole answers, not every token.

const at = (id) => document.getElementById(id);
const worker = new Worker("model.js", { type: "module" });
const asked = new URLSearchParams(location.search); // ?device=wasm leaves the GPU alone
const WHY = { cut: "The answer was cut here.", stopped: "Stopped.", long: "Not answered: the message is too long." };

let messages = [], settings = {}, turn = null, discarded = false;
const say = (text) => (at("said").textContent = text);
const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);

worker.onmessage = ({ data }) => handlers[data.kind](data);
worker.onerror = (event) => handlers.wrong({ text: event.message || "a file of the page is missing", during: "load" });

const handlers = {
  progress({ loaded, total }) {
    at("progress").max = total;
    at("progress").value = loaded;
    at("amount").textContent = `${megabytes(loaded)} of ${megabytes(total)} MB`;
  },
  starting() {
    at("step").textContent = "Starting the model…";
    at("progress").removeAttribute("value");
  },
  note({ text }) {
    at("amount").textContent = text;
  },
  ready({ device, dtype }) {
    at("loading").hidden = true;
    at("device").hidden = false;
    at("device").textContent = device === "webgpu" ? "WebGPU" : "WebAssembly";
    at("device").title = `numbers: ${dtype}`;
    for (const id of ["text", "send", "anew"]) at(id).disabled = false;
    welcome();
    at("text").focus();
    say("The model is ready.");
  },
  token({ text }) {
    if (turn && !discarded) write(turn, text);
  },
  done({ text, why, dropped, results }) {
    const mine = turn;
    turn = null;
    at("send").textContent = "Send";
    if (discarded) return;
    write(mine, text || (why === "long" ? "" : "(no words)"));
    mine.removeAttribute("aria-busy");
    if (why === "long") messages.pop();
    else messages.push({ role: "assistant", content: text });
    const notes = [
      WHY[why],
      dropped && `The oldest ${dropped} messages no longer fit and were left out.`,
      results && `${results} ${results === 1 ? "result is" : "results are"} the calculator's.`,
    ].filter(Boolean);
    if (notes.length) mine.append(element("small", "", notes.join(" ")));
    follow();
    say([text, ...notes].join(" "));
  },
  wrong({ text, during }) {
    if (during === "load") {
      at("loading").hidden = false;
      at("loading").className = "wrong";
      at("progress").hidden = true;
      at("step").textContent = `The model could not be loaded: ${text}`;
      at("amount").textContent = "Reload the page to try again.";
    } else if (turn) {
      turn.append(element("small", "", `It went wrong: ${text}`));
      turn.removeAttribute("aria-busy");
      turn = null;
      messages.pop();
      at("send").textContent = "Send";
    }
    say(text);
  },
};

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function addTurn(role, text) {
  const made = element("article", `turn ${role}`);
  made.append(element("b", role === "user" ? "unseen" : "", role === "user" ? "You" : settings.name), element("span", "", text));
  at("talk").append(made);
  return made;
}

function write(where, text) {
  const below = at("talk").scrollHeight - at("talk").scrollTop - at("talk").clientHeight < 60;
  where.querySelector("span").textContent = text.trimStart();
  if (below) follow();
}

const follow = () => (at("talk").scrollTop = at("talk").scrollHeight);

function welcome() {
  const box = element("div", "welcome", "Ask something.");
  const row = element("div", "");
  for (const example of settings.examples) {
    const button = element("button", "", example);
    button.type = "button";
    button.onclick = () => send(example);
    row.append(button);
  }
  box.append(row);
  at("talk").replaceChildren(box);
}

function send(text) {
  if (!text.trim() || turn) return;
  at("talk").querySelector(".welcome")?.remove();
  messages.push({ role: "user", content: text.trim() });
  addTurn("user", text.trim());
  turn = addTurn("assistant", "");
  turn.setAttribute("aria-busy", "true");
  discarded = false;
  at("send").textContent = "Stop";
  follow();
  say("The model is writing.");
  worker.postMessage({ kind: "answer", messages, calculator: at("calculator").checked });
}

const stop = () => turn && worker.postMessage({ kind: "stop" });

at("form").onsubmit = (event) => {
  event.preventDefault();
  if (turn) return stop();
  send(at("text").value);
  at("text").value = "";
  at("text").focus();
};
at("text").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!turn) at("form").requestSubmit();
};
window.onresize = follow; // a phone's keyboard comes and goes
document.onkeydown = (event) => event.key === "Escape" && stop();
at("anew").onclick = () => {
  discarded = turn !== null;
  stop();
  messages = [];
  welcome();
  at("text").focus();
  say("A new chat.");
};

at("step").textContent = "Loading the model…";
at("progress").hidden = false;
settings = await (await fetch("settings.json")).json();
document.title = at("name").textContent = settings.name;
worker.postMessage({ kind: "load", device: asked.get("device") });
