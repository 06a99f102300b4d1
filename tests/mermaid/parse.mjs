// Parses every mermaid block of the pages given, and prints as JSON how many there were and what is wrong with them.
import { readFileSync } from "node:fs";
import { JSDOM } from "jsdom";

const { window } = new JSDOM("");
globalThis.window = window; // mermaid's sanitiser looks for both when it is imported
globalThis.document = window.document;
const { default: mermaid } = await import("mermaid");

const found = { diagrams: 0, faults: [] };
for (const page of process.argv.slice(2)) {
  for (const [, text] of readFileSync(page, "utf8").matchAll(/```mermaid\n([^]*?)```/g)) {
    found.diagrams += 1;
    await mermaid.parse(text).catch((error) => found.faults.push(`${page}: ${error.message}`));
  }
}
console.log(JSON.stringify(found));
