/**
 * Messages that were written but not yet read by the model. They stay apart, can be changed and taken out, and are sent
 * together when the person says so or stops typing for a while. They outlive a reload of the page.
 */

import type { AttachmentInfo, PlacePart } from "../api/types";
import { preferences } from "./preferences.svelte";

export interface Draft {
  key: string;
  text: string;
  files: AttachmentInfo[];
  places?: PlacePart[];
  /** Whether the answer is to be one of the figures of the places. */
  quote?: boolean;
}

const STORE = "steelyard.queue.";

export class Queue {
  waiting = $state<Draft[]>([]);
  /** Whether the pause that ends the turn is running, and the draft someone is changing. */
  counting = $state(false);
  editing = $state<string | null>(null);
  /** Changes whenever the pause begins anew. */
  beat = $state(0);
  private conversation: string | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;

  /** `end` sends what waits; while not `free` (an answer is being written) no pause runs. */
  constructor(
    private readonly free: () => boolean,
    private readonly end: () => Promise<void>,
  ) {}

  open(conversation: string | null): void {
    this.hold();
    this.editing = null;
    this.conversation = conversation;
    this.waiting = keptFor(conversation);
  }

  /** A new conversation got its name: what waits is now kept under it. */
  adopt(conversation: string): void {
    keep(null, []);
    this.conversation = conversation;
    this.keep();
  }

  add(text: string, files: AttachmentInfo[], places: PlacePart[] = [], quote = false): void {
    this.waiting.push({ key: crypto.randomUUID(), text, files, places, quote });
    this.keep();
    this.wake();
  }

  change(key: string, text: string): void {
    const draft = this.waiting.find((other) => other.key === key);
    if (draft) draft.text = text;
    this.editing = null;
    this.keep();
    this.wake();
  }

  remove(key: string): void {
    this.waiting = this.waiting.filter((draft) => draft.key !== key);
    this.keep();
    if (this.waiting.length === 0) this.hold();
  }

  take(): Draft[] {
    this.hold();
    const drafts = $state.snapshot(this.waiting);
    this.waiting = [];
    this.keep();
    return drafts;
  }

  /** Lets them wait again in the conversation that they were written for, open or not. */
  putBack(drafts: Draft[], conversation: string | null): void {
    if (conversation !== this.conversation) return keep(conversation, [...drafts, ...keptFor(conversation)]);
    this.waiting = [...drafts, ...this.waiting];
    this.keep();
  }

  /** Begins the pause anew: after a message was added, after typing, after an answer ended. */
  wake(): void {
    this.hold();
    if (this.waiting.length === 0 || this.editing !== null || !this.free()) return;
    this.counting = true;
    this.beat += 1;
    this.timer = setTimeout(() => {
      this.counting = false;
      void this.end();
    }, preferences.kept.pause * 1000);
  }

  /** Someone types on: the turn is not over. */
  typing(): void {
    if (this.counting) this.wake();
  }

  hold(): void {
    clearTimeout(this.timer);
    this.counting = false;
  }

  edit(key: string): void {
    this.hold();
    this.editing = key;
  }

  private keep(): void {
    keep(this.conversation, this.waiting);
  }
}

const keyOf = (conversation: string | null): string => STORE + (conversation ?? "new");

const keptFor = (conversation: string | null): Draft[] => JSON.parse(sessionStorage.getItem(keyOf(conversation)) ?? "[]") as Draft[];

function keep(conversation: string | null, drafts: Draft[]): void {
  if (drafts.length) sessionStorage.setItem(keyOf(conversation), JSON.stringify(drafts));
  else sessionStorage.removeItem(keyOf(conversation));
}
