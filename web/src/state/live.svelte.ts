/** One answer while it comes: events are gathered as they arrive and shown once per animation frame. */

import { answerEvents } from "../api/streams";
import type { Lookup } from "../api/documents";
import type { AnswerEvent, AnswerRequest, Citation, Confidence, Generation, LeverChoice, Message, Token, Usage } from "../api/types";
import { wording } from "./notices.svelte";

/** Hidden tabs draw no frames; their events are shown at this pace. */
const HIDDEN_MS = 250;

export class LiveAnswer {
  text = $state("");
  tokens = $state.raw<Token[]>([]);
  citations = $state.raw<Citation[]>([]);
  lookups = $state.raw<Lookup[]>([]);
  confidence = $state.raw<Confidence | null>(null);
  usage = $state.raw<Usage | null>(null);
  failure = $state("");
  reason = $state("");
  id = $state<string | null>(null);
  joined = $state.raw<string[]>([]);
  /** Milliseconds from asking to the first text, and tokens (or pieces of text) per second since. */
  firstText = $state<number | null>(null);
  pace = $state(0);
  finished = $state(false);

  readonly key = crypto.randomUUID();
  private readonly control = new AbortController();
  private waiting: AnswerEvent[] = [];
  private frame = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private began = 0;
  private firstAt = 0;
  private pieces = 0;

  constructor(
    readonly conversation: string,
    readonly request: AnswerRequest,
  ) {}

  /** Reads the answer to its end; failures end up in `failure`, never thrown. */
  async run(): Promise<void> {
    this.began = performance.now();
    try {
      for await (const event of answerEvents(this.conversation, this.request, this.control.signal)) this.gather(event);
    } catch (cause) {
      if (this.control.signal.aborted) this.waiting.push({ type: "done", reason: "cancelled" });
      else this.waiting.push({ type: "error", message: wording(cause) }, { type: "done", reason: "error" });
    }
    this.flush();
    if (!this.reason) this.reason = this.control.signal.aborted ? "cancelled" : "error";
    this.finished = true;
  }

  stop(): void {
    this.control.abort();
  }

  get stopped(): boolean {
    return this.control.signal.aborted;
  }

  private gather(event: AnswerEvent): void {
    this.waiting.push(event);
    if (this.frame || this.timer !== undefined) return;
    if (document.hidden) this.timer = setTimeout(() => this.flush(), HIDDEN_MS);
    else this.frame = requestAnimationFrame(() => this.flush());
  }

  private flush(): void {
    cancelAnimationFrame(this.frame);
    clearTimeout(this.timer);
    this.frame = 0;
    this.timer = undefined;
    const events = this.waiting;
    this.waiting = [];
    let text = "";
    const tokens: Token[] = [];
    const citations: Citation[] = [];
    for (const event of events) {
      switch (event.type) {
        case "message":
          this.id = event.id;
          break;
        case "joined": // told of every turn that the model reads; this is about the one that is answered
          if (this.request.parent !== null && event.messages.includes(this.request.parent)) this.joined = event.messages;
          break;
        case "text":
          text += event.text;
          break;
        case "token":
          tokens.push(event);
          break;
        case "citation":
          citations.push(event);
          break;
        case "lookup":
          this.lookups = [...this.lookups, event];
          break;
        case "confidence":
          this.confidence = event;
          break;
        case "usage":
          this.usage = event;
          break;
        case "error":
          this.failure = event.message;
          break;
        case "done":
          this.reason = event.reason;
      }
    }
    if (tokens.length) this.tokens = [...this.tokens, ...tokens];
    if (citations.length) this.citations = [...this.citations, ...citations];
    if (text) this.text += text;
    if (text || tokens.length) this.measure(tokens.length || events.filter((event) => event.type === "text").length);
  }

  private measure(pieces: number): void {
    const now = performance.now();
    if (!this.firstAt) {
      this.firstAt = now;
      this.firstText = now - this.began;
    } else {
      this.pieces += pieces;
      this.pace = this.pieces / Math.max((now - this.firstAt) / 1000, 1e-3);
    }
  }

  /** The stored message this answer became, as far as the page knows it without asking again. */
  asMessage(): Message | null {
    if (this.id === null) return null;
    const generation: Generation = {
      model: this.request.model,
      levers: this.request.levers satisfies LeverChoice[],
      settings: this.request.settings,
      reason: this.reason,
      tokens: this.tokens,
      usage: this.usage,
      citations: this.citations,
      lookups: this.lookups,
      confidence: this.confidence,
      joined: Math.max(this.joined.length, 1),
    };
    return {
      id: this.id,
      parent: this.request.parent,
      role: "assistant",
      parts: [{ type: "text", text: this.text }],
      created: new Date().toISOString(),
      hidden: false,
      deleted: false,
      edited_from: null,
      generation,
    };
  }
}
