/** The opened conversation: its tree, the path that is shown, the answers that come, and every change a person makes to it. */

import {
  addMessage,
  changeConversation,
  choose,
  createConversation,
  deleteMessage,
  erase,
  hideMessage,
  readConversation,
  rewriteMessage,
  undo,
} from "../api/calls";
import type { AnswerRequest, AttachmentInfo, Choice, FilePart, Message, PlacePart, SentPart } from "../api/types";
import { t } from "../texts/texts";
import { growTree, pathTo, textOf, tipOf } from "../tree";
import { turns } from "../turns";
import { catalog } from "./catalog.svelte";
import { library } from "./library.svelte";
import { LiveAnswer } from "./live.svelte";
import { attempt, notices } from "./notices.svelte";
import { places, pointedOf } from "./places.svelte";
import { type Answering, type Comparison, type ConversationSettings, preferences } from "./preferences.svelte";
import { type Draft, Queue } from "./queue.svelte";
import { addressOf, router } from "./route.svelte";

const ALTERNATIVES = 5;
const TITLE_LENGTH = 60;
/** How long after a stopped stream its stored rest is looked for. */
const SETTLE_MS = 250;

export class Chat {
  id = $state<string | null>(null);
  title = $state("");
  messages = $state.raw<Message[]>([]);
  head = $state<string | null>(null);
  loading = $state(false);
  live = $state.raw<LiveAnswer[]>([]);
  settings = $state<ConversationSettings>(preferences.of(null));
  /** Files that go with the message being written. */
  files = $state<AttachmentInfo[]>([]);
  readonly queue: Queue;

  tree = $derived(growTree(this.messages));
  /** The two answers that wait for a choice; none where one of them is gone, or another branch was gone to. */
  comparison = $derived.by((): Comparison | null => {
    const waiting = this.settings.undecided;
    if (!waiting || this.live.length) return null;
    const there = waiting.answers.every((id) => this.tree.parent.get(id) === waiting.turn && !this.tree.byId.get(id)?.deleted);
    return there && waiting.answers.includes(this.head ?? "") ? waiting : null;
  });
  path = $derived(pathTo(this.tree, this.head));
  /** The path, or, while two answers wait for a choice, what they both answer. */
  shown = $derived(this.comparison ? pathTo(this.tree, this.comparison.turn) : this.path);
  /** Whether messages are being stored that will be answered, or copied. */
  private storing = $state(false);
  /** Why there is no answer to a message: what the server said of it. */
  private failed = $state.raw<{ turn: string; why: string } | null>(null);
  /** The message at the end that nobody answers, with the reason where there is one; null where all is answered, or will be. */
  unanswered = $derived.by((): { turn: string; why: string } | null => {
    const last = this.shown.at(-1);
    if (last?.role !== "user" || last.hidden || this.live.length || this.comparison || this.storing || this.queue.waiting.length) return null;
    return { turn: last.id, why: this.failed?.turn === last.id ? this.failed.why : "" };
  });
  answering = $derived(this.live.some((answer) => !answer.finished));

  constructor() {
    this.queue = new Queue(
      () => !this.answering,
      () => this.sendAll(),
    );
  }

  /** How often a conversation was opened: whoever waits for the server sees by it that another one is shown now. */
  private openings = 0;

  /** Opens a conversation, or a new one for null. */
  async open(id: string | null): Promise<void> {
    if (id === this.id && (id !== null || this.messages.length === 0)) return;
    this.openings += 1;
    this.leave();
    places.leave();
    this.id = id;
    this.title = "";
    this.messages = [];
    this.head = null;
    this.settings = preferences.of(id);
    this.queue.open(id);
    if (id === null) return;
    this.loading = true;
    await attempt(() => this.reload());
    this.loading = false;
  }

  async reload(): Promise<void> {
    const id = this.id;
    if (id === null) return;
    const conversation = await readConversation(id);
    if (id !== this.id) return;
    this.title = conversation.title;
    this.messages = conversation.messages;
    this.head = conversation.head;
  }

  /** Lets a file go with the message being written. What cannot be read would be refused: its name alone goes along. */
  take(file: AttachmentInfo, instead?: string): void {
    const taken: AttachmentInfo = file.text?.reason ? { ...file, read: "none" } : file;
    if (instead === undefined) this.files = [...this.files, taken];
    else this.files = this.files.map((other) => (other.id === instead ? taken : other));
  }

