/** The list of conversations: search, rename, delete and take back. */

import { changeConversation, deleteConversation, erase, listConversations, restoreConversation } from "../api/calls";
import type { ConversationSummary } from "../api/types";
import { t } from "../texts/texts";
import { attempt, notices } from "./notices.svelte";

const SEARCH_WAIT_MS = 200;

class Library {
  list = $state.raw<ConversationSummary[]>([]);
  query = $state("");
  next = $state<string | null>(null);
  read = $state(false);
  private turn = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;

  async load(): Promise<void> {
    const turn = ++this.turn;
    await attempt(async () => {
      const page = await listConversations(this.query.trim(), null);
      if (turn !== this.turn) return; // a later search has overtaken this one
      this.list = page.conversations;
      this.next = page.next;
      this.read = true;
    });
  }

  async more(): Promise<void> {
    const { next, turn } = this;
    if (next === null) return;
    await attempt(async () => {
      const page = await listConversations(this.query.trim(), next);
      if (turn !== this.turn || next !== this.next) return; // asked for twice
      this.list = [...this.list, ...page.conversations];
      this.next = page.next;
    });
  }

  search(query: string): void {
    this.query = query;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.load(), SEARCH_WAIT_MS);
  }

  async rename(id: string, title: string): Promise<void> {
    await attempt(() => changeConversation(id, { title }));
    await this.load();
  }

  /** Removes text, tokens, files and feedback for good. */
  async erase(id: string): Promise<boolean> {
    const gone = await attempt(() => erase({ conversation: id }));
    if (gone) {
      this.list = this.list.filter((conversation) => conversation.id !== id);
      notices.show(t("erase.done"), undefined, true);
    }
    return gone;
  }

  async remove(id: string, title: string): Promise<boolean> {
    const gone = await attempt(() => deleteConversation(id));
    if (gone) {
      this.list = this.list.filter((conversation) => conversation.id !== id);
      notices.show(t("conversation.deleted", { title }), async () => {
        await restoreConversation(id);
        await this.load();
      });
    }
    return gone;
  }
}

export const library = new Library();
