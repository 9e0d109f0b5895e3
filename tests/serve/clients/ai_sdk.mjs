// npm's `ai` with its provider for OpenAI-compatible servers, unmodified: prints what it got as one line of JSON.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, jsonSchema, streamText, tool } from "ai";

const provider = createOpenAICompatible({
  name: "steelyard",
  baseURL: `${process.argv[2]}/v1`,
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = provider("tiny");
const common = { model, maxRetries: 0, seed: 5 };
const form = {
  type: "object",
  properties: { a: { type: "string", enum: ["x", "y"] } },
  required: ["a"],
  additionalProperties: false,
};

const text = await generateText({ ...common, prompt: "hi", maxOutputTokens: 6 });
const streamed = streamText({ ...common, prompt: "hi", maxOutputTokens: 6 });
let pieces = "";
for await (const piece of streamed.textStream) pieces += piece;
const called = await generateText({
  ...common,
  prompt: "hi",
  maxOutputTokens: 400,
  tools: { clock: tool({ description: "Tells the time.", inputSchema: jsonSchema(form) }) },
  toolChoice: "required",
});
const object = await generateObject({ ...common, prompt: "hi", schema: jsonSchema(form), maxOutputTokens: 300 });
const vectors = await embedMany({ model: provider.textEmbeddingModel("encoder"), values: ["one", "two"], maxRetries: 0 });
let refused = null;
try {
  await generateText({ ...common, model: provider("tinny"), prompt: "hi" });
} catch (error) {
  refused = { status: error.statusCode, message: error.message };
}
console.log(
  JSON.stringify({
    text: text.text,
    finish: text.finishReason,
    usage: text.usage,
    pieces,
    streamedUsage: await streamed.usage,
    calls: called.toolCalls.map((call) => ({ name: call.toolName, input: call.input })),
    object: object.object,
    vectors: vectors.embeddings.map((vector) => vector.length),
    refused,
  }),
);
