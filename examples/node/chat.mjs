// The OpenAI SDK for Node with your endpoint or the gateway: npm install openai, then
//   OPENAI_BASE_URL=http://localhost:8090/v1 OPENAI_API_KEY=... MODEL=... node chat.mjs
import OpenAI from "openai";

const client = new OpenAI({ timeout: 600_000, maxRetries: 0 });
const body = {
  model: process.env.MODEL,
  messages: [{ role: "user", content: "What is the capital of France?" }],
  temperature: 0,
};

const whole = await client.chat.completions.create(body);
console.log(whole.choices[0].message.content);

const stream = await client.chat.completions.create({ ...body, stream: true });
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta.content ?? "");
process.stdout.write("\n");