  keepSettings(): void {
    preferences.keep(this.id, $state.snapshot(this.settings));
  }

  /** Answers under way are the server's to finish only while someone listens: leaving ends them. */
  private leave(): void {
    for (const answer of this.live) answer.stop();
    this.live = [];
  }

  /** Lets two answers wait for a choice, or none. */
  private wait(comparison: Comparison | null): void {
    if (!comparison && !this.settings.undecided) return;
    this.settings.undecided = comparison;
    this.keepSettings();
  }

  /** Goes on with the first of the two answers, without a choice. */
  leaveUndecided(): void {
    this.wait(null);
  }

  /** Ends the turn: what waits is stored message by message, then answered, if its conversation is still the open one. */
  async sendAll(): Promise<void> {
    if (this.sending) this.late = true;
    if (this.sending || this.answering || this.queue.waiting.length === 0) return;
    this.sending = true;
    const { openings } = this;
    let { id, head: at } = this;
    const drafts = this.queue.take();
    const quote = drafts.some((draft) => draft.quote);
    this.wait(null);
    this.storing = true;
    const good = await attempt(async () => {
      id ??= await this.make(drafts[0]?.text ?? "", openings);
      for (const draft of [...drafts]) {
        at = (await this.add(id, { role: "user", parent: at, parts: partsOf(draft) })).id;
        drafts.shift(); // stored: a later failure puts back only the rest
      }
      if (id === this.id) void this.answer(at, quote);
    });
    this.sending = false;
    this.storing = false;
    if (!good) this.queue.putBack(drafts, id);
    if (this.late) this.queue.wake();
    this.late = false;
    if (openings !== this.openings) void library.load();
  }

  /** Stops the answer that is being written and lets what waits be read now. */
  async interrupt(): Promise<void> {
    await this.stop();
    await this.sendAll();
  }

  async stop(): Promise<void> {
    for (const answer of this.live) answer.stop();
    await this.settled;
  }

  private sending = false;
  /** Whether more was to be sent, perhaps in another conversation, while messages were being stored. */
  private late = false;
  private settled: Promise<void> = Promise.resolve();
  private readonly inTurn = turns();

  /** Asks for an answer to what is at `parent` (the head when not said); two answers when two are compared. */
  answer(parent: string | null = this.head, quote = false): Promise<void> {
    if (!this.answering) this.settled = this.answerOnce(parent, quote);
    return this.settled;
  }

  private async answerOnce(parent: string | null, quote: boolean): Promise<void> {
    const id = this.id;
    if (id === null || parent === null) return;
    this.head = parent;
    this.failed = null;
    await catalog.modelsRead;
    if (this.id !== id) return; // another conversation was opened meanwhile
    const other = this.settings.other;
    const requests = [this.settings, ...(other ? [other] : [])].map((how) => requestFor(how, parent, quote));
    const [first, second] = requests;
    // the same asked twice with one seed would be the same answer twice
    if (second && JSON.stringify(first) === JSON.stringify(second)) second.settings.seed += 1;
    const asked = requests.map((request) => new LiveAnswer(id, request));
    this.live = asked;
    notices.say(t("live.answering"));
    await Promise.all(asked.map((answer) => answer.run()));
    if (this.id === id) await this.settle(id, asked, parent);
    if (this.id !== id) return;
    void library.load();
    this.queue.wake();
  }

  private async settle(id: string, answers: LiveAnswer[], parent: string): Promise<void> {
    const made = answers.flatMap((answer) => answer.asMessage() ?? []);
    const clean = answers.every((answer) => answer.reason !== "cancelled" && answer.reason !== "error");
    for (const answer of answers) if (answer.failure) notices.fail(new Error(answer.failure));
    const why = answers.find((answer) => answer.failure)?.failure;
    this.failed = why ? { turn: parent, why } : null;
    if (!clean) {
      await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
      if (this.id === id) await attempt(() => this.reload());
      if (this.id !== id) return;
    }
    const missing = made.filter((message) => !this.tree.byId.has(message.id));
    if (clean) this.messages = [...this.messages, ...missing];
    const stored = made.filter((message) => this.tree.byId.has(message.id));
    this.head = stored[0]?.id ?? parent;
    this.live = [];
    if (clean && stored.length === 2) {
      const [one, other] = stored.map((message) => message.id) as [string, string];
      // a choice should not know which answerer is which
      this.wait({ turn: parent, answers: Math.random() < 0.5 ? [one, other] : [other, one] });
    }
    const words = stored.map(textOf).join("\n\n");
    notices.say(words ? t("live.answered", { text: words }) : t("live.ended"));
  }

