// The OpenAI SDK for Node at OPENAI_BASE_URL with OPENAI_API_KEY: one call of each kind, and on stdout one JSON object
// of what each gave. It judges nothing: test_openai_node_client.py does.
import OpenAI from "openai";

const MODEL = "demo-model";
const client = new OpenAI({ maxRetries: 0 });
const asked = (content) => [{ role: "user", content }];
const tool = JSON.parse(process.env.WEATHER_TOOL);
const france = { model: MODEL, messages: asked("What is the capital of France?"), temperature: 0 };
const weather = { model: MODEL, messages: asked("What is the weather in Berlin?"), temperature: 0, tools: [tool] };
const long = { ...france, max_tokens: 2000, ignore_eos: true };
const person = {
  type: "object",
  properties: { name: { enum: ["Ada", "Grace"] }, is_known: { type: "boolean" } },
  required: ["name", "is_known"],
  additionalProperties: false,
};

async function collected(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

const text = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
const calledFunction = (completion) => completion.choices[0].message.tool_calls?.[0]?.function;

// What was thrown, by the SDK's own class: a name alone could be anybody's.
async function thrown(work) {
  try {
    await work();
  } catch (error) {
    const known = ["NotFoundError", "BadRequestError", "AuthenticationError", "APIUserAbortError"];
    const kind = [...known, "APIConnectionTimeoutError"].find((name) => error instanceof OpenAI[name]);
    return { kind: kind ?? String(error), status: error.status ?? null, message: error.message };
  }
  return { kind: null, status: null, message: "nothing was thrown" };
}

const CALLS = {
  async chat() {
    const completion = await client.chat.completions.create(france);
    return { text: completion.choices[0].message.content, usage: completion.usage };
  },

  async streaming() {
    const body = { ...france, stream: true, stream_options: { include_usage: true } };
    const chunks = await collected(await client.chat.completions.create(body));
    return { text: text(chunks), pieces: chunks.length, usage: chunks.at(-1).usage };
  },

  async emoji() {
    const body = { ...france, messages: asked("Celebrate with emojis."), stream: true };
    return text(await collected(await client.chat.completions.create(body)));
  },

  async adapter() {
    const completion = await client.chat.completions.create({ ...france, model: "pirate" });
    return completion.choices[0].message.content;
  },

  async tool() {
    return calledFunction(await client.chat.completions.create(weather));
  },

  async streamedTool() {
    return calledFunction(await client.chat.completions.stream(weather).finalChatCompletion());
  },

  async forcedTool() {
    const tool_choice = { type: "function", function: { name: tool.function.name } };
    const body = { ...weather, messages: france.messages, tool_choice, max_tokens: 99 };
    return calledFunction(await client.chat.completions.create(body));
  },

  async structured() {
    const response_format = { type: "json_schema", json_schema: { name: "person", schema: person } };
    const completion = await client.chat.completions.create({ ...france, response_format, max_tokens: 99 });
    return JSON.parse(completion.choices[0].message.content);
  },

  async completions() {
    const body = { model: MODEL, prompt: france.messages[0].content, temperature: 0, max_tokens: 99 };
    const whole = await client.completions.create(body);
    const chunks = await collected(await client.completions.create({ ...body, stream: true }));
    return { whole: whole.choices[0].text, streamed: chunks.map((chunk) => chunk.choices[0].text).join("") };
  },

  async responses() {
    const body = { model: MODEL, input: france.messages[0].content, temperature: 0, max_output_tokens: 99 };
    const whole = await client.responses.create(body);
    const events = await collected(await client.responses.create({ ...body, stream: true }));
    const deltas = events.filter((event) => event.type === "response.output_text.delta");
    return {
      whole: whole.output_text,
      streamed: deltas.map((event) => event.delta).join(""),
      last: events.at(-1).type,
    };
  },

  async models() {
    return (await collected(client.models.list())).map((model) => model.id);
  },

  async errors() {
    const fails = (fields) => thrown(() => client.chat.completions.create({ ...france, ...fields }));
    const stranger = client.withOptions({ apiKey: "wrong" });
    return {
      unknownModel: await fails({ model: "nobody" }),
      unknownModelStreamed: await fails({ model: "nobody", stream: true }),
      badTemperature: await fails({ temperature: -1 }),
      promptOverTheContext: await fails({ messages: asked("word ".repeat(3000)) }),
      wrongKey: await thrown(() => stranger.chat.completions.create(france)),
    };
  },

  // A stream is left after its first piece.
  async abortedStream() {
    const { data, response } = await client.chat.completions.create({ ...long, stream: true }).withResponse();
    const jobId = response.headers.get("x-runpod-job-id");
    for await (const chunk of data) {
      data.controller.abort();
      return { jobId, firstPiece: chunk.object, then: await textAfterwards() };
    }
  },

  // A plain call is left while it is being answered.
  async abortedCall() {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 500);
    const error = await thrown(() => client.chat.completions.create(long, { signal: controller.signal }));
    return { ...error, then: await textAfterwards() };
  },

  async timedOutCall() {
    const error = await thrown(() => client.chat.completions.create(long, { timeout: 500 }));
    return { ...error, then: await textAfterwards() };
  },
};

async function textAfterwards() {
  const start = performance.now();
  const { text } = await CALLS.chat();
  return { text, seconds: (performance.now() - start) / 1000 };
}

const results = {};
for (const [name, call] of Object.entries(CALLS)) results[name] = await call();
console.log(JSON.stringify(results));
