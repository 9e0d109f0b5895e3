/** What this browser remembers: look, habits, and per conversation the model, sampling, levers and second answerer. */

import type { Sampling } from "../api/types";

export type Theme = "system" | "light" | "dark";

/** Who answers, and how. */
export interface Answering {
  model: string;
  sampling: Sampling;
  levers: Record<string, Record<string, unknown>>;
}

export interface ConversationSettings extends Answering {
  /** A second answerer for every turn, or null. */
  other: Answering | null;
  /** Two answers that wait for a choice, kept so that they still do when the page is opened again. */
  undecided?: Comparison | null;
}

/** Two answers to the same turn, waiting for a person's choice. Their order hides which answerer is which. */
export interface Comparison {
  turn: string;
  answers: [string, string];
}

const STORE = "steelyard.preferences";
const PER_CONVERSATION = "steelyard.conversation.";
export const SAMPLING: Sampling = { temperature: 0.7, top_p: 0.95, max_tokens: 512, seed: 0 };

interface Kept {
  theme: Theme;
  /** Seconds without typing after which waiting messages are sent; 0 sends them at once. */
  pause: number;
  confidence: boolean;
  model: string;
}

function load<T extends object>(key: string, otherwise: T): T {
  const text = localStorage.getItem(key);
  if (text === null) return otherwise;
  try {
    return { ...otherwise, ...(JSON.parse(text) as Partial<T>) };
  } catch {
    localStorage.removeItem(key); // what another version of the page, or a hand, left there unreadable
    return otherwise;
  }
}

class Preferences {
  kept = $state<Kept>(load(STORE, { theme: "system", pause: 1.5, confidence: false, model: "" }));

  change(change: Partial<Kept>): void {
    Object.assign(this.kept, change);
    localStorage.setItem(STORE, JSON.stringify(this.kept));
    this.applyTheme();
  }

  applyTheme(): void {
    const { theme } = this.kept;
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  }

  /** The settings of a conversation, or those a new one begins with. */
  of(conversation: string | null): ConversationSettings {
    return load<ConversationSettings>(PER_CONVERSATION + (conversation ?? "new"), {
      model: this.kept.model,
      sampling: { ...SAMPLING },
      levers: {},
      other: null,
    });
  }

  keep(conversation: string | null, settings: ConversationSettings): void {
    localStorage.setItem(PER_CONVERSATION + (conversation ?? "new"), JSON.stringify(settings));
  }

  forget(conversation: string | null): void {
    localStorage.removeItem(PER_CONVERSATION + (conversation ?? "new"));
  }
}

export const preferences = new Preferences();