  /** Makes the new conversation that was opened as number `openings`; it is shown unless another one is by then. Gives its id. */
  private async make(firstText: string, openings: number): Promise<string> {
    const settings = $state.snapshot(this.settings);
    const words = firstText.replace(/\s+/g, " ").trim();
    const title = words.length > TITLE_LENGTH ? `${words.slice(0, TITLE_LENGTH)}…` : words;
    const made = await createConversation(title || undefined);
    const shown = openings === this.openings;
    preferences.keep(made.id, shown ? $state.snapshot(this.settings) : settings);
    if (!shown) return made.id;
    this.id = made.id;
    this.title = made.title || title;
    this.queue.adopt(made.id);
    router.rename(addressOf(made.id));
    return made.id;
  }

  private async add(conversation: string, message: { role: Message["role"]; parts: SentPart[]; parent: string | null; edited_from?: string }): Promise<Message> {
    const stored = await addMessage(conversation, message);
    if (conversation !== this.id) return stored;
    if (!this.tree.byId.has(stored.id)) this.messages = [...this.messages, stored];
    this.head = stored.id;
    return stored;
  }

  /** Puts `text` in the message's place and asks again: a new branch, the old one stays. What else was said in the same turn comes along. Gives the new message's id. */
  async editAndRerun(message: Message, text: string): Promise<string | null> {
    let made: string | null = null;
    const after = this.path.slice(this.path.findIndex((other) => other.id === message.id) + 1);
    const end = after.findIndex((other) => other.role !== "user");
    const turn = end < 0 ? after : after.slice(0, end);
    // The answer is one of the figures where the one before was, as long as there still are places that have any.
    const placed = [message, ...turn].some((said) => said.parts.some((part) => part.type === "place" && part.figures.length > 0));
    const coming = this.live.find(({ request }) => request.parent === (turn.at(-1) ?? message).id)?.request; // it may still be written
    const quote = placed && (after[turn.length]?.generation ?? coming)?.settings?.quote === true;
    const before = this.tree.parent.get(message.id) ?? null;
    const head = await this.branch(async (conversation) => {
      let said = await this.add(conversation, edited(message, text, before));
      made = said.id;
      for (const later of turn) said = await this.add(conversation, edited(later, textOf(later), said.id));
      return said.id;
    }, t("edit.rerunDone"));
    if (head) void this.answer(head, quote);
    return made;
  }

  /** Puts `text` in the message's place and keeps what follows: copies of it hang below the new message, whose id it gives. */
  async editOnly(message: Message, text: string): Promise<string | null> {
    let made: string | null = null;
    const end = this.head ?? message.id;
    await this.branch(async (conversation) => {
      const { head, message: first } = await rewriteMessage(conversation, { message: message.id, parts: edited(message, text, null).parts, end });
      if (conversation === this.id) await this.reload();
      if (conversation === this.id) this.head = head;
      made = first;
      return head;
    }, t("edit.onlyDone"));
    return made;
  }

  /** Another answer to the same turn. */
  async again(message: Message): Promise<void> {
    const parent = this.tree.parent.get(message.id) ?? null;
    await this.answer(parent, message.generation?.settings?.quote === true);
  }

  /** Work that ends in another branch, whose last message it gives; null where it failed, or its conversation is not the open one any more. */
  private async branch(work: (conversation: string) => Promise<string>, done: string): Promise<string | null> {
    const conversation = this.id;
    const before = this.head;
    if (conversation === null) return null;
    let head: string | null = null;
    this.wait(null);
    await this.stop();
    this.storing = true;
    const good = await attempt(async () => {
      head = await work(conversation);
      await attempt(() => changeConversation(conversation, { head }));
    });
    this.storing = false;
    if (good) notices.show(done, () => this.go(before, conversation));
    else if (conversation === this.id) this.head = before;
    return conversation === this.id ? head : null;
  }

