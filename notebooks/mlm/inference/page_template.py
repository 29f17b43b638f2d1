"""The browser page: HTML, style and script in one file, which reads everything else from its own folder."""

PAGE = r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<!-- Only files of this folder are loaded, whatever a library tries. -->
<meta http-equiv="Content-Security-Policy"
  content="default-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' data: blob:">
<title>Fill in the mask</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; font: 1.1rem/1.5 system-ui, sans-serif; }
  body { max-width: 40rem; margin: 2rem auto; padding: 0 1rem; }
  form { display: flex; flex-wrap: wrap; gap: 0.5rem; }
  label { flex-basis: 100%; }
  input { flex: 1 1 15rem; }
  input, button { font: inherit; padding: 0.3rem 0.6rem; }
  #error, #warning { color: light-dark(#b00020, #ff8a8a); }
  table { border-collapse: collapse; width: 100%; margin-top: 1.5rem; }
  caption, th { text-align: left; }
  td { padding: 0.1rem 1rem 0.1rem 0; }
  td:nth-child(2) { text-align: right; width: 5rem; }
  meter { width: 100%; }
</style>
</head>
<body>
<h1>Fill in the mask</h1>
<form id="form">
  <label for="sentence">A sentence with [MASK]:</label>
  <input id="sentence" dir="auto" autocomplete="off" required>
  <button id="button" disabled>Predict</button>
</form>
<p id="status" role="status">Loading …</p>
<p id="warning" role="alert"></p>
<p id="error" role="alert"></p>
<section id="predictions" aria-label="Predictions"></section>

<script type="module">
const TOP_K = 5;
const element = (id) => document.getElementById(id);
const show = (id, text) => { element(id).textContent = text; };
const percent = new Intl.NumberFormat("en", { style: "percent", maximumSignificantDigits: 2 });

async function read(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} cannot be read (${response.status})`);
  return response.json();
}

// An added word counts only as a whole word (single_word), not as a part of one, as in the library.
function findAddedWords(tokenizer) {
  const added = tokenizer.added_tokens.filter((token) => token.normalized);
  const words = added.filter((token) => token.single_word);
  if (!words.length) return;
  words.forEach(({ content }) => tokenizer.model.tokens_to_ids.delete(content));
  const letter = "[\\p{L}\\p{M}\\p{N}\\p{Pc}]";
  const pattern = ({ content, single_word }) => {
    const word = (tokenizer.normalizer?.(content) ?? content).replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    return single_word ? `(?<!${letter})${word}(?!${letter})` : word;
  };
  const longestFirst = added.sort((a, b) => b.content.length - a.content.length);
  const separator = new RegExp(`(${longestFirst.map(pattern).join("|")})`, "u");
  tokenizer.splitter_normalized.split = (text) => text.split(separator).filter((piece) => piece);
}

async function loadTokenizer(page) {
  const { Tokenizer } = await import("./tokenizers.mjs");
  const tokenizer = new Tokenizer(await read("tokenizer.json"), {});
  const { model } = tokenizer;  // word by word: unknown characters of two words are not one token
  const encodeWords = model._call.bind(model);
  model._call = (words) => words.flatMap((word) => encodeWords([word]));
  findAddedWords(tokenizer);
  const same = ([text, ids]) => String(tokenizer.encode(text).ids) === String(ids);
  const wrong = page.checks.filter((check) => !same(check));
  if (wrong.length) {
    show("warning", `${wrong.length} of ${page.checks.length} test texts have other token ids here than ` +
      `in Python, so predictions may differ. The first is: ${wrong[0][0]}`);
  }
  return tokenizer;
}

async function loadModel() {
  const ort = await import("./onnxruntime.mjs");
  Object.assign(ort.env, { logLevel: "error" });
  Object.assign(ort.env.wasm, { numThreads: 1, wasmPaths: { wasm: new URL("ort-wasm-simd-threaded.wasm", location.href).href } });
  const session = await ort.InferenceSession.create("model.onnx");
  return async (ids) => {  // the logits (T, V), flattened
    const tensor = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
    const inputs = { input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)) };
    return (await session.run(inputs)).logits.data;
  };
}

function best(logits) {  // logits (V,) -> [token id, probability], best first
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const scores = Array.from(logits, (logit) => Math.exp(logit - largest));
  const total = scores.reduce((a, b) => a + b);
  const ids = [...scores.keys()].sort((a, b) => scores[b] - scores[a]).slice(0, TOP_K);
  return ids.map((id) => [id, scores[id] / total]);
}

async function predict(page, tokenizer, model, sentence) {
  const ids = tokenizer.encode(sentence.replaceAll(" [MASK]", page.mask).replaceAll("[MASK]", page.mask)).ids;
  const masks = [...ids.keys()].filter((position) => ids[position] === page.maskId);
  if (!masks.length) throw new Error("The sentence has no [MASK]: write it where the model shall predict a word.");
  if (ids.length > page.maxTokens) {
    throw new Error(`The sentence has ${ids.length} tokens, and the model takes ${page.maxTokens}: shorten it.`);
  }
  const logits = await model(ids);
  const size = logits.length / ids.length;
  return masks.map((position) => best(logits.subarray(position * size, (position + 1) * size)));
}

function table(predictions, number, tokenizer) {
  const result = document.createElement("table");
  result.createCaption().textContent = `[MASK] ${number + 1}`;
  for (const [id, probability] of predictions) {
    const row = result.insertRow();
    row.insertCell().textContent = tokenizer.id_to_token(id) ?? `(token ${id})`;
    row.cells[0].dir = "auto";
    row.insertCell().textContent = percent.format(probability);
    const meter = Object.assign(document.createElement("meter"), { value: probability });
    meter.setAttribute("aria-label", "probability");
    row.insertCell().append(meter);
  }
  return result;
}

async function start() {
  const page = await read("page.json");
  document.title = `Fill in the mask: ${page.name}`;
  element("sentence").value = new URLSearchParams(location.search).get("sentence") ?? page.sentence;
  const [tokenizer, model] = [await loadTokenizer(page), await loadModel()];

  async function submit() {
    show("error", "");
    element("predictions").replaceChildren();
    try {
      const predictions = await predict(page, tokenizer, model, element("sentence").value);
      element("predictions").replaceChildren(...predictions.map((each, i) => table(each, i, tokenizer)));
    } catch (error) {
      show("error", error.message);
    }
  }
  element("form").onsubmit = (event) => { event.preventDefault(); submit(); };
  await submit();
  element("button").disabled = false;
  show("status", `${page.name}, ${page.about}. It runs in your browser; what you type stays here.`);
}

const byFile = "Open the page through a web server: python -m http.server, in the folder of index.html.";
start().catch((error) => {
  show("status", "");
  show("error", location.protocol === "file:" ? byFile : `The page could not be loaded: ${error.message}`);
});
</script>
</body>
</html>
"""
