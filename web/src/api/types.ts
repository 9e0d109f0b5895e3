/** What the server's API says and takes, as the page reads it. All ids are opaque; times are ISO 8601, UTC. */

import type { Lookup, ReadText } from "./documents";

export type Role = "system" | "user" | "assistant" | "tool";

/** Where a place is: in an attached file, or characters `start` to `end` (code points) of a message's text. */
export type PlaceSource = { attachment: string } | { message: string; start: number; end: number };
export type Selection =
  | { kind: "column"; column: number }
  | { kind: "cell"; row: number; column: number }
  | { kind: "point"; row: number; column: number; along: number }
  | { kind: "rows"; rows: number[] }
  | { kind: "sentence" };
/** A place as the page sends it; `shown` is what the page shows there, so that the server can refuse to tell of anything else. */
export interface PointedPart {
  type: "place";
  source: PlaceSource;
  selection: Selection;
  shown?: string | null;
}
/** A place as the server tells and keeps it: `text` is all that the model reads of it. */
export interface PlacePart extends Omit<PointedPart, "shown"> {
  name: string;
  label: string;
  text: string;
  figures: [string, number | null][];
}

export type FilePart = { type: "file"; attachment: string; name: string; read?: "whole" | "none" };
export type Part = { type: "text"; text: string } | FilePart | PlacePart;
/** A part as the page sends it. */
export type SentPart = Exclude<Part, PlacePart> | PointedPart;

export interface Alternative {
  text: string;
  logprob: number;
}

/** One generated token. `logprob` is the model's own, before any sampling filter; `entropy` is in nats. */
export interface Token {
  id: number;
  text: string;
  logprob: number;
  entropy: number;
  alternatives: Alternative[];
}

export interface Citation {
  source: string;
  title: string;
  text: string;
  score: number;
  /** The index it was found in, where the page knows. */
  index?: string;
}

/** Of an answer that was cut off `completion_tokens` counts those that came; what is not known is null. */
export interface Usage {
  prompt_tokens: number | null;
  completion_tokens: number | null;
  seconds: number;
  first_token_seconds: number | null;
  energy_joules?: Energy | null;
}

/** What an answer took; `low` and `high` are equal where it was measured, `shared` where other answers ran at the same time. */
export interface Energy {
  low: number;
  high: number;
  source: string;
  shared: boolean;
}

/** What a model's confidence was calibrated on, and what `abstain` promises where it is on. */
export interface Calibration {
  task: string;
  n: number;
  made: string;
  measure: string;
  right: number;
  abstains?: boolean;
  threshold: { alpha: number; delta: number; share: number } | null;
}

/** `kind` is `calibrated`, `abstained`, or the name of a measure whose number is raw. Places are those of the answer's text. */
export interface Confidence {
  value: number | null;
  kind: string;
  calibration?: Calibration;
  sentences?: { start: number; end: number; value: number | null }[];
}

export type LeverChoice = Record<string, Record<string, unknown>>;

/** How an answer came about, as it is stored. */
export interface Generation {
  model: string;
  levers?: LeverChoice[];
  settings?: Record<string, unknown>;
  reason?: string | null;
  error?: string | null;
  tokens?: Token[];
  usage?: Usage | null;
  citations?: Citation[];
  lookups?: Lookup[];
  confidence?: Confidence | null;
  /** How many messages were read as the one turn that it answers. */
  joined?: number | null;
}

export interface Message {
  id: string;
  parent: string | null;
  role: Role;
  parts: Part[];
  created: string;
  hidden: boolean;
  deleted: boolean;
  edited_from: string | null;
  generation: Generation | null;
  feedback?: { id: string; kind: string; value: unknown }[];
}

export interface ConversationSummary {
  id: string;
  title: string;
  updated: string;
  messages: number;
}

export interface Conversation {
  id: string;
  title: string;
  head: string | null;
  messages: Message[];
}

export interface ModelInfo {
  id: string;
  steelyard?: { context_length?: number; kind?: string; levers?: string[]; pulled?: Record<string, unknown>[] };
}

/** As much of JSON schema as settings of levers use. */
export interface Schema {
  type?: string | string[];
  format?: string;
  title?: string;
  description?: string;
  default?: unknown;
  enum?: unknown[];
  const?: unknown;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  anyOf?: Schema[];
  allOf?: Schema[];
  items?: Schema;
  properties?: Record<string, Schema>;
  required?: string[];
  $ref?: string;
  $defs?: Record<string, Schema>;
}

export interface LeverInfo {
  name: string;
  idea: string;
  paper?: string;
  per_request: boolean;
  /** Whether it draws nothing, so that an answer at a temperature above 0 is refused. */
  greedy?: boolean;
  /** Where it acts: `decode` while tokens are drawn, `wrap` around the answer. */
  hooks?: string[];
  /** Settings that name something, with what they name: `model`, `index`, ... */
  references?: Record<string, string>;
  schema: Schema;
}

export interface Sampling {
  temperature: number;
  top_p: number;
  max_tokens: number;
  seed: number;
}

export interface AnswerRequest {
  parent: string | null;
  model: string;
  settings: { seed: number } & Record<string, unknown>;
  levers: LeverChoice[];
  store: boolean;
}

export type AnswerEvent =
  | { type: "message"; id: string; parent: string | null }
  | { type: "joined"; messages: string[] }
  | { type: "text"; text: string }
  | ({ type: "token" } & Token)
  | ({ type: "citation" } & Citation)
  | ({ type: "lookup" } & Lookup)
  | ({ type: "confidence" } & Confidence)
  | ({ type: "usage" } & Usage)
  | { type: "error"; message: string }
  | { type: "done"; reason: string };

export type FeedbackKind = "thumbs" | "tag" | "correction";

export interface Feedback {
  id: string;
  message?: string;
  conversation?: string;
  kind: string;
  /** Text for thumbs, tags and corrections; for a choice what was chosen over what. */
  value: string | Partial<Choice>;
  text?: string | null;
  created: string;
}

export interface Choice {
  conversation: string;
  turn: string;
  chosen: string | null;
  rejected: string | null;
  strength: 1 | 2 | 3;
  both_bad: boolean;
  shown: [string, string] | null;
}

/** What became of an import: conversations taken over, those that were there already, and lines that could not be used. */
export interface Imported {
  imported: number;
  already: number;
  bad: { line: number; reason: string }[];
}

export interface ReportInfo {
  name: string;
  created?: string;
  title?: string;
}

export interface AttachmentInfo {
  id: string;
  name: string;
  /** Whether the model is given what is in it; `none` where a person only points into it. */
  read?: "whole" | "none";
  type?: string;
  size?: number;
  /** What was read of it when it came. */
  text?: ReadText;
  /** The index that is searched for it, because it is too long to be read whole. */
  index?: string;
}
