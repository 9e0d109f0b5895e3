/** What the page tells a person in passing: failures, what was done and how to take it back, and words for screen readers. */

import { ApiError } from "../api/http";
import { t } from "../texts/texts";
import { turns } from "../turns";

export interface Notice {
  key: number;
  text: string;
  kind: "done" | "failure";
  undo?: () => Promise<void>;
  /** Whether it is about what is beside every page. */
  everywhere?: boolean;
}

const STAY_MS = 9000;
const SHOWN = 3;
/** Steps that can be taken back by keyboard after their notices are gone. */
const STEPS = 50;

class Notices {
  list = $state<Notice[]>([]);
  /** Read out by screen readers, never shown. */
  spoken = $state("");
  private steps: Notice[] = [];
  private next = 1;
  private readonly timers = new Map<number, ReturnType<typeof setTimeout>>();
  private readonly inTurn = turns();

  show(text: string, undo?: () => Promise<void>, everywhere = false): void {
    const notice: Notice = { key: this.next++, text, kind: "done", everywhere, ...(undo ? { undo } : {}) };
    if (undo) this.steps = [...this.steps.slice(1 - STEPS), notice];
    this.add(notice);
  }

  fail(cause: unknown): void {
    this.add({ key: this.next++, text: wording(cause), kind: "failure" });
  }

  dismiss(key: number): void {
    this.hold(key);
    this.list = this.list.filter((notice) => notice.key !== key);
  }

  /** Another page or conversation is gone to: what was said of the one before goes, but for steps that can be taken back from anywhere. */
  leave(): void {
    for (const { key, everywhere, undo } of this.list) if (!everywhere && !undo) this.dismiss(key);
  }

  /** Keeps a notice that somebody looks at; `release` lets it go in its time. */
  hold(key: number): void {
    clearTimeout(this.timers.get(key));
    this.timers.delete(key);
  }

  release(notice: Notice): void {
    this.hold(notice.key);
    const stay = notice.kind === "failure" ? STAY_MS * 2 : STAY_MS;
    this.timers.set(notice.key, setTimeout(() => this.dismiss(notice.key), stay));
  }

  /** Takes back the latest step that can be taken back, whether or not its notice is still there. */
  async undoLatest(): Promise<void> {
    const latest = this.steps.at(-1);
    if (latest) await this.undo(latest);
  }

  async undo(notice: Notice): Promise<void> {
    this.dismiss(notice.key);
    this.steps = this.steps.filter((step) => step.key !== notice.key);
    await this.inTurn(() =>
      attempt(async () => {
        await notice.undo?.();
        this.say(t("notice.undone"));
      }),
    );
  }

  say(text: string): void {
    this.spoken = text;
  }

  private add(notice: Notice): void {
    this.list = [...this.list.slice(1 - SHOWN), notice];
    this.release(notice);
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