  /** Shows another branch. Of a conversation that is not open any more, the branch that will be shown. */
  async go(head: string | null, conversation = this.id): Promise<void> {
    if (conversation === null) return;
    if (conversation === this.id) {
      this.wait(null);
      this.head = head;
    }
    await this.inTurn(() => attempt(() => changeConversation(conversation, { head })));
  }

  goThrough(message: string): Promise<void> {
    return this.go(tipOf(this.tree, message));
  }

  async remove(message: Message, mode: "this" | "below"): Promise<void> {
    await attempt(async () => {
      const { id: conversation, head: before } = this;
      const ticket = await deleteMessage(message.id, mode);
      if (conversation === this.id) await this.reload();
      if (conversation === this.id) this.stepUp(before);
      notices.show(t(mode === "this" ? "delete.thisDone" : "delete.belowDone"), async () => {
        await undo(ticket.undo);
        if (conversation === this.id) await this.reload();
        await this.go(before, conversation);
      });
    });
  }

  /** Where the shown end is gone, the nearest message above it is shown, with its newest branch. */
  private stepUp(before: string | null): void {
    let at = this.head ?? before;
    while (at !== null && (!this.tree.byId.has(at) || this.tree.byId.get(at)?.deleted)) at = this.tree.parent.get(at) ?? null;
    this.head = at;
  }

  async hide(message: Message, hidden: boolean): Promise<void> {
    const set = async (value: boolean): Promise<void> => {
      await hideMessage(message.id, value);
      this.change(message.id, { hidden: value });
    };
    await attempt(async () => {
      await set(hidden);
      notices.show(t(hidden ? "hide.done" : "hide.shown"), () => set(!hidden));
    });
  }

  /** Puts what changed about a message where the conversation is, so that it is still there when the message is drawn anew. */
  change(message: string, change: Partial<Pick<Message, "hidden" | "feedback">>): void {
    this.messages = this.messages.map((other) => (other.id === message ? { ...other, ...change } : other));
  }

  async eraseMessage(message: Message): Promise<void> {
    await attempt(async () => {
      const { id: conversation, head: before } = this;
      await erase({ message: message.id });
      if (conversation === this.id) await this.reload();
      if (conversation === this.id) this.stepUp(before);
      notices.show(t("erase.done"));
    });
  }

  /** Keeps which of two answers is better; the better one goes on. */
  async decide(choice: Pick<Choice, "chosen" | "rejected" | "strength" | "both_bad">): Promise<void> {
    const { id, comparison } = this;
    if (id === null || comparison === null) return;
    await attempt(async () => {
      await choose({ conversation: id, turn: comparison.turn, ...choice, shown: comparison.answers });
      if (id === this.id) this.wait(null);
      else preferences.keep(id, { ...preferences.of(id), undecided: null });
      if (choice.chosen) await this.go(choice.chosen, id);
      notices.show(t("compare.kept"));
    });
  }
}

const edited = (message: Message, text: string, parent: string | null) => ({
  role: message.role,
  parent,
  edited_from: message.id,
  parts: [
    ...message.parts.filter((part): part is PlacePart => part.type === "place").map(pointedOf),
    { type: "text" as const, text },
    ...message.parts.filter((part): part is FilePart => part.type === "file"),
  ],
});

/** Places come first, so that the question stands last where the model reads it. */
const partsOf = ({ text, files, places = [] }: Draft): SentPart[] => [
  ...places.map(pointedOf),
  ...(text ? [{ type: "text" as const, text }] : []),
  ...files.map((file) => ({ type: "file" as const, attachment: file.id, name: file.name, ...(file.read ? { read: file.read } : {}) })),
];

function requestFor(how: Answering, parent: string, quote: boolean): AnswerRequest {
  const { temperature, top_p, max_tokens, seed } = how.sampling;
  // seed 0 asks for a new one each time, so that "again" gives another answer
  const drawn = seed || 1 + Math.floor(Math.random() * 2 ** 31);
  return {
    parent,
    model: catalog.known(how.model),
    settings: { temperature, top_p, max_tokens, seed: drawn, alternatives: ALTERNATIVES, token_events: true, ...(quote ? { quote } : {}) },
    levers: catalog.inOrder($state.snapshot(how.levers)),
    store: true,
  };
}

export const chat = new Chat();
