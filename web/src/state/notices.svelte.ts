/** What the page tells a person in passing: failures, what was done and how to take it back, and words for screen readers. */

import { ApiError } from "../api/http";
import { t } from "../texts/texts";

export interface Notice {
  key: number;
  text: string;
  kind: "done" | "failure";
  undo?: () => Promise<void>;
}

const STAY_MS = 9000;

class Notices {
  list = $state<Notice[]>([]);
  /** Read out by screen readers, never shown. */
  spoken = $state("");
  private next = 1;

  show(text: string, undo?: () => Promise<void>): void {
    this.add({ key: this.next++, text, kind: "done", ...(undo ? { undo } : {}) });
  }

  fail(cause: unknown): void {
    this.add({ key: this.next++, text: wording(cause), kind: "failure" });
  }

  dismiss(key: number): void {
    this.list = this.list.filter((notice) => notice.key !== key);
  }

  /** Takes back the latest step that can be taken back. */
  async undoLatest(): Promise<void> {
    const latest = this.list.findLast((notice) => notice.undo);
    if (latest) await this.undo(latest);
  }

  async undo(notice: Notice): Promise<void> {
    this.dismiss(notice.key);
    await attempt(async () => {
      await notice.undo?.();
      this.say(t("notice.undone"));
    });
  }

  say(text: string): void {
    this.spoken = text;
  }

  private add(notice: Notice): void {
    this.list = [...this.list.slice(-3), notice];
    setTimeout(() => this.dismiss(notice.key), notice.kind === "failure" ? STAY_MS * 2 : STAY_MS);
  }
}

export const notices = new Notices();

export function wording(cause: unknown): string {
  if (cause instanceof ApiError) return cause.status === 0 ? t("error.unreachable") : cause.message;
  return cause instanceof Error ? cause.message : String(cause);
}

/** Runs `work`; its failure is shown, never lost. Returns whether it went well. */
export async function attempt(work: () => Promise<unknown>): Promise<boolean> {
  try {
    await work();
    return true;
  } catch (cause) {
    notices.fail(cause);
    return false;
  }
}
